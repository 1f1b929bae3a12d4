"""All prototypes by name: the table's, with their aliases, and pymatgen's by AFLOW label."""

import difflib
from collections.abc import Iterator, Mapping

from screening.enumerate.aflow import aflow_prototypes
from screening.enumerate.named import aliases, named, names
from screening.enumerate.prototype import Prototype
from screening.errors import InputError


def prototype_named(name: str, parameters: Mapping[str, float] | None = None) -> Prototype:
    """Find a prototype by name, alias or AFLOW label; letters may be of either case."""
    plain = name.strip().lower()
    plain = aliases().get(plain, plain)
    if plain in names():
        return named(plain, parameters)
    label = next((label for label in aflow_prototypes() if label.lower() == plain), None)
    if label is None:
        raise InputError(f"there is no prototype {name!r}; {_suggestion(plain)}")
    if parameters:
        raise InputError(f"prototype {label}: parameters are for the prototypes of the table; it has none")
    return aflow_prototypes()[label]


def prototypes() -> Iterator[Prototype]:
    """Yield all of them, the table's first."""
    yield from map(named, names())
    yield from aflow_prototypes().values()


def other_names(name: str) -> list[str]:
    """The aliases of a prototype of the table."""
    return [alias for alias, meant in aliases().items() if meant == name]


def _suggestion(name: str) -> str:
    known = [*names(), *aliases(), *(label.lower() for label in aflow_prototypes())]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    listed = "`screening enumerate --list` shows all"
    return f"did you mean {near[0]}? {listed}" if near else listed
