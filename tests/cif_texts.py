"""CIF texts for tests, a reader of them, and the comparison of crystals given in different cells."""

from collections.abc import Sequence

import numpy as np
import pytest
from entries import Entry, entries
from pymatgen.core import Structure
from spacegroups import sorted_distances

from screening.arrays import Float64
from screening.crystals.crystal import Crystal
from screening.crystals.formats.cif import Cif

CIF = Cif()

SALT = """\
data_salt
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na+ 0 0 0 1
Cl1 Cl- 0.5 0.5 0.5 1.0
"""


def read(text: str | bytes, name: str = "file.cif") -> list[Entry]:
    return entries(CIF, text.encode() if isinstance(text, str) else text, name)


def cell(*, a: object = 5.64, gamma: object = 90) -> str:
    return SALT.partition("_symmetry")[0].replace("a 5.64", f"a {a}").replace("gamma 90", f"gamma {gamma}")


def sites(*rows: str, tags: Sequence[str] = ("type_symbol", "fract_x", "fract_y", "fract_z"), a: object = 5.64) -> str:
    """A P1 file with these site rows."""
    return cell(a=a) + "loop_\n" + "".join(f"_atom_site_{tag}\n" for tag in tags) + "".join(f"{row}\n" for row in rows)


def fractional(crystal: Crystal) -> Float64:
    points: Float64 = crystal.positions @ np.linalg.inv(crystal.lattice).astype(np.float64)
    return points


def assert_same_crystal(ours: Crystal, numbers: Sequence[int], points: Float64, lattice: Float64, atol: float) -> None:
    """Compare composition, volume per atom and distances; either may be given in a larger cell of the other."""
    cells = len(ours) / len(numbers)
    counts, expected = np.bincount(ours.numbers, minlength=120), np.bincount(numbers, minlength=120)
    np.testing.assert_allclose(counts, cells * expected, atol=1e-9)
    assert abs(np.linalg.det(ours.lattice)) == pytest.approx(cells * abs(np.linalg.det(lattice)), rel=1e-5)
    distances, others = sorted_distances(fractional(ours), ours.lattice), sorted_distances(points, lattice)
    common = np.lcm(len(distances), len(others))
    np.testing.assert_allclose(
        np.repeat(distances, common // len(distances)), np.repeat(others, common // len(others)), atol=atol
    )


def numbers_of(structure: Structure) -> list[int]:
    return [site.specie.Z for site in structure]


def block(name: str, *, a: float = 5.64) -> str:
    return SALT.replace("data_salt", f"data_{name}").replace("a 5.64", f"a {a}").replace("'F m -3 m'", "'P 1'")
