"""Assignments to crystals: ids, elements, and the geometry of the prototype at the predicted size.

An id is the label of the prototype and the elements in the order of its sites, `perovskite-SrTiO3`, which tells the
assignment. A source names the specification and the oxidation states: `perovskites.toml#perovskite Sr+2 Ti+4 O-2`.
"""

from functools import cached_property

import numpy as np
import numpy.typing as npt

from screening.arrays import UInt8
from screening.crystals.batch import Crystals
from screening.crystals.elements import SYMBOLS
from screening.enumerate.space import Space
from screening.enumerate.volumes import repulsions, spacings

Texts = npt.NDArray[np.object_]

# Sizes are multiples of this (angstrom), so that the last bits of a table or of another processor do not matter, and
# cells of simple proportions have numbers with few digits, which halves them on disk.
GRAIN = 2.0**-20
SMALLEST_STATE = -9


class Builder:
    """Builds the crystals of one space; `origin` is the name of the specification."""

    def __init__(self, space: Space, origin: str, volume_scale: float = 1.0) -> None:
        self._space = space
        self._origin = origin
        prototype = space.prototype
        sites = len(prototype.sites)
        self._repulsions = repulsions(prototype.lattice, prototype.fractional, prototype.site_of, sites)
        self._shares = prototype.counts / len(prototype)
        # The cell has volume 1 per atom when its lattice is multiplied by this.
        self._factor = (volume_scale * len(prototype) / prototype.volume) ** (1 / 3)
        self._positions = prototype.fractional @ prototype.lattice

    def crystals(self, elements: UInt8) -> Crystals:
        """Build the crystals of accepted assignments (count, sites)."""
        prototype = self._space.prototype
        count, atoms = len(elements), len(prototype)
        size = np.rint(spacings(self._repulsions, self._shares, elements) * self._factor / GRAIN) * GRAIN
        return Crystals(
            ids=self._ids(elements),
            numbers=elements[:, prototype.site_of].ravel(),
            positions=(size[:, None, None] * self._positions).reshape(-1, 3),
            lattice=size[:, None, None] * prototype.lattice,
            pbc=np.ones((count, 3), np.bool_),
            atom_offsets=np.arange(0, (count + 1) * atoms, atoms, dtype=np.int32),
            sources=self._sources(elements),
        )

    def _ids(self, elements: UInt8) -> list[str]:
        parts = [self._symbols[s][elements[:, s]].tolist() for s in range(elements.shape[1])]
        return list(map("".join, zip([f"{self._space.label}-"] * len(elements), *parts, strict=True)))

    def _sources(self, elements: UInt8) -> list[str]:
        origin = f"{self._origin}#{self._space.label}"
        states = self._space.states(elements)
        if states is None:
            return [origin] * len(elements)
        ions = [_IONS[elements[:, s], states[:, s] - SMALLEST_STATE].tolist() for s in range(elements.shape[1])]
        return list(map(" ".join, zip([origin] * len(elements), *ions, strict=True)))

    @cached_property
    def _symbols(self) -> list[Texts]:
        """For each site what an element adds to a formula, by atomic number."""
        units = self._space.prototype.units
        return [np.array([f"{symbol}{'' if n == 1 else n}" for symbol in SYMBOLS], object) for n in units]


_IONS: Texts = np.array(
    [[f"{symbol}{state:+d}" for state in range(SMALLEST_STATE, -SMALLEST_STATE + 1)] for symbol in SYMBOLS], object
)
