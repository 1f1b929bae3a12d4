"""The folder layout of CGCNN and its descendants: `id_prop.csv` lists ids and targets, `<id>.cif` are the crystals.

Entries come in the order of `id_prop.csv`. Its columns after the id are named by a header row where there is one,
else `target_0`, `target_1`, …, because the file does not say what they are. `atom_init.json` describes elements to
one model and is not read. CIF files that the list leaves out are not part of the data set: they are not read, and one
rejection counts and names them.
"""

import csv
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from gzip import decompress
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats.chunk import CHUNK, UNREADABLE, Chunk, CutShort, gathered, guarded, parsed, pieces
from screening.crystals.formats.format import Document, Format, Piece
from screening.crystals.formats.table import number_in
from screening.crystals.labels import marked_labels

LIST = "id_prop.csv"
UNLISTED = "unlisted"
ROWS_PER_PIECE = 256
SHOWN = 5
SUFFIXES = (".cif", ".cif.gz")
_ID_HEADERS = frozenset({"id", "ids", "cif_id", "cif", "material_id", "mp_id", "mpid", "name", "filename", "file"})
_MISSING = frozenset({"", "nan", "none", "null", "na", "n/a", "inf", "-inf", "+inf", "infinity", "-"})


@final
class CgcnnFolder(Format):
    """A folder with `id_prop.csv`; the document's path is the folder or that file."""

    name = "cgcnn"

    def claims(self, file_name: str) -> bool:
        return file_name.lower() == LIST

    def split(self, document: Document) -> Iterator[Piece]:
        return pieces(self.name, document, guarded(_chunks(document)), size_of=_row_weight)

    def parse(self, piece: Piece) -> list[Crystal | Rejection]:
        document, chunk = piece.document, piece.payload
        if chunk.layout == UNLISTED:
            return [Rejection(_folder(document).name, document.name, Reason.UNREADABLE, chunk.broken)]

        def entry(chunk: Chunk, k: int, id: str, source: str) -> Iterator[Crystal | Rejection]:
            yield _entry(document, chunk, chunk.values[k], id, source)

        return parsed(document, chunk, entry)


def _row_weight(_: object) -> int:
    return CHUNK // ROWS_PER_PIECE


def _folder(document: Document) -> Path:
    if document.path is None:
        raise CutShort(f"is a {LIST} inside an archive, apart from its CIF files; extract the archive")
    return document.path if document.path.is_dir() else document.path.parent


def _chunks(document: Document) -> Iterator[Chunk]:
    folder = _folder(document)
    listed = array("q")
    with (folder / LIST).open(encoding="utf-8-sig", errors="replace", newline="") as text:
        rows = _rows(csv.reader(text))
        first = next(rows, None)
        if first is None:
            return
        columns, rows = _headed(folder, first, rows)
        yield from gathered(_noted(rows, listed), Chunk([], columns=columns), size_of=_row_weight)
    if left_out := _left_out(folder, listed):
        yield Chunk([], layout=UNLISTED, broken=left_out)


def _rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    try:
        yield from (row for row in reader if any(cell.strip() for cell in row))
    except csv.Error as error:
        raise CutShort(f"has a {LIST} that is no valid CSV: {error}") from error


def _headed(folder: Path, first: list[str], rows: Iterator[list[str]]) -> tuple[tuple[str, ...], Iterator[list[str]]]:
    """The names of the target columns, and the rows without a header."""
    id, targets = first[0].strip(), [cell.strip() for cell in first[1:]]
    words = [cell for cell in targets if isinstance(number_in(cell), str) and cell.lower() not in _MISSING]
    is_header = (bool(words) or (not targets and id.lower() in _ID_HEADERS)) and _file_of(folder, id) is None
    if is_header:
        return tuple(name or f"target_{i}" for i, name in enumerate(targets)), rows
    return tuple(f"target_{i}" for i in range(len(targets))), chain([first], rows)


def _noted(rows: Iterator[list[str]], listed: "array[int]") -> Iterator[list[str]]:
    for row in rows:
        listed.append(hash(_bare(row[0].strip())))
        yield row


def _bare(file_name: str) -> str:
    """A file name without its CIF suffix: what `id_prop.csv` calls it."""
    lower = file_name.lower()
    return next((file_name[: -len(suffix)] for suffix in reversed(SUFFIXES) if lower.endswith(suffix)), file_name)


def _left_out(folder: Path, listed: Sequence[int]) -> str:
    """A sentence about the CIF files of the folder that are not listed; empty when there are none."""
    known = np.sort(np.array(listed, np.int64))
    count = 0
    shown: list[str] = []
    with os.scandir(folder) as found:
        for file in found:
            if file.name.lower().endswith(SUFFIXES) and not _among(known, hash(_bare(file.name))):
                count += 1
                shown = sorted([*shown, file.name])[:SHOWN]
    if not count:
        return ""
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    return f"{LIST} does not list {', '.join(shown)}{more}: not read; list them, or move them elsewhere"


def _among(known: np.ndarray[tuple[int], np.dtype[np.int64]], value: int) -> bool:
    place = int(known.searchsorted(value))
    return place < len(known) and int(known[place]) == value


def _file_of(folder: Path, id: str) -> Path | None:
    """The CIF file of an id, or None when there is none inside the folder."""
    inside = PurePosixPath(id)
    if not id or "\0" in id or inside.is_absolute() or ".." in inside.parts:
        return None
    candidates = (folder / f"{_bare(id)}{suffix}" for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _entry(document: Document, chunk: Chunk, row: list[str], place: str, source: str) -> Crystal | Rejection:
    folder = _folder(document)
    id = _bare(row[0].strip())
    if not id:
        return Rejection(place, source, Reason.UNREADABLE, f"a row of {LIST} has no id in its first column")
    path = _file_of(folder, id)
    if path is None:
        return Rejection(id, source, Reason.UNREADABLE, f"{LIST} lists it, but there is no {id}.cif beside")
    base = document.name.removesuffix(LIST).rstrip("/")
    read = _read_cif(path, id, f"{base}/{path.relative_to(folder).as_posix()}")
    cells = dict(zip(chunk.columns, map(number_in, map(str.strip, row[1:])), strict=False))
    return replace(read, labels={**read.labels, **marked_labels(cells)}) if isinstance(read, Crystal) else read


def _read_cif(path: Path, id: str, source: str) -> Crystal | Rejection:
    from screening.crystals.formats.cif import parse_cif_text

    try:
        content = path.read_bytes()
        content = decompress(content) if path.name.lower().endswith(".gz") else content
    except UNREADABLE as error:
        return Rejection(id, source, Reason.UNREADABLE, f"cannot be read: {error}")
    return parse_cif_text(content, id=id, source=source)
