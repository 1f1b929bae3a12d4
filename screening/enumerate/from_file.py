"""A prototype from a user's own crystal, in any format that can be read.

Its sites are its elements; `Fe1`, `Fe2`, ... name the symmetry-distinct positions of one of them, in the order of the
file, and those that are not named stay together under the element's symbol.
"""

import re
from collections.abc import Collection
from pathlib import Path

import moyopy
import numpy as np

from screening.arrays import Int64
from screening.crystals import symmetry
from screening.crystals.crystal import PERIODIC, Crystal, Rejection
from screening.crystals.elements import NUMBER_OF, SYMBOLS
from screening.crystals.read import read
from screening.enumerate.prototype import Prototype
from screening.errors import InputError

_SITE = re.compile(r"([A-Z][a-z]?)(\d*)")


def prototype_in(path: Path, named_sites: Collection[str]) -> Prototype:
    """Read the one crystal in a file, in its primitive cell; `named_sites` says which sites to tell apart."""
    crystal = _one_crystal(path)
    lattice = np.array(crystal.lattice)
    fractional = crystal.positions @ np.linalg.inv(lattice)
    cell = moyopy.Cell(lattice.tolist(), fractional.tolist(), crystal.numbers.tolist())
    found = moyopy.MoyoDataset(cell, symprec=symmetry.TOLERANCE)
    primitive = found.prim_std_cell
    numbers = np.array(primitive.numbers)
    # The crystal's own orbit of each atom of the primitive cell, by the first atom that came to lie there.
    orbits = np.array(moyopy.MoyoDataset(primitive, symprec=symmetry.TOLERANCE).orbits)
    sites, site_of = _sites(path, numbers, orbits, named_sites)
    positions = np.array(primitive.positions, np.float64)
    return Prototype(
        name=_label(path),
        title=f"as in {path}",
        formula="",
        group=found.number,
        sites=sites,
        lattice=np.array(primitive.basis, np.float64),
        fractional=positions - np.floor(positions),
        site_of=site_of,
        original=tuple(NUMBER_OF[match[1]] for match in map(_SITE.fullmatch, sites) if match),
    )


def _one_crystal(path: Path) -> Crystal:
    entries = list(read(path))
    if len(entries) != 1:
        raise InputError(f"{path}: holds {len(entries)} crystals, expected one; make a file of the one that is meant")
    (entry,) = entries
    if isinstance(entry, Rejection):
        raise InputError(f"{path}: {entry.message}")
    if entry.pbc != PERIODIC:
        raise InputError(f"{path}: is not periodic along all three lattice vectors, which a prototype must be")
    return entry


def _sites(path: Path, numbers: Int64, orbits: Int64, named_sites: Collection[str]) -> tuple[tuple[str, ...], Int64]:
    """Name the sites and say which each atom is on."""
    names = np.array([SYMBOLS[z] for z in numbers], object)
    for z in np.unique(numbers).tolist():
        own = list(dict.fromkeys(orbits[numbers == z].tolist()))
        for k, orbit in enumerate(own, start=1):
            if f"{SYMBOLS[z]}{k}" in named_sites:
                names[orbits == orbit] = f"{SYMBOLS[z]}{k}"
    sites = tuple(dict.fromkeys(names.tolist()))
    unknown = [site for site in named_sites if site not in sites]
    if unknown:
        distinct = {z: len(set(orbits[numbers == z].tolist())) for z in numbers.tolist()}
        held = ", ".join(_described(SYMBOLS[z], count) for z, count in distinct.items())
        raise InputError(f"{path}: there is no site {unknown[0]!r} to fill; it has {held}")
    places = {site: k for k, site in enumerate(sites)}
    return sites, np.array([places[name] for name in names])


def _described(symbol: str, count: int) -> str:
    return symbol if count == 1 else f"{symbol} ({symbol}1 to {symbol}{count})"


def _label(path: Path) -> str:
    stem = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    return re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-") or "prototype"
