"""Rows of results as polars frames, and their numbers as labels of crystals."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from screening.arrays import Int64
from screening.query.fields import ELEMENTS, ENDING, MESSAGE, REASON, SOURCE, STATUS, Field, Kind
from screening.query.pick import picked_sources
from screening.store.ids import text_of
from screening.store.read import Results
from screening.store.rows import element_names
from screening.store.schema import Array, Ending, Status

if TYPE_CHECKING:
    import polars


class Frames:
    """Reads some fields at the places that it is asked for."""

    def __init__(self, results: Results, fields: Sequence[Field]) -> None:
        self._results, self._fields = results, fields

    def each(self, places: Int64, rows: int) -> "Iterator[polars.DataFrame]":
        """Frames of so many rows each, at least one, in the order of the places."""
        import polars

        # In order, each part reads chunks of its own; else every part would read nearly all of them.
        size = rows if (np.diff(places) > 0).all() else max(len(places), 1)
        for first in range(0, max(len(places), 1), size):
            columns = self._columns(places[first : first + size], self._fields)
            frame = polars.DataFrame([self._series(field, columns[field.name]) for field in self._fields])
            yield from frame.iter_slices(rows) if len(frame) else [frame]

    def labels(self, places: Int64) -> Mapping[str, list[float]]:
        """The predictions among the fields, as they are printed, by the name of the field."""
        numbers = [field for field in self._fields if field.dataset.startswith("targets/")]
        # Through text, so that 0.1 stays 0.1 and does not become 0.10000000149.
        return {name: list(map(float, column.astype(str))) for name, column in self._columns(places, numbers).items()}

    def _columns(self, places: Int64, fields: Sequence[Field]) -> dict[str, Array]:
        """Columns at places in any order; each chunk of the store is read once."""
        order = np.argsort(places, kind="stable")
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        ascending = places[order]
        return {field.name: self._column(field, ascending)[back] for field in fields}

    def _column(self, field: Field, places: Int64) -> Array:
        if field == SOURCE:
            return np.array(picked_sources(self._results, places), object)
        column = field.of({name: self._results.take(name, places) for name in field.datasets})
        return element_names(column) if field == ELEMENTS else column

    def _series(self, field: Field, column: Array) -> "polars.Series":
        import polars

        values: Any = column
        dtype: Any = None
        if field == STATUS:
            values, dtype = [Status(code).word for code in column.tolist()], polars.String
        elif field == ENDING:
            words = {ending: None if ending is Ending.NONE else ending.word for ending in Ending}
            values, dtype = [words[Ending(code)] for code in column.tolist()], polars.String
        elif field.kind != Kind.NUMBER:
            texts: list[str | None] = column.tolist() if field in (MESSAGE, SOURCE) else [*text_of(column)]
            if field == REASON:
                texts = [text or None for text in texts]
            values, dtype = [_printable(text) for text in texts], polars.String
        series = polars.Series(field.name, values, dtype=dtype)
        series = series.fill_nan(None) if column.dtype.kind == "f" else series
        if field.blank is not None:
            return series.cast(polars.Series(np.empty(0, field.blank.dtype)).dtype)
        return series.cast(polars.UInt8) if field.count is not None else series


def _printable(text: str | None) -> str | None:
    """A text as UTF-8 has it: halves of surrogate pairs, which only file names have, become question marks."""
    return text if text is None or text.isascii() else text.encode("utf-8", "replace").decode()
