"""The prototypes of prototypes.toml, by name or alias."""

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from screening.enumerate.prototype import Prototype, Roles
from screening.enumerate.wyckoff import RATIOS, Orbit, expanded
from screening.errors import InputError

TABLE = Path(__file__).parent / "prototypes.toml"


def names() -> list[str]:
    """The names, in the order of the table."""
    return list(_table())


def aliases() -> dict[str, str]:
    """Other names, and the name that each stands for."""
    return {alias: name for name, entry in _table().items() for alias in entry.get("aliases", ())}


def named(name: str, parameters: Mapping[str, float] | None = None) -> Prototype:
    """Build a prototype of the table, with other parameters where they are given."""
    entry = _table()[name]
    own: dict[str, float] = entry.get("parameters", {})
    unknown = [key for key in parameters or {} if key not in own]
    if unknown:
        known = f"its parameters are {', '.join(own)}" if own else "it has none"
        raise InputError(f"prototype {name}: there is no parameter {unknown[0]!r}; {known}")
    values = own | dict(parameters or {})
    for key in RATIOS:
        if values.get(key, 1.0) <= 0:
            raise InputError(f"prototype {name}: {key} must be positive, got {values[key]}")
    try:
        return _built(name, entry, values)
    except InputError as error:
        raise InputError(f"prototype {name}: {error}") from error


def _built(name: str, entry: Mapping[str, Any], values: Mapping[str, float]) -> Prototype:
    sites: dict[str, list[str]] = entry["sites"]
    orbits = [Orbit.of(text, values) for texts in sites.values() for text in texts]
    site_of_orbit = np.repeat(np.arange(len(sites)), [len(texts) for texts in sites.values()])
    cell = expanded(entry["group"], orbits, values)
    roles = entry.get("roles")
    return Prototype(
        name=name,
        title=entry["title"],
        formula=entry["formula"],
        group=entry["group"],
        sites=tuple(sites),
        lattice=cell.lattice,
        fractional=cell.fractional,
        site_of=site_of_orbit[cell.orbit_of],
        parameters=dict(values),
        roles=None if roles is None else Roles(roles["large"], tuple(roles["small"]), roles["anion"]),
    )


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))
