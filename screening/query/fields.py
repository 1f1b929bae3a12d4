"""What can be asked for in a store: every column under one flat name, the aliases of targets too.

A target that has the name of a column, such as `volume_per_atom`, is asked for as `targets/volume_per_atom`.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from screening.crystals.labels import canonical
from screening.errors import InputError
from screening.predictions import Target
from screening.store.failures import CODE, SENTENCE
from screening.store.rows import element_masks
from screening.store.schema import COLUMNS, RELAXATION, RELAXATION_COLUMNS, TARGETS, Array, Ending, target_column


class Kind(StrEnum):
    """What can be done with a field."""

    NUMBER = "a number"
    TEXT = "text"
    ELEMENTS = "elements"
    SHOWN = "text that can be shown, not searched"


@dataclass(frozen=True, slots=True)
class Unseen:
    """Counts the elements of crystals that are not among the known ones; NaN for a crystal that was refused."""

    known: tuple[int, ...]

    def __call__(self, masks: Array) -> Array:
        numbers = np.array(self.known, np.int64)
        seen = element_masks(np.zeros(len(numbers), np.int64), numbers, 1)
        counts = np.bitwise_count(masks & ~seen).sum(axis=1).astype(np.float32)
        return np.where(masks.any(axis=1), counts, np.float32(np.nan))


@dataclass(frozen=True, slots=True)
class Blank:
    """Where whole numbers, which know no NaN, say nothing: where a column, the same or another, has a code.

    `dtype` is what they are stored as.
    """

    dataset: str
    code: int
    dtype: str

    def __call__(self, numbers: Array, codes: Array) -> Array:
        """The numbers, NaN where they say nothing."""
        return np.where(codes == self.code, np.nan, numbers.astype(np.float64))


@dataclass(frozen=True, slots=True)
class Field:
    """A column by the name it is asked for; `dataset` is its column in the store.

    `count` works it out of that column, where it is not the column itself; `blank` tells where it says nothing.
    """

    name: str
    kind: Kind
    unit: str
    dataset: str
    count: Unseen | None = None
    blank: Blank | None = None

    @property
    def datasets(self) -> tuple[str, ...]:
        """The columns in the store that it takes."""
        return (self.dataset,) if self.blank is None else (self.dataset, self.blank.dataset)

    def of(self, columns: Mapping[str, Array]) -> Array:
        """Its values, given those columns."""
        column = columns[self.dataset]
        if self.count is not None:
            return self.count(column)
        return column if self.blank is None else self.blank(column, columns[self.blank.dataset])


STATUS = Field("status", Kind.TEXT, "", "status")
ELEMENTS = Field("elements", Kind.ELEMENTS, "", "elements")
ENDING = Field(RELAXATION, Kind.TEXT, "", RELAXATION)
REASON = Field("reason", Kind.TEXT, "", CODE)
MESSAGE = Field("message", Kind.SHOWN, "", SENTENCE)
# In the packed input, at the row that a result has; the store knows the row alone.
SOURCE = Field("source", Kind.SHOWN, "", "row")
UNSEEN = "unseen_elements"
_TEXTS = ("id", "formula")
# Crystals that packing refused have no atoms, and those that were not relaxed took no steps.
_BLANK = {"nsites": ("nsites", 0), "nelements": ("nelements", 0), "relaxation_steps": (RELAXATION, int(Ending.NONE))}


def fields_of(
    targets: Sequence[Target], *, relaxing: bool = False, known: Sequence[int] | None = None
) -> dict[str, Field]:
    """Name everything that can be asked for, in the order of the store; of a run that is `relaxing`, more of it.

    `known` are the elements in training, if the run says them; how many others a crystal has can then be asked.
    """
    fields = {
        field.name: field for field in (STATUS, ELEMENTS, REASON, MESSAGE, SOURCE, *([ENDING] if relaxing else []))
    }
    more = RELAXATION_COLUMNS if relaxing else ()
    for column in (*COLUMNS, *more):
        kind = Kind.TEXT if column.name in _TEXTS else Kind.NUMBER
        blank = Blank(*_BLANK[column.name], column.dtype) if column.name in _BLANK else None
        fields.setdefault(column.name, Field(column.name, kind, column.unit, column.name, blank=blank))
    for target in targets:
        name = target_name(target)
        fields[name] = Field(name, Kind.NUMBER, target.unit, target_column(target.name))
    order = [column.name for column in COLUMNS]
    if known is not None:
        fields[UNSEEN] = Field(UNSEEN, Kind.NUMBER, "1", ELEMENTS.dataset, Unseen(tuple(known)))
        order.insert(order.index(ELEMENTS.name) + 1, UNSEEN)
    order += [target_name(target) for target in targets]
    order += [column.name for column in more] + [REASON.name, MESSAGE.name, SOURCE.name]
    return {name: fields[name] for name in order}


def target_name(target: Target) -> str:
    """The name that a target is asked for by."""
    taken = {column.name for column in (*COLUMNS, *RELAXATION_COLUMNS)}
    taken |= {REASON.name, MESSAGE.name, SOURCE.name, UNSEEN}
    return f"{TARGETS}/{target.name}" if target.name in taken else target.name


def known_field(fields: Mapping[str, Field], name: str) -> Field | None:
    """Find a field by its name, in any case, or by an alias of its target."""
    for tried in (name, name.lower(), canonical(name)):
        if tried in fields:
            return fields[tried]
    return None


def required_field(fields: Mapping[str, Field], name: str, where: str) -> Field:
    """Find a field, or say which ones have a name like this."""
    field = known_field(fields, name)
    if field is None:
        near = difflib.get_close_matches(name.lower(), fields, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(fields)}"
        raise InputError(f"{where}: there is no column {name!r} in these results; {advice}")
    return field
