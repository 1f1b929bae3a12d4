"""Crystals from a space group and Wyckoff positions: every image of every position, in the primitive cell.

The group is in the setting that gemmi calls its reference: origin 2 where there are two, hexagonal axes for
rhombohedral groups, unique axis b.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import gemmi
import numpy as np

from screening.arrays import Float64, Int64
from screening.errors import InputError
from screening.ops.symmetry import expand_sites

# Rows are the vectors of a primitive cell in those of the conventional one, by the letter of the centring.
PRIMITIVE: Mapping[str, Any] = {
    "P": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "A": [[1, 0, 0], [0, 1 / 2, -1 / 2], [0, 1 / 2, 1 / 2]],
    "C": [[1 / 2, -1 / 2, 0], [1 / 2, 1 / 2, 0], [0, 0, 1]],
    "F": [[0, 1 / 2, 1 / 2], [1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0]],
    "I": [[-1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [1 / 2, 1 / 2, -1 / 2]],
    "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
}
RATIOS = ("b/a", "c/a", "beta")
# Coordinates are kept to this many digits, so that what symmetry makes equal is equal.
DECIMALS = 12
SAME_POINT = 1e-4

_TERM = re.compile(r"([+-]?)(\d+/\d+|\d*\.?\d+)?([A-Za-z]\w*)?")


@dataclass(frozen=True, slots=True)
class Orbit:
    """A Wyckoff position, `32e u u u` in the table: how many points the conventional cell has, and the first."""

    multiplicity: int
    letter: str
    point: tuple[float, float, float]

    @classmethod
    def of(cls, text: str, parameters: Mapping[str, float]) -> "Orbit":
        """Read a position; its coordinates are sums of numbers, fractions and multiples of parameters."""
        label, *coordinates = text.split()
        if len(coordinates) != 3 or not re.fullmatch(r"\d+[a-zA-Z]", label):
            raise InputError(f"Wyckoff position {text!r}: expected a label and three coordinates, such as 32e u u u")
        x, y, z = (coordinate(term, parameters) for term in coordinates)
        return cls(int(label[:-1]), label[-1], (x, y, z))


def coordinate(text: str, parameters: Mapping[str, float]) -> float:
    """Work out a coordinate such as `3/4-2u`."""
    total, place = 0.0, 0
    while place < len(text):
        match = _TERM.match(text, place)
        if match is None or match.end() == place or not (match[2] or match[3]):
            raise InputError(f"coordinate {text!r} cannot be understood at {text[place:]!r}; write such as 3/4-2u")
        if match[3] and match[3] not in parameters:
            raise InputError(f"coordinate {text!r}: there is no parameter {match[3]!r}; known: {', '.join(parameters)}")
        value = float(Fraction(match[2])) if match[2] else 1.0
        value *= parameters[match[3]] if match[3] else 1.0
        total, place = total + (-value if match[1] == "-" else value), match.end()
    return total


@dataclass(frozen=True, slots=True, eq=False)
class Expanded:
    """The primitive cell, in units of the conventional a: lattice vectors as rows, atoms, and the orbit of each."""

    lattice: Float64
    fractional: Float64
    orbit_of: Int64


def expanded(number: int, orbits: Sequence[Orbit], parameters: Mapping[str, float]) -> Expanded:
    """Apply the operations of a space group to its positions; an orbit of another size than its label is an error."""
    symbol, rotations, translations = _operations(number)
    conventional = conventional_cell(number, parameters)
    points = np.array([orbit.point for orbit in orbits], np.float64)
    fractional, orbit_of = expand_sites(points, rotations, translations, conventional, SAME_POINT)
    for k, orbit in enumerate(orbits):
        found = int((orbit_of == k).sum())
        if found != orbit.multiplicity:
            raise InputError(
                f"position {orbit.multiplicity}{orbit.letter} at {orbit.point} has {found} images in space group "
                f"{number}, expected {orbit.multiplicity}; the parameters make it more or less special than it is"
            )
    cell = np.array(PRIMITIVE[symbol], np.float64)
    reduced, kept = _within(fractional @ np.linalg.inv(cell), orbit_of, round(1 / abs(np.linalg.det(cell))))
    # Adding zero makes -0 a 0.
    return Expanded(cell @ conventional + 0.0, reduced, kept)


def conventional_cell(number: int, parameters: Mapping[str, float]) -> Float64:
    """The conventional cell with a = 1, its vectors as rows; a along x, b in the plane of x and y."""
    b, c = parameters.get("b/a", 1.0), parameters.get("c/a", 1.0)
    if 143 <= number <= 194:
        return np.array([[1.0, 0.0, 0.0], [-0.5, math.sqrt(0.75), 0.0], [0.0, 0.0, c]])
    beta = math.radians(parameters.get("beta", 90.0))
    slant = (c * math.cos(beta), 0.0, c * math.sin(beta)) if "beta" in parameters else (0.0, 0.0, c)
    return np.array([[1.0, 0.0, 0.0], [0.0, b, 0.0], slant])


@lru_cache(maxsize=256)
def _operations(number: int) -> tuple[str, Float64, Float64]:
    """The centring letter of a group, and its rotations and translations."""
    group = next((g for g in gemmi.spacegroup_table() if g.number == number and g.is_reference_setting()), None)
    if group is None:
        raise InputError(f"there is no space group {number}; they are numbered 1 to 230")
    operations = list(group.operations())
    rotations = np.array([op.rot for op in operations], np.float64) / gemmi.Op.DEN
    translations = np.array([op.tran for op in operations], np.float64) / gemmi.Op.DEN
    return group.hm[0], rotations, translations


def _within(fractional: Float64, orbit_of: Int64, copies: int) -> tuple[Float64, Int64]:
    """One of the copies of each atom that a centred cell holds, moved into the primitive cell."""
    wrapped = np.round(fractional - np.floor(fractional + SAME_POINT), DECIMALS)
    rows: list[int] = []
    for k in np.lexsort((np.arange(len(wrapped)), orbit_of)).tolist():
        steps = wrapped[rows] - wrapped[k]
        if not rows or np.abs(steps - np.round(steps)).max(axis=1).min() > SAME_POINT:
            rows.append(k)
    assert len(rows) * copies == len(wrapped), "the centring of a group multiplies its atoms"
    return wrapped[rows] + 0.0, orbit_of[rows]
