"""Every shape in which people write a crystal as a value, to a Crystal without labels.

A value is a crystal when it is one of
  pymatgen   {"lattice": {"matrix": …}, "sites": [{"species": [{"element", "occu"}], "abc" or "xyz"}]};
             without a lattice it is a molecule, with no periodic direction
  ASE        {"numbers", "positions", "cell", "pbc"}, arrays as lists or as `__ndarray__`
  JARVIS     {"lattice_mat", "coords", "elements", "cartesian"}
  OPTIMADE   {"lattice_vectors", "cartesian_site_positions", "species_at_sites"}
  text       CIF or POSCAR
Forces are taken as eV/angstrom. A stress is kept only in ASE's shape: elsewhere neither unit nor sign is agreed on.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from screening.arrays import Float64, UInt8
from screening.crystals.crystal import PERIODIC, Crystal, Reason, Rejection
from screening.crystals.elements import NUMBER_OF, atomic_number

# Keys that hold the arrays of a crystal when it is spread over the columns of a table.
ARRAYS = frozenset(
    {"lattice_vectors", "cartesian_site_positions", "species_at_sites", "species", "dimension_types", "numbers"}
    | {"positions", "cell", "pbc", "forces", "force", "stress", "sites", "lattice", "lattice_mat", "coords", "elements"}
)
# As for CIF: 0.9999 comes out of rounding.
OCCUPANCY_TOLERANCE = 5e-4
_DECORATED = re.compile(r"([A-Z][a-z]?)(?:\d*\.?\d*[+-])?")


class Refused(Exception):
    """Why a value is no usable crystal; turned into a rejection where the entry's id is known."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def json_value(text: str | bytes) -> Any:
    """Parse JSON, with the NaN and Infinity that Python writes but JSON lacks; raises ValueError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def shape_of(value: dict[str, Any]) -> str | None:
    """Which of the shapes a mapping has by its keys, or None."""
    if "sites" in value:
        return "pymatgen"
    if "positions" in value and "numbers" in value:
        return "ase"
    if "lattice_mat" in value and "coords" in value:
        return "jarvis"
    if "cartesian_site_positions" in value:
        return "optimade"
    return None


def crystal_of(value: object, *, id: str, source: str) -> Crystal | Rejection:
    """Read a value as a crystal without labels; raises Refused, or what bad values raise by themselves."""
    if isinstance(value, str):
        return _from_text(value, id=id, source=source)
    if not isinstance(value, dict):
        raise Refused(Reason.UNREADABLE, f"expected a crystal, found {_kind_name(value)}")
    match shape_of(value):
        case "pymatgen":
            return _pymatgen(value, id, source)
        case "ase":
            return _ase(value, id, source)
        case "jarvis":
            return _jarvis(value, id, source)
        case _:
            return _optimade(value, id, source)


def _kind_name(value: object) -> str:
    if value is None:
        return "null"
    return {list: "a list", bool: "true or false", int: "a number", float: "a number"}.get(type(value), "no crystal")


def _from_text(text: str, *, id: str, source: str) -> Crystal | Rejection:
    if re.search(r"^\s*(data_|_cell_|_atom_site_|loop_)", text, re.MULTILINE | re.IGNORECASE):
        from screening.crystals.formats.cif import parse_cif_text

        return parse_cif_text(text, id=id, source=source)
    from screening.crystals.formats.poscar import parse_poscar_text

    return parse_poscar_text(text, id=id, source=source)


def _array(value: object) -> Float64:
    if isinstance(value, dict):
        value = _ndarray(value)
    return np.asarray(value, np.float64)


def _ndarray(value: dict[str, Any]) -> object:
    """The numbers of an array as ASE (`__ndarray__`, or a cell with one) and monty (`@class`: array) write it."""
    if "__ndarray__" in value:
        shape, _, flat = value["__ndarray__"]
        return np.asarray(flat, np.float64).reshape(shape)
    if value.get("@class") == "array":
        return value["data"]
    return _ndarray(value["array"]) if isinstance(value.get("array"), dict) else value["array"]


def _vectors(vectors: Sequence[Any], what: str) -> Float64:
    """The (n, 3) array of n vectors given as lists; 1.5 times as fast as asarray where they are what they should be."""
    if set(map(type, vectors)) == {list} and set(map(len, vectors)) == {3}:
        return np.fromiter(chain.from_iterable(vectors), np.float64, 3 * len(vectors)).reshape(-1, 3)
    return _shaped(vectors, len(vectors), what)


def _shaped(value: object, rows: int, what: str) -> Float64:
    array = _array(value)
    if array.shape != (rows, 3):
        raise Refused(Reason.UNREADABLE, f"{what} of shape {array.shape}, expected ({rows}, 3)")
    return array


def _refuse_empty() -> Refused:
    return Refused(Reason.EMPTY, "holds no atoms")


def number_of(symbol: str) -> int:
    """The atomic number of a symbol, with or without an oxidation state (`Fe`, `Fe3+`); D and T are hydrogen."""
    match = _DECORATED.fullmatch(symbol)
    number = atomic_number(match[1]) if match else 0
    if not number:
        raise Refused(Reason.UNKNOWN_ELEMENT, f"`{symbol[:40]}` is no chemical element; expected a symbol such as Fe")
    return number


def _numbers(symbols: Sequence[str]) -> UInt8:
    try:
        return np.array([NUMBER_OF[s] for s in symbols], np.uint8)
    except KeyError:
        return np.array([number_of(str(s)) for s in symbols], np.uint8)


def _pymatgen(value: dict[str, Any], id: str, source: str) -> Crystal:
    sites = value["sites"]
    if not sites:
        raise _refuse_empty()
    try:
        numbers = [NUMBER_OF[one["element"]] for site in sites for (one,) in (site["species"],) if one["occu"] == 1]
    except (KeyError, ValueError, TypeError):
        numbers = []
    if len(numbers) != len(sites):
        numbers = [_site_number(i, site) for i, site in enumerate(sites)]
    lattice, pbc, positions = _placed(value.get("lattice"), sites)
    properties = sites[0].get("properties") or {}
    forces = None
    for name in ("forces", "force"):
        if forces is None and name in properties:
            forces = forces_of([site["properties"][name] for site in sites], len(sites))
    return Crystal(id, np.array(numbers, np.uint8), positions, lattice, pbc, {}, forces, source=source)


def _placed(lattice: Any, sites: Sequence[Any]) -> tuple[Float64, tuple[bool, bool, bool], Float64]:
    """Lattice, periodic directions and Cartesian positions of pymatgen sites.

    `abc`, the fractional coordinates, decides where both are present, as it does in pymatgen.
    """
    if lattice is None:
        return np.zeros((3, 3)), (False, False, False), _shaped([s["xyz"] for s in sites], len(sites), "xyz")
    matrix = _shaped(lattice["matrix"] if isinstance(lattice, dict) else lattice, 3, "a lattice matrix")
    x, y, z = lattice.get("pbc", PERIODIC) if isinstance(lattice, dict) else PERIODIC
    pbc = (bool(x), bool(y), bool(z))
    try:
        fractional = [site["abc"] for site in sites]
    except KeyError:
        return matrix, pbc, _shaped([site["xyz"] for site in sites], len(sites), "xyz")
    return matrix, pbc, _cartesian(_vectors(fractional, "abc"), matrix)


def _cartesian(fractional: Float64, lattice: Float64) -> Float64:
    # Numbers that are not finite are for validation to refuse.
    with np.errstate(all="ignore"):
        positions: Float64 = fractional.dot(lattice)
    return positions


def _site_number(index: int, site: Any) -> int:
    species = site["species"]
    total = sum(float(one.get("occu", 1)) for one in species)
    if len(species) != 1 or abs(total - 1) > OCCUPANCY_TOLERANCE:
        held = " + ".join(f"{float(one.get('occu', 1)):g} {one['element']}" for one in species) or "nothing"
        raise Refused(
            Reason.DISORDERED,
            f"site {index} holds {held}; expected one element with occupancy 1: order it, for example with "
            "pymatgen's OrderDisorderedStructureTransformation",
        )
    return number_of(str(species[0]["element"]))


def _ase(value: dict[str, Any], id: str, source: str) -> Crystal:
    wanted = _array(value["numbers"])
    if not wanted.size:
        raise _refuse_empty()
    known = (wanted >= 1) & (wanted < len(NUMBER_OF) + 1) & (wanted == np.floor(wanted))
    if not known.all():
        bad = wanted[~known].flat[0]
        raise Refused(Reason.UNKNOWN_ELEMENT, f"atomic number {bad:g}; expected 1 to {len(NUMBER_OF)}")
    cell = value.get("cell")
    lattice = np.zeros((3, 3)) if cell is None else _array(cell)
    if lattice.shape in ((3,), (1, 3)):
        lattice = np.diag(lattice.ravel())
    pbc = np.broadcast_to(_array(value.get("pbc", False)), (3,)).astype(bool).tolist()
    return Crystal(
        id,
        wanted.astype(np.uint8).ravel(),
        _shaped(value["positions"], wanted.size, "positions"),
        _shaped(lattice, 3, "a cell"),
        (pbc[0], pbc[1], pbc[2]),
        {},
        forces_of(value.get("forces"), wanted.size),
        stress_of(value.get("stress")),
        source,
    )


def stress_of(value: object) -> Float64 | None:
    """A stress as (3, 3) from ASE's (3, 3) or Voigt xx yy zz yz xz xy."""
    array = None if value is None else _array(value)
    if array is None or not array.size:
        return None
    if array.shape == (6,):
        xx, yy, zz, yz, xz, xy = array.tolist()
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return _shaped(array.reshape(3, 3) if array.size == 9 else array, 3, "a stress")


