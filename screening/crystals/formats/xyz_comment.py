"""Reads the comment line of an extended XYZ frame: key=value pairs, and what the keys that everybody uses mean.

The grammar is the union of what ASE and libAtoms read: bare or quoted ("", '', {}) keys and values, arrays in
quotes or brackets, blanks around `=`, backslash escapes, a key alone for true. A comment without `Lattice` and
`Properties` may be any text; what is no key=value pair in it says nothing.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from screening.arrays import Float64
from screening.crystals.crystal import PERIODIC, Reason
from screening.crystals.formats.entry import ID_KEYS, NAME_KEY, NOT_LABELS
from screening.crystals.formats.shapes import Refused
from screening.crystals.formats.words import number_in
from screening.crystals.labels import marked_labels
from screening.crystals.volume import volume_of

Flags = tuple[bool, bool, bool]

# In order of preference; compared in lower case.
STRESS_KEYS = ("stress", "ref_stress", "dft_stress")
VIRIAL_KEYS = ("virial", "virials", "ref_virial", "ref_virials", "dft_virial", "dft_virials")
NOT_PERIODIC = (False, False, False)
BOOLEANS = {
    **dict.fromkeys(("T", "True", "true", "TRUE"), True),
    **dict.fromkeys(("F", "False", "false", "FALSE"), False),
}

_QUOTED = r""""(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+'|\{(?:[^}\\]|\\.)*+\}"""
_ARRAY = r"\[(?:\s*+\[[^][]*+\]\s*+,?)++\s*+\]|\[(?:[^]\\]|\\.)*+\]"
_CHUNK = rf"{_QUOTED}|{_ARRAY}|\\."
_PAIR = re.compile(
    rf"""((?:{_CHUNK}|[^\s="'{{\[\\]++)++)(?:\s*+=\s*+((?:{_CHUNK}|[^\s"'{{\[\\]++)*+))?+\s*+""",
    re.ASCII,
)
_CHUNKS = re.compile(_CHUNK)
_ESCAPED = re.compile(r"\\(.)")
_ITEM = re.compile(r"[^\s,\[\]]+", re.ASCII)


class Comment(NamedTuple):
    """What a comment line says of its frame; `columns` is the value of Properties, "" without."""

    id: str
    columns: str
    lattice: Float64 | None
    pbc: Flags
    labels: dict[str, float]
    stress: Float64 | None


class Pair(NamedTuple):
    """A key and its value, without quotes; where in the line the value stands, quotes and all; None if nowhere."""

    key: str
    value: str
    span: tuple[int, int] | None


class Roles(NamedTuple):
    """Which pairs of a line say what, by position, -1 where none does; ids in order of preference."""

    ids: tuple[int, ...]
    columns: int
    lattice: int
    pbc: int
    stress: int
    virial: int
    labels: tuple[int, ...]


def comment_of(pairs: Sequence[Pair]) -> Comment:
    """What the pairs of a line say; raises Refused where that makes no sense."""
    roles = roles_of(tuple(pair.key for pair in pairs))
    values = [pair.value for pair in pairs]
    lattice = _lattice(values[roles.lattice]) if roles.lattice >= 0 else None
    pbc = NOT_PERIODIC if lattice is None else PERIODIC
    stress = None
    if roles.stress >= 0:
        stress = _tensor("the stress", values[roles.stress])
    elif roles.virial >= 0 and lattice is not None:
        stress = stress_of_virial(_tensor("the virial", values[roles.virial]), lattice)
    return Comment(
        id=id_of(pairs),
        columns=values[roles.columns] if roles.columns >= 0 else "",
        lattice=lattice,
        pbc=_pbc(values[roles.pbc]) if roles.pbc >= 0 else pbc,
        labels=marked_labels({pairs[k].key: _label(values[k]) for k in roles.labels}),
        stress=stress,
    )


def id_of(pairs: Sequence[Pair]) -> str:
    """The id that the pairs of a line give; "" if they give none."""
    ids = roles_of(tuple(pair.key for pair in pairs)).ids
    return next((id for k in ids if pairs[k].span and (id := pairs[k].value.strip())), "")


