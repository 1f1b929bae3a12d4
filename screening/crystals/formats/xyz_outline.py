"""Reads the comment lines of a block of frames at once: most lines of a file differ only in a few values.

xyz_comment.py says what one line means. From a line it has understood an outline is made, which values may differ
and how; the native scanner then reads the lines that fit it, and the next one that does not is understood again.
What fits is what xyz_comment.py would have read, to the bit.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isinf

import numpy as np

from screening.arrays import Bool, Float64, Int64
from screening.crystals.formats.shapes import Refused
from screening.crystals.formats.xyz_comment import (
    Comment,
    Flags,
    Pair,
    Roles,
    comment_of,
    pairs_of,
    roles_of,
    scalar,
    stress_of_virial,
)
from screening.crystals.formats.xyz_frames import Frames
from screening.crystals.labels import canonical_labels, expects_number
from screening.ops.text import scan_lines

# Kinds of fields, as scan_lines has them.
SPAN, REMARK, FINITE = -1, -2, -3
# What is no field.
LITERAL, OTHER = 0, -4
# After so many outlines in a row that fit no line but their own, the lines left are read one by one.
MOST_LONERS = 4
# Outlines of earlier blocks, by the words before the equals signs. What fits one is read alike with or without it.
_OUTLINES: dict[tuple[str, ...], list["_Outline"]] = {}
MOST_KEYS, MOST_WITH_KEYS = 256, 4
_KEY = re.compile(r"([^\s=]+)=")
# Where Voigt's xx yy zz yz xz xy, and a matrix column by column, go in a matrix row by row.
_VOIGT = (0, 5, 4, 5, 1, 3, 4, 3, 2)
_BY_COLUMNS = (0, 3, 6, 1, 4, 7, 2, 5, 8)
_NOT_BARE = frozenset("\"'{}[]=\\")


@dataclass(frozen=True, slots=True, eq=False)
class Comments:
    """What the comment lines of frames that are alike say, in columns; `frames` are their numbers, ascending.

    A stress of NaN is none. The lattice of a molecule is zero.
    """

    frames: Int64
    ids: list[str]
    columns: str
    pbc: Flags
    lattice: Float64
    labels: dict[str, Float64]
    stress: Float64 | None

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, rows: Int64) -> "Comments":
        """Those at these rows."""
        return Comments(
            frames=self.frames[rows],
            ids=[self.ids[m] for m in rows.tolist()],
            columns=self.columns,
            pbc=self.pbc,
            lattice=self.lattice[rows],
            labels={name: values[rows] for name, values in self.labels.items()},
            stress=None if self.stress is None else self.stress[rows],
        )


def read_comments(frames: Frames, wanted: Sequence[int]) -> tuple[list[Comments], dict[int, Refused]]:
    """What the comment lines of these frames say, and those that make no sense."""
    groups: list[Comments] = []
    alone: dict[int, Comment | Refused] = {}
    waiting = np.array(wanted, np.int64)
    loners = 0
    while len(waiting) and loners < MOST_LONERS:
        k = int(waiting[0])
        group, rest = _alike(frames, waiting)
        if group is None:
            alone[k], rest = _read(frames.comment(k)), waiting[1:]
        else:
            groups.append(group)
        loners = loners + 1 if len(rest) == len(waiting) - 1 else 0
        waiting = rest
    alone |= {k: _read(frames.comment(k)) for k in waiting.tolist()}
    said = {k: comment for k, comment in alone.items() if isinstance(comment, Comment)}
    return groups + _grouped(said), {k: refused for k, refused in alone.items() if isinstance(refused, Refused)}


def _alike(frames: Frames, waiting: Int64) -> tuple[Comments | None, Int64]:
    """What the first of these lines says, and all that fit its outline; and the lines left."""
    if len(waiting) == 1:
        return None, waiting
    line = frames.comment(int(waiting[0]))
    keys = tuple(_KEY.findall(line))
    for outline in _OUTLINES.get(keys, []):
        fits, group = outline.read(frames, waiting)
        if fits[0]:
            return group, waiting[~fits]
    made = _outline(line)
    if made is None:
        return None, waiting
    fits, group = made.read(frames, waiting)
    if not fits[0]:
        return None, waiting
    if len(_OUTLINES) >= MOST_KEYS:
        _OUTLINES.clear()
    _OUTLINES[keys] = [made, *_OUTLINES.get(keys, [])[: MOST_WITH_KEYS - 1]]
    return group, waiting[~fits]


def _read(line: str) -> Comment | Refused:
    try:
        return comment_of(pairs_of(line))
    except Refused as refused:
        return refused


def _grouped(said: dict[int, Comment]) -> list[Comments]:
    """Comments that were read one by one, those together that say the same kind of things."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for k, comment in said.items():
        kind = (comment.columns, comment.pbc, tuple(comment.labels), comment.stress is None)
        alike.setdefault(kind, []).append(k)
    return [_together(members, [said[k] for k in members]) for members in alike.values()]


