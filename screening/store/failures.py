"""Why rows are not ok: a code and a sentence for each, and the same as columns of a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from screening.crystals.text import TextColumn
from screening.store.ids import bytes_column, text_of
from screening.store.schema import FAILURE_COLUMNS, Array

NAMES = tuple(column.name for column in FAILURE_COLUMNS)
ROW, REASON, MESSAGES, OFFSETS = NAMES
# What a view has like columns for every row, though no file does: the code, empty for a row that is ok, and the
# sentence, None for such a row.
CODE, SENTENCE = SPREAD = ("reason", "message")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row is not ok: a code of lower-case letters, digits and `_` to count by, and a sentence to act on."""

    row: int
    reason: str
    message: str


def failure_columns(failures: Sequence[Failure]) -> dict[str, Array]:
    """Lay failures out as columns."""
    messages = TextColumn.of([failure.message for failure in failures])
    return {
        ROW: np.array([failure.row for failure in failures], "<i8"),
        REASON: bytes_column([failure.reason.encode() for failure in failures]),
        MESSAGES: messages.data,
        OFFSETS: messages.offsets,
    }


def failures_in(columns: Mapping[str, Array]) -> list[Failure]:
    """Undo `failure_columns`."""
    failed = zip(columns[ROW].tolist(), text_of(columns[REASON]), messages_in(columns), strict=True)
    return [Failure(*fields) for fields in failed]


def messages_in(columns: Mapping[str, Array]) -> TextColumn:
    """The sentences in columns."""
    return TextColumn(columns[MESSAGES], columns[OFFSETS])


def spread(name: str, rows: int, bad: Array, columns: Mapping[str, Array]) -> Array:
    """The code or the sentence of each of some rows, given which are bad and the failures of those, in order."""
    if name == CODE:
        codes = np.zeros(rows, columns[REASON].dtype)
        codes[bad] = columns[REASON]
        return codes
    sentences = np.full(rows, None, object)
    sentences[bad] = list(messages_in(columns))
    return sentences


def failed_part(columns: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
    """The failures of rows [start, stop), from the columns of a shard that holds more."""
    first, last = np.searchsorted(columns[ROW], [start, stop]).tolist()
    offsets = columns[OFFSETS][first : last + 1]
    return {
        ROW: columns[ROW][first:last],
        REASON: columns[REASON][first:last],
        MESSAGES: columns[MESSAGES][offsets[0] : offsets[-1]],
        OFFSETS: offsets - offsets[0],
    }
