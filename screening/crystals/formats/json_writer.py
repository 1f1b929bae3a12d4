"""A crystal as a line of JSON: a pymatgen structure with id and labels beside it, made without pymatgen."""

from typing import Any

import numpy as np
import orjson

from screening.crystals.convert import FORCES_KEY, ID_KEY, require_volume
from screening.crystals.crystal import Crystal
from screening.crystals.formats.xyz_writer import symbols_of
from screening.crystals.labels import STRESS_KEY
from screening.errors import InputError


def json_line(crystal: Crystal) -> bytes:
    """Write one row: id, labels, forces, stress, and under `structure` what pymatgen's from_dict takes."""
    row: dict[str, Any] = {ID_KEY: crystal.id.encode("utf-8", "backslashreplace").decode()}
    rest: dict[str, Any] = {"structure": _structure(crystal)}
    if crystal.forces is not None:
        rest[FORCES_KEY] = _listed(crystal, crystal.forces)
    if crystal.stress is not None:
        rest[STRESS_KEY] = _listed(crystal, crystal.stress)
    for name in crystal.labels:
        if name in row or name in rest:
            raise InputError(f"{crystal.id}: a label cannot be called `{name}` in a row of JSON; rename it")
    return orjson.dumps({**row, **crystal.labels, **rest}, option=orjson.OPT_APPEND_NEWLINE)


def _structure(crystal: Crystal) -> dict[str, Any]:
    symbols = symbols_of(crystal)
    positions = _listed(crystal, crystal.positions)
    if not crystal.lattice.any() and not any(crystal.pbc):
        sites = [_site(symbol, xyz) for symbol, xyz in zip(symbols, positions, strict=True)]
        return {"@module": "pymatgen.core.structure", "@class": "Molecule", "charge": 0, "sites": sites}
    require_volume(crystal)
    fractional = np.linalg.solve(crystal.lattice.T, crystal.positions.T).T.tolist()
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "charge": 0,
        "lattice": {"matrix": _listed(crystal, crystal.lattice), "pbc": list(crystal.pbc)},
        "properties": {},
        "sites": [
            _site(symbol, xyz) | {"abc": abc} for symbol, xyz, abc in zip(symbols, positions, fractional, strict=True)
        ],
    }


def _site(symbol: str, xyz: list[float]) -> dict[str, Any]:
    return {"species": [{"element": symbol, "occu": 1}], "xyz": xyz, "label": symbol, "properties": {}}


def _listed(crystal: Crystal, array: Any) -> Any:
    if not np.isfinite(array).all():
        raise InputError(f"{crystal.id}: holds a number that is not finite, which JSON has no word for; write extxyz")
    return array.tolist()
