"""Crystals that packing refused, as rows of results: every one that was read has a row."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from screening.crystals.crystal import Reason
from screening.crystals.packed import PackedCrystals
from screening.crystals.text import TextColumn
from screening.store import failures
from screening.store.ids import bytes_column, id_column
from screening.store.relaxed import RelaxedRows
from screening.store.schema import COLUMNS, EMBEDDING, Array, Column, Stamp, Status, target_column


def rejected_columns(
    crystals: PackedCrystals,
    start: int,
    stop: int,
    stamp: Stamp,
    embedding: int = 0,
    names: Iterable[str] | None = None,
) -> dict[str, Array]:
    """Columns, or those asked for, of rejections [start, stop) of the packed input; what is not known is 0 or NaN.

    Only the texts that they need are read.
    """
    count = stop - start
    text = partial(_text, crystals, start, stop)
    nothing = partial(np.full, count, np.nan, np.float32)
    makers: dict[str, Callable[[], Array]] = {column.name: partial(_zeros, column, count) for column in COLUMNS}
    makers |= {target_column(target.name): nothing for target in stamp.targets}
    makers |= {EMBEDDING: partial(np.full, (count, embedding), np.nan, np.float32)} if embedding else {}
    if stamp.relaxation is not None:
        relaxed = RelaxedRows.nothing(count).columns(start)
        makers |= {name: partial(relaxed.__getitem__, name) for name in relaxed}
    makers |= {
        "row": lambda: -1 - np.arange(start, stop, dtype=np.int64),
        "status": lambda: _statuses(text("reasons")),
        "id": lambda: id_column(text("ids")),
        "volume_per_atom": nothing,
        failures.ROW: lambda: makers["row"](),
        failures.REASON: lambda: bytes_column([reason.encode() for reason in text("reasons")]),
        failures.MESSAGES: lambda: text("messages").data,
        failures.OFFSETS: lambda: text("messages").offsets,
    }
    return {name: makers[name]() for name in (makers if names is None else names)}


def _text(crystals: PackedCrystals, start: int, stop: int, field: str) -> TextColumn:
    return TextColumn.of(crystals.rejection_text(field, start, stop))


def _zeros(column: Column, count: int) -> Array:
    return np.zeros((count, *column.shape), "S1" if column.dtype == "S" else column.dtype)


def _statuses(reasons: TextColumn) -> Array:
    duplicate = np.fromiter((reason == Reason.DUPLICATE_ID for reason in reasons), bool, len(reasons))
    return np.where(duplicate, np.uint8(Status.DUPLICATE), np.uint8(Status.REJECTED))
