"""CSV, TSV and Parquet: one crystal a row, in a CIF, POSCAR or JSON column or in columns of its own.

Columns of their own are those of OPTIMADE (`lattice_vectors`, `cartesian_site_positions`, `species_at_sites`) and ASE
(`numbers`, `positions`, `cell`, `pbc`), in Parquet alone. Every other cell that is a number is a label under the name
of its column.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, final

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats.chunk import (
    UNREADABLE,
    Chunk,
    CutShort,
    WrongContent,
    gathered,
    guarded,
    parsed,
    pieces,
)
from screening.crystals.formats.entry import carrier_column, entry_of, names_id
from screening.crystals.formats.format import Document, Format, Piece
from screening.crystals.formats.shapes import ARRAYS, shape_of

if TYPE_CHECKING:
    import polars as pl

# A quoted cell longer than this was never closed: a CIF of a million atoms is as long.
CELL_LIMIT = 1 << 26
PARQUET_ROWS = 2048
# What a row is taken to weigh before it is read.
ROW_BYTES = 2000
SLICE = "slice"
EXPECTED = "expected a column `cif`, `structure` or `poscar`"


@final
class Table(Format):
    """Tables of crystals: delimited text (`.gz` too) in chunks of rows, Parquet in slices that workers read."""

    name = "table"

    def claims(self, file_name: str) -> bool:
        lower = file_name.lower()
        return lower.endswith((".csv", ".tsv", ".parquet", ".pq")) and lower != "id_prop.csv"

    def split(self, document: Document) -> Iterator[Piece]:
        if _is_parquet(document):
            return pieces(self.name, document, guarded(_slices(document)), size_of=_row_size)
        # The content of an archive's member would travel with every piece, which has its rows already.
        bare = replace(document, content=None)
        return pieces(self.name, bare, guarded(_text_chunks(document)), size_of=_row_size)

    def parse(self, piece: Piece) -> list[Crystal | Rejection]:
        chunk: Chunk = piece.payload
        if chunk.layout == SLICE and chunk.values:
            try:
                chunk = _read_slice(piece.document, chunk)
            except UNREADABLE as error:
                lost = islice(chunk.places(piece.document), len(chunk.values))
                return [Rejection(*place, Reason.UNREADABLE, f"the document {error}") for place in lost]
        return parsed(piece.document, chunk, _entry)


def _is_parquet(document: Document) -> bool:
    return document.file_name.lower().endswith((".parquet", ".pq"))


def _entry(chunk: Chunk, k: int, id: str, source: str) -> Iterator[Crystal | Rejection]:
    row = chunk.values[k]
    if isinstance(row, str):
        yield Rejection(id, source, Reason.UNREADABLE, row)
    elif len(row) != len(chunk.columns):
        message = f"the row has {len(row)} cells, expected {len(chunk.columns)} as in the header"
        yield Rejection(id, source, Reason.UNREADABLE, message)
    else:
        yield entry_of(dict(zip(chunk.columns, row, strict=True)), fallback_id=id, source=source)


# Delimited text.


def _text_chunks(document: Document) -> Iterator[Chunk]:
    with io.TextIOWrapper(document.open(), encoding="utf-8-sig", errors="replace", newline="") as text:
        header = text.readline(CELL_LIMIT)
        delimiter, columns = _header(header, "\t" if document.file_name.lower().endswith(".tsv") else ",")
        if not columns:
            return
        plan = Chunk([], columns=columns)
        rows = _rows(text, delimiter, [_is_text(c) for c in columns])
        yield from gathered(rows, plan, size_of=_row_size)


def _header(line: str, usual: str) -> tuple[str, tuple[str, ...]]:
    """The delimiter with which the header names a column of crystals, and the column names."""
    for delimiter in dict.fromkeys((usual, ",", "\t", ";", "|")):
        names = next(csv.reader([line], delimiter=delimiter), [])
        if carrier_column(names) is not None:
            return delimiter, _distinct(names)
    if not line.strip():
        return usual, ()
    shown = line.strip() if len(line) <= 200 else line[:197].strip() + "..."
    cure = f"{EXPECTED} (arrays in columns: Parquet)"
    if any(map(names_id, re.split(r"[,;|\t]", line.strip()))):
        cure += "; if it lists labels of `<id>.cif` files beside it, name it id_prop.csv"
    raise WrongContent(f"has the header `{shown}`; {cure}")


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Column names, with `.1`, `.2` after those that are taken."""
    taken: dict[str, None] = {}
    for name in names:
        candidate, n = name, 0
        while candidate in taken:
            n += 1
            candidate = f"{name}.{n}"
        taken[candidate] = None
    return tuple(taken)