@lru_cache(maxsize=1024)
def roles_of(keys: tuple[str, ...]) -> Roles:
    """Find out which keys say what; the last of equal keys counts."""
    last = {key: k for k, key in enumerate(keys)}
    lower = {key.lower(): k for key, k in last.items()}
    folded = {re.sub(r"[^a-z0-9]", "", key): k for key, k in lower.items()}
    ids = tuple(folded[name] for name in (*ID_KEYS, NAME_KEY) if name in folded)
    columns, lattice, pbc = (last.get(key, -1) for key in ("Properties", "Lattice", "pbc"))
    stress = next((lower[key] for key in STRESS_KEYS if key in lower), -1)
    virial = next((lower[key] for key in VIRIAL_KEYS if key in lower), -1)
    taken = {*ids, columns, lattice, pbc, stress, virial}
    labels = tuple(k for key, k in last.items() if k not in taken and key.lower() not in NOT_LABELS)
    return Roles(ids, columns, lattice, pbc, stress, virial, labels)


def stress_of_virial(virial: Float64, lattice: Float64) -> Float64 | None:
    """The stress -virial / volume; None where there is no volume to divide by."""
    volume = volume_of(lattice)
    with np.errstate(all="ignore"):
        return virial / -volume if volume > 0 else None


# --- grammar --------------------------------------------------------------------------------------------------


def pairs_of(line: str) -> list[Pair]:
    """The key=value pairs of a line; a key alone says T. Raises Refused where quotes are not closed."""
    pairs: list[Pair] = []
    at, end = len(line) - len(line.lstrip()), len(line)
    while at < end:
        match = _PAIR.match(line, at)
        if match is None:
            if "Lattice" not in line and "Properties" not in line:
                return []
            raise Refused(
                Reason.UNREADABLE,
                f"the comment line breaks off at column {at + 1}, {line[at : at + 20]!r}; close its quotes",
            )
        alone = match[2] is None
        pairs.append(Pair(_unquoted(match[1]), "T" if alone else _unquoted(match[2]), None if alone else match.span(2)))
        at = match.end()
    if any(pair.key in ("Lattice", "Properties") for pair in pairs):
        return pairs
    return [pair for pair in pairs if pair.span]


def _unquoted(word: str) -> str:
    """A key or value without its quotes, outer brackets and escapes."""
    if word.isalnum():
        return word
    return _CHUNKS.sub(lambda chunk: chunk[0][1] if chunk[0][0] == "\\" else _ESCAPED.sub(r"\1", chunk[0][1:-1]), word)


def scalar(text: str) -> float | bool | None:
    """The number or boolean that a text is, None if it is neither."""
    word = text.strip(" \t,")
    if word in BOOLEANS:
        return BOOLEANS[word]
    return number_in(word)


def _label(text: str) -> float | bool | str:
    found = scalar(text)
    return text if found is None else found


def _numbers(what: str, text: str) -> list[float]:
    if "_" not in text:
        try:
            return [float(word) for word in text.split()]
        except ValueError:
            pass
    numbers = []
    for word in _ITEM.findall(text):
        number = number_in(word)
        if number is None:
            raise Refused(Reason.UNREADABLE, f"{what} holds `{word[:40]}`, expected numbers")
        numbers.append(number)
    return numbers


def _lattice(text: str) -> Float64:
    numbers = _numbers("Lattice", text)
    if len(numbers) == 3:
        return np.diag(numbers)
    if len(numbers) != 9:
        raise Refused(Reason.UNREADABLE, f"Lattice has {len(numbers)} numbers, expected 9, vector after vector")
    return np.array(numbers).reshape(3, 3)


@lru_cache(maxsize=256)
def _pbc(text: str) -> Flags:
    flags = [BOOLEANS.get(word, {"1": True, "0": False}.get(word)) for word in _ITEM.findall(text)]
    if len(flags) == 1:
        flags *= 3
    if len(flags) != 3 or None in flags:
        raise Refused(Reason.UNREADABLE, f"pbc is {text[:40]!r}, expected three of T and F")
    return bool(flags[0]), bool(flags[1]), bool(flags[2])


def _tensor(what: str, text: str) -> Float64:
    """Nine numbers, row by row, from nine column by column, a matrix of rows, or Voigt xx yy zz yz xz xy."""
    numbers = _numbers(what, text)
    if len(numbers) == 6:
        xx, yy, zz, yz, xz, xy = numbers
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if len(numbers) != 9:
        raise Refused(Reason.UNREADABLE, f"{what} has {len(numbers)} numbers, expected 9 or 6 (Voigt)")
    rows = np.array(numbers).reshape(3, 3)
    return rows if "[" in text else rows.T.copy()
