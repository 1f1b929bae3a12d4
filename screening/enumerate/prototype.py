"""A prototype: a geometry whose sites elements are put on.

A *site* is what one element fills: one Wyckoff position, or several that belong together, such as all the oxygen of a
garnet. The cell is primitive and has no size of its own: a volume predictor sets it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from screening.arrays import Float64, Int64


@dataclass(frozen=True)
class Roles:
    """Which sites a tolerance factor is of: the large cation's, the small cations' (averaged) and the anion's."""

    large: str
    small: tuple[str, ...]
    anion: str


@dataclass(frozen=True, eq=False)
class Prototype:
    """A geometry in its primitive cell.

    `lattice` (3, 3), rows are vectors, in any unit; `fractional` (atoms, 3); `site_of` (atoms,) is the site of each
    atom as an index into `sites`. `original` holds the elements of the crystal it was taken from, by site, where
    there is one.
    """

    name: str
    title: str
    formula: str
    group: int
    sites: tuple[str, ...]
    lattice: Float64
    fractional: Float64
    site_of: Int64
    parameters: Mapping[str, float] = field(default_factory=dict)
    roles: Roles | None = None
    original: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.site_of)

    @property
    def volume(self) -> float:
        """Of the cell, in the cube of the lattice's unit."""
        return abs(float(np.linalg.det(self.lattice)))

    @cached_property
    def counts(self) -> Int64:
        """Atoms of each site in the cell."""
        return np.bincount(self.site_of, minlength=len(self.sites))

    @cached_property
    def units(self) -> tuple[int, ...]:
        """Atoms of each site in the smallest formula unit."""
        divisor = math.gcd(*self.counts.tolist())
        return tuple(count // divisor for count in self.counts.tolist())

    @property
    def pattern(self) -> str:
        """What it is made of, sites in order: A B X3, or Fe1(2) where a number would be mistaken for part of a name."""
        return " ".join(_counted(site, n) for site, n in zip(self.sites, self.units, strict=True))


def _counted(site: str, count: int) -> str:
    if count == 1:
        return site
    return f"{site}({count})" if site[-1].isdigit() else f"{site}{count}"
