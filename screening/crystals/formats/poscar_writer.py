"""A crystal as a POSCAR for VASP 5 and 6, in numbers that read back to the last digits."""

import numpy as np

from screening.crystals.convert import require_volume
from screening.crystals.crystal import Crystal
from screening.crystals.elements import SYMBOLS
from screening.crystals.formats.xyz_writer import symbols_of
from screening.crystals.formulas import conventional_formulas, element_amounts
from screening.errors import InputError


def write_poscar(crystal: Crystal) -> str:
    """Write formula and id, lattice, elements with their numbers of atoms, and fractional coordinates.

    Atoms are grouped by element, in the order in which elements first come. VASP refuses a left-handed lattice: its
    three vectors are turned round, which spans the same crystal. Labels, forces and stress have no place in a POSCAR.
    """
    if not all(crystal.pbc):
        raise InputError(
            f"{crystal.id}: a POSCAR can only hold crystals that are periodic in three directions, got pbc "
            f"{crystal.pbc}; write it as extxyz"
        )
    require_volume(crystal)
    symbols_of(crystal)
    lattice = crystal.lattice if np.linalg.det(crystal.lattice) > 0 else -crystal.lattice
    elements, first, counts = np.unique(crystal.numbers, return_index=True, return_counts=True)
    order = np.argsort(first)
    atoms = np.argsort(np.argsort(order)[np.searchsorted(elements, crystal.numbers)], kind="stable")
    fractional = np.linalg.solve(lattice.T, crystal.positions[atoms].T).T
    lines = [_title(crystal), "1.0"]
    lines += [_row(vector) for vector in lattice.tolist()]
    lines += [" ".join(SYMBOLS[z] for z in elements[order].tolist()), " ".join(map(str, counts[order].tolist()))]
    lines += ["Direct", *(_row(place) for place in fractional.tolist())]
    return "\n".join(lines) + "\n"


def _title(crystal: Crystal) -> str:
    amounts = element_amounts(crystal.numbers, np.array([0, len(crystal.numbers)]))
    words = f"{conventional_formulas(amounts, 1)[0]} {crystal.id}"
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def _row(numbers: list[float]) -> str:
    return " ".join(map(repr, numbers))
