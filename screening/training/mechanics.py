"""What mechanics adds to the labels of a crystal: volume and components of stress as columns, forces of its atoms."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from screening.arrays import Float32, Float64
from screening.crystals.batch import Crystals
from screening.crystals.volume import volumes_of
from screening.predictions import Target

VOLUME = Target("periodic_volume", "angstrom^3/cell")
"""NaN unless a crystal is periodic in all directions; such crystals alone have stress."""
PLACES: Final = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
STRESS = tuple(Target(f"stress_{'xyz'[i]}{'xyz'[j]}", "eV/angstrom^3") for i, j in PLACES)
TERMS: Mapping[str, str] = {"energy": "eV/atom", "force": "eV/angstrom", "stress": "eV/angstrom^3"}
"""What potentials are judged by, and its unit: energies, components of forces, components of stress."""
MECHANICAL = frozenset(target.name for target in (VOLUME, *STRESS))


def unit_of_term(name: str) -> str:
    """The unit of what a potential is judged by, of one source too (`force of mlearn.extxyz`); "" of all else."""
    return TERMS.get(name.partition(" of ")[0], "")


def mechanical_label(crystals: Crystals, name: str) -> Float64:
    """The volume, or a component of the stress, (crystals,), NaN where there is none."""
    volume = volumes_of(crystals.lattice, crystals.pbc)
    if name == VOLUME.name:
        return volume
    if crystals.stress is None:
        return np.full(len(crystals), np.nan)
    i, j = PLACES[[target.name for target in STRESS].index(name)]
    found: Float64 = np.where(np.isnan(volume), np.nan, (crystals.stress[:, i, j] + crystals.stress[:, j, i]) / 2)
    return found


def forces_of(crystals: Crystals) -> Float32:
    """The forces on all atoms, NaN where missing."""
    given = crystals.forces
    return np.full(crystals.positions.shape, np.nan, np.float32) if given is None else given.astype(np.float32)