def _together(members: list[int], comments: list[Comment]) -> Comments:
    first = comments[0]
    lattices = [np.zeros((3, 3)) if comment.lattice is None else comment.lattice for comment in comments]
    stresses = [comment.stress for comment in comments if comment.stress is not None]
    return Comments(
        frames=np.array(members, np.int64),
        ids=[comment.id for comment in comments],
        columns=first.columns,
        pbc=first.pbc,
        lattice=np.array(lattices),
        labels={name: np.array([comment.labels[name] for comment in comments]) for name in first.labels},
        stress=np.array(stresses) if stresses else None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Outline:
    """What lines that are alike have in common, and where in them the rest is."""

    literals: list[bytes]
    kinds: list[int]
    id_span: int  # which of the spans is the id, -1 for none
    columns: str
    pbc: Flags
    lattice: list[int]  # columns of the numbers, row by row; empty for none
    stress: list[int]
    virial: list[int]
    labels: dict[str, int]  # column by canonical name
    constants: dict[str, float]

    def read(self, frames: Frames, wanted: Int64) -> tuple[Bool, Comments]:
        """Which of the lines fit, and what those say."""
        begins, ends = frames.comments[wanted], frames.rows[wanted]
        fits, numbers, spans = scan_lines(frames.text, begins, ends, self.literals, np.array(self.kinds, np.int32))
        fitting, numbers = wanted[fits], numbers[fits]
        lattice = _matrices(numbers, self.lattice) if self.lattice else np.zeros((len(fitting), 3, 3))
        labels = {name: numbers[:, column].copy() for name, column in self.labels.items()}
        labels |= {name: np.full(len(fitting), value) for name, value in self.constants.items()}
        ids = [""] * len(fitting)
        if self.id_span >= 0:
            text = frames.text
            ids = [text[a:b].decode("utf-8", "replace").strip() for a, b in spans[fits, self.id_span].tolist()]
        return fits, Comments(fitting, ids, self.columns, self.pbc, lattice, labels, self._stress(numbers, lattice))

    def _stress(self, numbers: Float64, lattice: Float64) -> Float64 | None:
        if self.stress:
            return _matrices(numbers, self.stress)
        if not self.virial or not self.lattice:
            return None
        virials = _matrices(numbers, self.virial)
        found = [stress_of_virial(virial, cell) for virial, cell in zip(virials, lattice, strict=True)]
        return np.array([np.full((3, 3), np.nan) if stress is None else stress for stress in found]).reshape(-1, 3, 3)


def _matrices(numbers: Float64, columns: list[int]) -> Float64:
    # Indexing a second axis gives an array whose first axis runs fastest.
    return np.ascontiguousarray(numbers[:, columns]).reshape(-1, 3, 3)


def _outline(line: str) -> _Outline | None:
    """The outline of a line; None where it makes no sense, or is written in a way that does not repeat."""
    # In ASCII a letter is a byte; without a line end the last field would end at nothing.
    if not line.isascii() or not line.endswith("\n"):
        return None
    try:
        pairs = pairs_of(line)
        comment = comment_of(pairs)
    except Refused:
        return None
    roles = roles_of(tuple(pair.key for pair in pairs))
    literals: list[bytes] = []
    kinds: list[int] = []
    columns: dict[int, list[int]] = {}  # by pair: of its numbers, or of its span
    at = 0
    for k, pair in enumerate(pairs):
        kind = _kind(k, pair, roles)
        if kind == LITERAL:
            continue
        bounds = _bounds(line, pair)
        if bounds is None or kind == OTHER:
            return None
        literals.append(line[at : bounds[0]].encode())
        at = bounds[1]
        first = kinds.count(SPAN) if kind == SPAN else sum(_width(other) for other in kinds)
        columns[k] = list(range(first, first + max(_width(kind), 1)))
        kinds.append(kind)
    named = canonical_labels({pairs[k].key: k for k in roles.labels if _is_finite(pairs[k].value)})
    return _Outline(
        literals=[*literals, line[at:].encode()],
        kinds=kinds,
        id_span=next((columns[k][0] for k in roles.ids if k in columns), -1),
        columns=comment.columns,
        pbc=comment.pbc,
        lattice=columns.get(roles.lattice, []),
        stress=_by_rows(columns.get(roles.stress, [])),
        virial=_by_rows(columns.get(roles.virial, []) if roles.stress < 0 else []),
        labels={name: columns[int(k)][0] for name, k in named.items() if int(k) in columns},
        constants={name: comment.labels[name] for name, k in named.items() if int(k) not in columns}
        | {name: value for name, value in comment.labels.items() if isinf(value)},
    )


def _kind(k: int, pair: Pair, roles: Roles) -> int:
    """What field a value becomes: LITERAL where it must be the same in every line, OTHER where it cannot be one."""
    if pair.span is None or not pair.value.strip() or k in (roles.columns, roles.pbc):
        return LITERAL
    if k == roles.lattice:
        return 9 if len(pair.value.split()) == 9 else OTHER
    if k == roles.stress or (k == roles.virial and roles.stress < 0):
        return count if (count := len(pair.value.split())) in (6, 9) else OTHER
    if k not in roles.labels:
        return SPAN
    if isinstance(scalar(pair.value), bool):
        return LITERAL
    if scalar(pair.value) is None:
        # Text that is missing, and text that is a mistake, are told apart line by line.
        return LITERAL if expects_number(pair.key) else REMARK
    return FINITE if _is_finite(pair.value) else LITERAL


def _width(kind: int) -> int:
    """How many numbers a field holds."""
    return 1 if kind == FINITE else max(kind, 0)


def _is_finite(text: str) -> bool:
    value = scalar(text)
    return value is not None and isfinite(value)


def _by_rows(columns: list[int]) -> list[int]:
    """The columns of a tensor's numbers in the order of a matrix, row by row."""
    return [columns[i] for i in (_VOIGT if len(columns) == 6 else _BY_COLUMNS)] if columns else []


def _bounds(line: str, pair: Pair) -> tuple[int, int] | None:
    """Where a value begins and ends inside its quotes; None if it is quoted or escaped in another way."""
    begin, end = pair.span or (0, 0)
    raw = line[begin:end]
    if raw.startswith('"'):
        inner = raw[1:-1]
        return (begin + 1, end - 1) if raw.endswith('"') and len(raw) > 1 and not {'"', "\\"} & set(inner) else None
    return None if _NOT_BARE & set(raw) else (begin, end)
