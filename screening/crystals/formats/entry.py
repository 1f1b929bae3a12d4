"""One entry of a JSON file, a table or a database, with its id and labels, to a crystal.

An entry is a value in one of the shapes of shapes.py, or a row that holds one under a key of CARRIERS beside its id
and labels. Keys are compared folded: without case and without other characters than letters and digits.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from screening.arrays import Float64
from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats.shapes import Refused, crystal_of, forces_of, json_value, shape_of, stress_of
from screening.crystals.labels import STRESS_KEY, is_unusable, marked_labels

# A row may hold several crystals (before and after relaxation): the first of these wins. Compared folded.
CARRIERS = (
    "structure",
    "computedstructureentry",
    "entry",
    "finalstructure",
    "relaxedstructure",
    "initialstructure",
    "atoms",
    "molecule",
    "cif",
    "cifstr",
    "cifstring",
    "ciftext",
    "cifconv",
    "structurecif",
    "poscar",
    "contcar",
)
ID_KEYS = (
    "materialid",
    "mpid",
    "taskid",
    "entryid",
    "structureid",
    "matid",
    "id",
    "jid",
    "identifier",
    "auid",
    "immutableid",
    "cifid",
    "uniqueid",
)
# Names repeat among polymorphs: used only when nothing else tells an entry apart.
NAME_KEY = "name"
# Of the other carriers only mappings and JSON are taken: `"atoms": "Na Cl"` is a remark.
TEXT_CARRIERS = frozenset(c for c in CARRIERS if "cif" in c) | {"structure", "poscar", "contcar"}
# Mappings inside a row whose numbers are labels of the row.
NESTED_ROWS = ("attributes", "data", "parameters", "properties", "labels", "targets", "key_value_pairs")
# Mappings inside a row of which single numbers are labels of the row.
NESTED_NUMBERS = {
    "spacegroup": {"number": "spacegroup_number"},
    "symmetry": {"number": "spacegroup_number"},
    "bulk_modulus": {m: f"bulk_modulus_{m}" for m in ("vrh", "voigt", "reuss")},
    "shear_modulus": {m: f"shear_modulus_{m}" for m in ("vrh", "voigt", "reuss")},
}
# Numbers that describe how an entry was stored rather than the crystal.
NOT_LABELS = frozenset(
    {"", "index", "level_0", "unnamed: 0", "ctime", "mtime", "charge", "spin_multiplicity", "version", "cartesian"}
)
_SHAPE_KEYS = frozenset(
    {"@module", "@class", "sites", "lattice", "numbers", "positions", "lattice_mat", "cartesian_site_positions"}
)
_DEPTH = 4
_NAME_RANK = len(ID_KEYS)
_NOT_ID = _NAME_RANK + 1
_BAD_CONTENT = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)


def entry_of(entry: object, *, fallback_id: str, source: str, key: str = "") -> Crystal | Rejection:
    """Read one entry; its id is its own, else its `key`, else a name it has, else `fallback_id`. Never raises."""
    id = key or fallback_id
    try:
        layers = _layers(entry)
        told = _Told()
        for depth, layer in enumerate(layers):
            if isinstance(layer, dict):
                told.read(layer, depth)
        id = told.id(key) or fallback_id
        crystal = crystal_of(layers[-1], id=id, source=source)
        return _with_labels(crystal, told.texts | told.labels, layers) if isinstance(crystal, Crystal) else crystal
    except Refused as refused:
        return Rejection(id, source, refused.reason, str(refused))
    except _BAD_CONTENT as error:
        return Rejection(id, source, Reason.UNREADABLE, f"its values cannot be used: {_said(error)}")


def holds_crystal(value: object) -> bool:
    """Whether a value is an entry by its keys: a crystal, or a row with one."""
    if not isinstance(value, dict):
        return False
    return shape_of(value) is not None or _attributes(value) is not None or _carrier(value) is not None


def tells_entry(keys: Iterable[str]) -> bool:
    """Whether an object with these keys is one entry, well formed or not, and no object of id → entry."""
    return any(_folded(key) in CARRIERS or key in _SHAPE_KEYS for key in keys)


def carrier_column(columns: Sequence[str]) -> str | None:
    """The column of a table that holds crystals, or None."""
    return min((c for c in columns if _folded(c) in CARRIERS), key=lambda c: CARRIERS.index(_folded(c)), default=None)


def names_id(column: str) -> bool:
    """Whether the values under this name tell entries apart."""
    rank = _id_rank(column)
    return rank is not None and rank < _NOT_ID


def _said(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= 200 else text[:197] + "..."


@lru_cache(maxsize=4096)
def _folded(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.lower())


def _layers(entry: object) -> list[Any]:
    """The entry, what carries its crystal, and so on inwards; the last layer is the crystal."""
    layers: list[Any] = []
    while len(layers) <= _DEPTH:
        if isinstance(entry, str) and entry.lstrip()[:1] == "{":
            entry = json_value(entry)
        layers.append(entry)
        if not isinstance(entry, dict) or shape_of(entry) is not None:
            return layers
        inner = _attributes(entry) or entry.get(_carrier(entry) or "")
        if inner is None:
            break
        entry = inner
    raise Refused(Reason.UNREADABLE, f"no crystal among {_listed(entry)}; expected `structure`, `cif` or `poscar`")


def _attributes(row: dict[str, Any]) -> dict[str, Any] | None:
    """The crystal of an OPTIMADE resource, which has no key of its own."""
    attributes = row.get("attributes")
    return attributes if isinstance(attributes, dict) and shape_of(attributes) is not None else None


def _listed(row: object) -> str:
    if not isinstance(row, dict):
        return "its innermost rows"
    names = [f"`{str(name)[:40]}`" for name in list(row)[:12]]
    return ", ".join(names) + (f" and {len(row) - 12} more keys" if len(row) > 12 else "") if names else "no keys"


def _carrier(row: dict[str, Any]) -> str | None:
    for key in ("structure", "cif"):
        if row.get(key) is not None:
            return key
    return carrier_column([key for key, value in row.items() if _may_carry(key, value)])


def _may_carry(key: str, value: object) -> bool:
    if isinstance(value, str):
        return value.lstrip()[:1] == "{" or (bool(value) and _folded(key) in TEXT_CARRIERS)
    return isinstance(value, dict)


class _Told:
    """What the layers of an entry say of it: ids, the outermost first, numbers that may be labels, and such texts."""

    def __init__(self) -> None:
        self.labels: dict[str, object] = {}
        self.texts: dict[str, object] = {}
        self._ids: list[tuple[int, int, str]] = []

    def id(self, key: str) -> str:
        """The best id told, where `key` beats a mere name."""
        strong = [told for told in self._ids if told[1] < _NAME_RANK]
        return min(strong)[2] if strong else key or (min(self._ids)[2] if self._ids else "")

    def read(self, row: dict[str, Any], depth: int) -> None:
        """Take in a row, after those outside it."""
        for name, value in row.items():
            if isinstance(value, dict):
                # ASE's `data` is for anything at all, its key-value pairs are for labels.
                if name in NESTED_ROWS and not (name == "data" and "key_value_pairs" in row):
                    self.read(value, depth)
                elif name in NESTED_NUMBERS:
                    for inner, label in NESTED_NUMBERS[name].items():
                        self.labels.setdefault(label, value.get(inner))
            elif value is not None and not isinstance(value, list):
                rank = _id_rank(name)
                if rank is None:
                    self._keep(name, value)
                elif rank < _NOT_ID and (text := _id_text(value)):
                    self._ids.append((depth, rank, text))

    def _keep(self, name: str, value: object) -> None:
        if not isinstance(value, str):
            self.labels.setdefault(name, value)
        elif is_unusable(name, value):
            self.texts.setdefault(name, value)


@lru_cache(maxsize=4096)
def _id_rank(name: str) -> int | None:
    """How good an id the value of a key is, 0 the best; _NOT_ID when it is neither id nor label; None for labels."""
    folded = _folded(name)
    if folded in ID_KEYS:
        return ID_KEYS.index(folded)
    if folded == NAME_KEY:
        return _NAME_RANK
    return _NOT_ID if name.lower() in NOT_LABELS else None


def _id_text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | np.integer):
        return ""
    # A lone surrogate can be in JSON, but not in UTF-8.
    return str(value).strip().encode("utf-8", "backslashreplace").decode()


def _with_labels(crystal: Crystal, raw: dict[str, object], layers: Sequence[Any]) -> Crystal:
    labels = marked_labels(raw)
    forces, stress = crystal.forces, crystal.stress
    for layer in layers:
        if forces is None and isinstance(layer, dict):
            forces = _told_forces(layer.get("forces", layer.get("force")), len(crystal))
        if stress is None and isinstance(layer, dict):
            stress = stress_of(layer.get(STRESS_KEY))
    if not labels and forces is crystal.forces and stress is crystal.stress:
        return crystal
    c = crystal
    labels = {**c.labels, **labels}
    # Twice as fast as dataclasses.replace.
    return Crystal(c.id, c.numbers, c.positions, c.lattice, c.pbc, labels, forces, stress, c.source)


def _told_forces(value: object, atoms: int) -> Float64 | None:
    """Forces given as a list, or as its JSON; a number or other text under the same name is none."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = json_value(value)
    return forces_of(value, atoms) if isinstance(value, list | dict | np.ndarray) else None