def _is_text(column: str) -> bool:
    """Whether a column holds text by its name, however much its cells look like numbers."""
    return names_id(column) or carrier_column([column]) is not None


def _rows(text: io.TextIOWrapper, delimiter: str, is_text: Sequence[bool]) -> Iterator[list[Any] | str]:
    """The rows with numbers as numbers, and a sentence for each row that is no valid CSV."""
    # The limit belongs to the process; the module has no other way to read a CIF longer than 131,072 characters.
    csv.field_size_limit(max(CELL_LIMIT, csv.field_size_limit()))
    reader = csv.reader(text, delimiter=delimiter)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield f"is no valid CSV: {error}"
            continue
        if row is None:
            return
        if row:
            yield [c if t else number_in(c) for c, t in zip(row, is_text, strict=False)] + list(row[len(is_text) :])


def number_in(cell: str) -> float | str | None:
    """A number or truth value written in a cell, None when it is empty, else its text.

    `inf`, `nan` and words that Python reads as them (the compound InF) stay text: they are no labels.
    """
    if not cell:
        return None
    if cell[0] in "0123456789+-. " and "_" not in cell:
        try:
            return float(cell)
        except ValueError:
            return cell
    return {"true": 1.0, "false": 0.0}.get(cell.strip().lower(), cell) if len(cell) < 8 else cell


def _row_size(row: object) -> int:
    if isinstance(row, list):
        return sum(len(cell) if isinstance(cell, str) else 8 for cell in row)
    return len(row) if isinstance(row, str) else ROW_BYTES


# Parquet.


def _slices(document: Document) -> Iterator[Chunk]:
    with _polars_errors():
        import polars as pl

        scanned = _scanned(document)
        columns = _useful_columns(scanned)
        count = int(scanned.select(pl.len()).collect().item())
    for first in range(0, count, PARQUET_ROWS):
        yield Chunk(range(first, min(first + PARQUET_ROWS, count)), first, SLICE, columns)


def _read_slice(document: Document, chunk: Chunk) -> Chunk:
    with _polars_errors():
        import polars as pl
        import polars.selectors as cs

        rows = _scanned(document).slice(chunk.first, len(chunk.values)).select(chunk.columns)
        read = rows.with_columns(cs.decimal().cast(pl.Float64)).collect().rows()
    if len(read) != len(chunk.values):
        raise CutShort(f"has {len(read)} of the {len(chunk.values)} rows from row {chunk.first} on")
    return replace(chunk, values=read)


def _scanned(document: Document) -> "pl.LazyFrame":
    import polars as pl

    if document.path is not None and document.content is None and not document.name.lower().endswith(".gz"):
        return pl.scan_parquet(document.path, glob=False)
    return pl.scan_parquet(io.BytesIO(document.read()), glob=False)


def _useful_columns(scanned: "pl.LazyFrame") -> tuple[str, ...]:
    """The columns that can be a crystal, an id, a label or forces: the others are not even decoded."""
    schema = scanned.collect_schema()
    names = schema.names()
    if carrier_column(names) is None and shape_of(dict.fromkeys(names)) is None:
        raise WrongContent(f"has the columns {', '.join(names[:20])}; {EXPECTED}, or those of an OPTIMADE or ASE table")
    numeric = (name for name, kind in schema.items() if kind.is_numeric() or kind.to_python() is bool)
    wanted = {*numeric, *(name for name in names if _is_text(name) or name in ARRAYS)}
    return tuple(name for name in names if name in wanted)


@contextmanager
def _polars_errors() -> Iterator[None]:
    """Turn what Polars raises at damaged Parquet, its panics too, into CutShort."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise CutShort(f"cannot be read as Parquet: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