def _jarvis(value: dict[str, Any], id: str, source: str) -> Crystal:
    numbers = _numbers(value["elements"])
    if not len(numbers):
        raise _refuse_empty()
    lattice = _shaped(value["lattice_mat"], 3, "lattice_mat")
    coords = _shaped(value["coords"], len(numbers), "coords")
    positions = coords if value.get("cartesian") else _cartesian(coords, lattice)
    return Crystal(id, numbers, positions, lattice, PERIODIC, source=source)


def _optimade(value: dict[str, Any], id: str, source: str) -> Crystal:
    symbols = value["species_at_sites"]
    if not len(symbols):
        raise _refuse_empty()
    if named := _optimade_species(value.get("species")):
        symbols = [named.get(s, s) for s in symbols]
    dimensions = value.get("dimension_types")
    x, y, z = (True, True, True) if dimensions is None else [bool(d) for d in dimensions]
    lattice = value.get("lattice_vectors")
    return Crystal(
        id,
        _numbers(symbols),
        _shaped(value["cartesian_site_positions"], len(symbols), "cartesian_site_positions"),
        np.zeros((3, 3)) if lattice is None else _shaped(lattice, 3, "lattice_vectors"),
        (x, y, z) if lattice is not None else (False, False, False),
        source=source,
    )


def _optimade_species(species: Any) -> dict[str, str]:
    """What each named species is made of; refuses mixtures and vacancies."""
    if isinstance(species, str):
        species = json_value(species)
    named = {}
    for one in species or ():
        symbols, share = one["chemical_symbols"], one.get("concentration") or [1.0]
        if len(symbols) != 1 or abs(float(share[0]) - 1) > OCCUPANCY_TOLERANCE:
            mixture = " + ".join(f"{c:g} {s}" for s, c in zip(symbols, share, strict=False))
            raise Refused(Reason.DISORDERED, f"species `{one['name']}` is {mixture}; expected one element per site")
        named[one["name"]] = symbols[0]
    return named


def forces_of(value: object, atoms: int) -> Float64 | None:
    """Forces as (atoms, 3), None when there are none."""
    forces = None if value is None else _array(value)
    return None if forces is None or not forces.size else _shaped(forces, atoms, "forces")
