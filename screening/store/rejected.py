"""Crystals that packing refused, as rows of results: every one that was read has a row."""

import numpy as np

from screening.crystals.crystal import Reason, Rejection
from screening.crystals.text import TextColumn
from screening.store.ids import bytes_column, id_column
from screening.store.schema import COLUMNS, EMBEDDING, Array, Stamp, Status, target_column


def rejected_columns(rejections: list[Rejection], first: int, stamp: Stamp, embedding: int = 0) -> dict[str, Array]:
    """Columns for rejections of the packed input from number `first` on: what is not known of them is 0 or NaN."""
    count = len(rejections)
    columns: dict[str, Array] = {
        column.name: np.zeros((count, *column.shape), "S1" if column.dtype == "S" else column.dtype)
        for column in COLUMNS
    }
    messages = TextColumn.of([refused.message for refused in rejections])
    duplicate = np.array([refused.reason == Reason.DUPLICATE_ID for refused in rejections], bool)
    nothing = np.full(count, np.nan, np.float32)
    columns |= {
        "row": -1 - np.arange(first, first + count, dtype=np.int64),
        "status": np.where(duplicate, np.uint8(Status.DUPLICATE), np.uint8(Status.REJECTED)),
        "id": id_column([refused.id for refused in rejections]),
        "volume_per_atom": nothing,
    }
    columns |= {target_column(target.name): nothing for target in stamp.targets}
    columns |= {EMBEDDING: np.full((count, embedding), np.nan, np.float32)} if embedding else {}
    columns |= {
        "failures/row": columns["row"],
        "failures/reason": bytes_column([refused.reason.encode() for refused in rejections]),
        "failures/message/utf8": messages.data,
        "failures/message/offsets": messages.offsets,
    }
    return columns
