"""A crystal as CIF text with every atom listed (P1), in numbers that read back to the last digit."""

import math

import numpy as np
from gemmi import cif

from screening.arrays import Float64
from screening.crystals.crystal import Crystal
from screening.crystals.elements import SYMBOLS
from screening.crystals.formats.cif_block import CELL, ID, LABEL_NAME, LABEL_VALUE
from screening.errors import InputError


def write_cif(crystal: Crystal) -> str:
    """Write one data block: cell, atoms, id and labels; `Cif` reads it back.

    A CIF holds lengths and angles, so the crystal comes back rotated to a along x and b in the xy plane, and a
    left-handed lattice comes back as its mirror image; distances and fractional coordinates stay. Forces and stress
    have no place in a CIF and are left out.
    """
    if not all(crystal.pbc):
        raise InputError(
            f"{crystal.id}: a CIF can only hold crystals that are periodic in three directions, got pbc "
            f"{crystal.pbc}; write it as extxyz"
        )
    fractional = np.linalg.solve(crystal.lattice.T, crystal.positions.T).T
    lines = [f"data_{_block_name(crystal.id)}", _item(ID, crystal.id), "_space_group_IT_number 1"]
    lines += [f"{tag} {value!r}" for tag, value in zip(CELL, parameters_of(crystal.lattice), strict=True)]
    lines += ["loop_", "_space_group_symop_operation_xyz", "'x, y, z'"]
    lines += ["loop_", "_atom_site_label", "_atom_site_type_symbol"]
    lines += [f"_atom_site_fract_{axis}" for axis in "xyz"] + ["_atom_site_occupancy"]
    for row, (number, (x, y, z)) in enumerate(zip(crystal.numbers.tolist(), fractional.tolist(), strict=True)):
        lines.append(f"{SYMBOLS[number]}{row} {SYMBOLS[number]} {x!r} {y!r} {z!r} 1")
    if crystal.labels:
        lines += ["loop_", LABEL_NAME, LABEL_VALUE]
        lines += [f"{cif.quote(name)}\n{float(value)!r}" for name, value in crystal.labels.items()]
    return "\n".join(lines) + "\n"


def parameters_of(lattice: Float64) -> list[float]:
    """The lengths of a lattice in angstrom and its angles in degrees, accurate for flat angles too."""
    a, b, c = lattice
    return [*(float(np.linalg.norm(v)) for v in lattice), _angle(b, c), _angle(a, c), _angle(a, b)]


def _angle(v: Float64, w: Float64) -> float:
    # atan2 keeps the digits that an arc cosine loses near 0 and 180 degrees.
    return math.degrees(math.atan2(float(np.linalg.norm(np.cross(v, w))), float(v @ w)))


def _item(tag: str, text: str) -> str:
    quoted = cif.quote(text)
    return f"{tag}\n{quoted}" if quoted.startswith(";") else f"{tag} {quoted}"


def _block_name(id: str) -> str:
    """The id as a block name, which takes printable ASCII without blanks."""
    return "".join(letter if "!" <= letter <= "~" else "_" for letter in id) or "crystal"
