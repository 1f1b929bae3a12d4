"""The atom sites of a CIF block: where its columns are, which elements, which refusals need no geometry."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from gemmi import cif

from screening.arrays import Float64, UInt8
from screening.crystals.crystal import Reason
from screening.crystals.formats.cif_elements import element_of_label, element_of_symbol
from screening.crystals.formats.cif_values import Refused, number_in, quoted, unreadable
from screening.ops.text import site_coordinates

# An occupancy this close to 1 is 1: 0.9999 comes out of refinements and rounding.
FULL_OCCUPANCY = 5e-4

# Beyond this a number is infinite for every purpose, and its square need not be representable.
LARGEST = 1e100

_PREFIX = "_atom_site_"
_OPTIONAL = ("label", "type_symbol", "occupancy", "calc_flag")
_TAGS = tuple(_PREFIX + name for name in (*_OPTIONAL, *(f"{kind}_{x}" for kind in ("fract", "cartn") for x in "xyz")))


class Columns(NamedTuple):
    """Where in a row of the site loop the texts are that matter; -1 for a column the file leaves out."""

    label: int
    symbol: int
    occupancy: int
    flag: int
    coordinates: tuple[int, ...]
    cartesian: bool


class Sites(NamedTuple):
    """The columns of the site loop as text; a column that the file leaves out is empty."""

    labels: Sequence[str]
    symbols: Sequence[str]
    coordinates: list[str]  # every x, then every y, then every z
    cartesian: bool
    occupancies: Sequence[str]

    @property
    def rows(self) -> int:
        """How many sites there are."""
        return len(self.coordinates) // 3

    def called(self, row: int) -> str:
        """What a message calls a site: its label, or its number from 1."""
        return (cif.as_string(self.labels[row]) if self.labels else "") or f"number {row + 1}"


def sites_in(block: cif.Block) -> Sites:
    """Find the loop of sites, or the single items of a file with one atom; dummy sites are left out."""
    found = block.find_loop("_atom_site_fract_x") or block.find_loop("_atom_site_cartn_x")
    loop: cif.Loop | None = found.get_loop()
    if loop is not None:
        columns, width, values = _columns(tuple(loop.tags)), loop.width(), loop.values
    else:
        items = {tag: value for tag in _TAGS if (value := block.find_value(tag)) is not None}
        columns, width, values = _columns(tuple(items)), len(items), list(items.values())
    if not values or not columns.coordinates:
        raise _no_sites(block)
    x, y, z = columns.coordinates
    sites = Sites(
        labels=values[columns.label :: width] if columns.label >= 0 else (),
        symbols=values[columns.symbol :: width] if columns.symbol >= 0 else (),
        coordinates=values[x::width] + values[y::width] + values[z::width],
        cartesian=columns.cartesian,
        occupancies=values[columns.occupancy :: width] if columns.occupancy >= 0 else (),
    )
    return _without_dummies(sites, values[columns.flag :: width]) if columns.flag >= 0 else sites


@lru_cache(maxsize=1024)
def _columns(tags: tuple[str, ...]) -> Columns:
    index = {tag.lower(): place for place, tag in enumerate(tags)}
    kind = "fract" if _PREFIX + "fract_x" in index else "cartn"
    axes = [f"{_PREFIX}{kind}_{axis}" for axis in "xyz"]
    present = [tag for tag in axes if tag in index]
    if 0 < len(present) < 3:
        missing = next(tag for tag in axes if tag not in index)
        raise unreadable(f"has {present[0]} but no {missing}; all three coordinates are needed")
    label, symbol, occupancy, flag = (index.get(_PREFIX + name, -1) for name in _OPTIONAL)
    return Columns(label, symbol, occupancy, flag, tuple(index[tag] for tag in present), kind == "cartn")


def _no_sites(block: cif.Block) -> Refused:
    if len(block.find_values(_PREFIX + "label")) or len(block.find_values(_PREFIX + "type_symbol")):
        return unreadable(f"lists atoms without positions; expected {_PREFIX}fract_x, _y and _z")
    return Refused(Reason.EMPTY, f"lists no atoms; expected a loop with {_PREFIX}fract_x, _y and _z")


def _without_dummies(sites: Sites, flags: Sequence[str]) -> Sites:
    rows = [row for row, flag in enumerate(flags) if flag.strip("'\"").lower() != "dum"]
    if len(rows) == sites.rows:
        return sites
    if not rows:
        raise Refused(Reason.EMPTY, f"lists nothing but dummy atoms ({_PREFIX}calc_flag dum)")

    def kept(column: Sequence[str]) -> list[str]:
        return [column[row] for row in rows] if column else []

    x, y, z = (kept(sites.coordinates[axis * sites.rows : (axis + 1) * sites.rows]) for axis in range(3))
    return Sites(kept(sites.labels), kept(sites.symbols), x + y + z, sites.cartesian, kept(sites.occupancies))


def elements_of(sites: Sites) -> UInt8:
    """The atomic number of every site, from its type symbol where there is one, else from its label."""
    numbers = list(map(element_of_symbol, sites.symbols) if sites.symbols else map(element_of_label, sites.labels))
    if not numbers:
        raise Refused(Reason.UNKNOWN_ELEMENT, f"has neither {_PREFIX}type_symbol nor {_PREFIX}label; add one of them")
    if 0 in numbers:
        numbers = [number or _element_by_label(sites, row) for row, number in enumerate(numbers)]
    return np.frombuffer(bytearray(numbers), np.uint8)


def _element_by_label(sites: Sites, row: int) -> int:
    symbol = sites.symbols[row] if sites.symbols else "?"
    if not cif.is_null(symbol):
        told = f"has type symbol {symbol}, which is no element; expected one such as Fe or Fe3+"
    elif sites.labels and (number := element_of_label(sites.labels[row])):
        return number
    else:
        told = f"has a label that does not name one element; add {_PREFIX}type_symbol"
    raise Refused(Reason.UNKNOWN_ELEMENT, f"site {sites.called(row)} {told}")


def require_full(sites: Sites) -> None:
    """Refuse sites that are not fully occupied."""
    for text in set(sites.occupancies):
        if not _is_full(text):
            raise _partial(sites, next(row for row, other in enumerate(sites.occupancies) if not _is_full(other)))


@lru_cache(maxsize=4096)
def _is_full(text: str) -> bool:
    if cif.is_null(text):
        return True  # the default that the CIF dictionary gives is 1
    occupancy = number_in(text)
    return occupancy is not None and abs(occupancy - 1.0) < FULL_OCCUPANCY


def _partial(sites: Sites, row: int) -> Refused:
    occupancy = number_in(sites.occupancies[row])
    site = f"site {sites.called(row)}"
    if occupancy is None:
        return unreadable(f"{site} has occupancy {sites.occupancies[row]}; expected a number")
    return Refused(Reason.DISORDERED, f"{site} has occupancy {occupancy:g}, expected 1; choose an ordered arrangement")


def coordinates_of(sites: Sites, numbers: UInt8) -> Float64:
    """The coordinates (sites, 3) as the file gives them; refuses two elements on one place."""
    coordinates: Float64
    coordinates, unusable, repeated = site_coordinates(sites.coordinates, limit=LARGEST)
    if unusable >= 0 and quoted(sites.coordinates[unusable]):
        unquoted = [cif.as_string(text) for text in sites.coordinates]
        coordinates, unusable, repeated = site_coordinates(unquoted, limit=LARGEST)
    if unusable >= 0:
        text = sites.coordinates[unusable]
        told = f"site {sites.called(unusable % sites.rows)} has coordinate {text}"
        if number_in(text) is None:
            raise unreadable(f"{told}; expected a number")
        raise Refused(Reason.NON_FINITE, f"{told}; expected a finite number")
    if repeated:
        _refuse_mixed(sites, coordinates, numbers)
    return coordinates


def _refuse_mixed(sites: Sites, coordinates: Float64, numbers: UInt8) -> None:
    """Refuse different elements on one place; one element twice is left to validation, as atoms too close."""
    first: dict[tuple[float, ...], int] = {}
    for row, place in enumerate(map(tuple, coordinates.tolist())):
        other = first.setdefault(place, row)
        if numbers[other] != numbers[row]:
            both = f"sites {sites.called(other)} and {sites.called(row)}"
            raise Refused(Reason.DISORDERED, f"{both} put two elements on one place; choose an ordered arrangement")
