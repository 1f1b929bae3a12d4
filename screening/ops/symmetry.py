"""Symmetry operations applied to sites; reference_symmetry.py says what is right."""

from screening.ops import core
from screening.ops.core import Array


def expand_sites(
    fractional: Array, rotations: Array, translations: Array, lattice: Array, tolerance: float
) -> tuple[Array, Array]:
    """Apply symmetry operations to sites and merge images closer than the tolerance: (positions, site of each)."""
    fractions, sites = core.native.expand_sites(fractional, rotations, translations, lattice, tolerance)
    return fractions, sites
