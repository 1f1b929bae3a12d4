"""ASE's own files: SQLite databases (`.db`), LMDB databases (`.aselmdb`) and binary trajectories (`.traj`).

ASE's JSON databases are JSON documents (pymatgen_json.py). Everything is opened read-only. The labels of an entry are
its key-value pairs (in a trajectory the info of a frame), energy, free energy and magnetic moment; its id is one of
its key-value pairs, else the `unique_id` that ASE gave it. Forces are those without constraints.
"""

import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, final

import numpy as np

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats.chunk import UNREADABLE, Chunk, CutShort, guarded, parsed, pieces
from screening.crystals.formats.entry import entry_of
from screening.crystals.formats.format import Document, Format, Piece
from screening.crystals.formats.shapes import json_value

SUFFIXES = (".db", ".sqlite", ".sqlite3", ".aselmdb", ".traj")
ENTRIES_PER_PIECE = 512
# What an entry is taken to weigh before it is read.
ENTRY_BYTES = 2000
_COLUMNS = "id, unique_id, numbers, positions, cell, pbc, energy, free_energy, forces, stress, magmom, key_value_pairs"
_BLOBS = {"numbers": "<i4", "positions": "<f8", "cell": "<f8", "forces": "<f8", "stress": "<f8"}
_ROWS_OF_THREE = ("positions", "cell", "forces")
_RESULTS = ("energy", "free_energy", "forces", "stress", "magmom")
Entries = dict[int, Any]


@final
class AseDb(Format):
    """ASE databases and trajectories, in pieces of row ids or frame numbers that workers read."""

    name = "ase"

    def claims(self, file_name: str) -> bool:
        return file_name.lower().endswith(SUFFIXES)

    def split(self, document: Document) -> Iterator[Piece]:
        return pieces(self.name, document, guarded(_chunks(document)), size_of=lambda _: ENTRY_BYTES)

    def parse(self, piece: Piece) -> list[Crystal | Rejection]:
        document, chunk = piece.document, piece.payload
        found, lost = _read_through(_READERS.get(chunk.layout, _sqlite_rows), document, chunk.values)

        def entry(chunk: Chunk, k: int, id: str, source: str) -> Iterator[Crystal | Rejection]:
            row = found.get(chunk.values[k], lost)
            if isinstance(row, str):
                yield Rejection(id, source, Reason.UNREADABLE, row)
            else:
                yield entry_of(row, fallback_id=id, source=source)

        return parsed(document, chunk, entry)


def _suffix(document: Document) -> str:
    return Path(document.file_name.lower()).suffix


def _kind(document: Document) -> str:
    """`.traj`, `.aselmdb`, or any other suffix for SQLite; a name that tells nothing leaves it to the first bytes."""
    suffix = _suffix(document)
    if suffix in SUFFIXES:
        return suffix
    with document.open() as stream:
        return ".traj" if stream.read(8) == b"- of Ulm" else ".db"


def _chunks(document: Document) -> Iterator[Chunk]:
    kind = _kind(document)
    rows = {".traj": _frame_numbers, ".aselmdb": _lmdb_ids}.get(kind, _sqlite_ids)(document)
    first = 0
    while held := list(islice(rows, ENTRIES_PER_PIECE)):
        yield Chunk(held, first, kind)
        first += len(held)


def _read_through(
    read: Callable[[Document, Sequence[int]], Iterator[tuple[int, Any]]], document: Document, rows: Sequence[int]
) -> tuple[Entries, str]:
    """The entries by row, or a sentence in place of one; and why those that are missing are."""
    found: Entries = {}
    try:
        found.update(read(document, rows) if rows else ())
    except UNREADABLE as error:
        return found, f"the document {error}"
    return found, "the row disappeared while the database was read; read it when nothing writes to it"


def _decoded(decode: Callable[[], dict[str, Any]]) -> dict[str, Any] | str:
    """What `decode` makes of one row, or a sentence about what is wrong with it."""
    try:
        return decode()
    except Exception as error:  # any bytes can be in a row, and ASE's reader raises what it meets
        return f"its row cannot be decoded: {type(error).__name__}: {error}"[:300]


@contextmanager
def _on_disk(document: Document) -> Iterator[Path]:
    """A path with the document's bytes, decompressed, for libraries that open files by name."""
    if document.path is not None and document.content is None and not document.name.lower().endswith(".gz"):
        yield document.path
        return
    with NamedTemporaryFile(prefix="screening-", suffix=_suffix(document)) as copy:
        with document.open() as stream:
            while block := stream.read(1 << 20):
                copy.write(block)
        copy.flush()
        yield Path(copy.name)


# SQLite.


@contextmanager
def _sqlite(document: Document) -> Iterator[sqlite3.Connection]:
    try:
        with _on_disk(document) as path, closing(sqlite3.connect(_read_only(path), uri=True)) as connection:
            connection.text_factory = lambda text: text.decode("utf-8", "replace")
            connection.row_factory = sqlite3.Row
            yield connection
    except sqlite3.Error as error:
        raise CutShort(f"cannot be read as an ASE database of version 5 or later: {error}") from error


def _read_only(path: Path) -> str:
    path.open("rb").close()  # says why a file cannot be read, which SQLite does not
    return path.resolve().as_uri() + "?mode=ro"


def _sqlite_ids(document: Document) -> Iterator[int]:
    with _sqlite(document) as connection:
        yield from (int(row[0]) for row in connection.execute("SELECT id FROM systems ORDER BY id"))


def _sqlite_rows(document: Document, ids: Sequence[int]) -> Iterator[tuple[int, Any]]:
    query = f"SELECT {_COLUMNS} FROM systems WHERE id BETWEEN ? AND ? ORDER BY id"
    with _sqlite(document) as connection:
        for row in connection.execute(query, (ids[0], ids[-1])):
            yield row["id"], _decoded(partial(_sqlite_entry, row))


def _sqlite_entry(row: sqlite3.Row) -> dict[str, Any]:
    entry = {name: row[name] for name in row.keys() if row[name] is not None}  # noqa: SIM118
    for name, dtype in _BLOBS.items():
        if name in entry:
            array = np.frombuffer(entry[name], dtype)
            entry[name] = array.reshape(-1, 3) if name in _ROWS_OF_THREE else array
    mask = int(entry.get("pbc", 0))
    entry["pbc"] = [bool(mask & bit) for bit in (1, 2, 4)]
    entry["key_value_pairs"] = json_value(entry.get("key_value_pairs", "{}"))
    # Row ids start at 1 in every database: they tell no two entries of different files apart.
    del entry["id"]
    return entry


# LMDB: key `b"1"` holds zlib-compressed JSON as in ASE's JSON database; `nextid` and `deleted_ids` bound the keys.


@contextmanager
def _lmdb(document: Document) -> Iterator[Any]:
    try:
        import lmdb  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise CutShort("is an LMDB database, which needs the package `lmdb`: pip install lmdb") from error
    try:
        with _on_disk(document) as path:
            options = {"subdir": False, "readonly": True, "lock": False, "readahead": False}
            with lmdb.open(str(path), **options) as environment:
                _require_whole(path, environment)
                with environment.begin() as transaction:
                    yield transaction
    except (lmdb.Error, ValueError) as error:
        raise CutShort(f"cannot be read as an LMDB database: {error}") from error


def _require_whole(path: Path, environment: Any) -> None:
    """Refuse a truncated file: LMDB maps it into memory, and touching a missing page kills the process."""
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if path.stat().st_size < expected:
        raise CutShort(f"is truncated: {path.stat().st_size} bytes of {expected}")


def _lmdb_value(transaction: Any, key: str) -> Any:
    stored = transaction.get(key.encode())
    return None if stored is None else json_value(zlib.decompress(stored))


def _lmdb_ids(document: Document) -> Iterator[int]:
    with _lmdb(document) as transaction:
        stop = int(_lmdb_value(transaction, "nextid") or 1)
        deleted = set(_lmdb_value(transaction, "deleted_ids") or ())
    # A process can open an LMDB file only once at a time: it must be closed while pieces are parsed.
    yield from (id for id in range(1, stop) if id not in deleted)


def _lmdb_rows(document: Document, ids: Sequence[int]) -> Iterator[tuple[int, Any]]:
    with _lmdb(document) as transaction:
        for id in ids:
            yield id, _decoded(partial(_lmdb_entry, transaction, id))


def _lmdb_entry(transaction: Any, id: int) -> dict[str, Any]:
    entry = _lmdb_value(transaction, str(id))
    if not isinstance(entry, dict):
        raise KeyError(f"no row {id}")
    entry.pop("id", None)
    return entry


# Trajectories, through the container format alone: constraints and calculators are not needed, so none is built.


@contextmanager
def _trajectory(document: Document) -> Iterator[Any]:
    from ase.io.ulm import Reader

    open_reader: Any = Reader
    with _on_disk(document) as path, path.open("rb") as stream:
        try:
            reader = open_reader(stream)
            tag = reader.get_tag()
        except Exception as error:  # ASE reads offsets and JSON from the file and raises what it meets
            raise CutShort(f"cannot be read as an ASE trajectory: {type(error).__name__}: {error}"[:300]) from error
        if tag != "ASE-Trajectory":
            raise CutShort(f"is tagged `{tag}`, expected an ASE trajectory")
        yield reader


def _frame_numbers(document: Document) -> Iterator[int]:
    with _trajectory(document) as reader:
        count = len(reader)
    yield from range(count)


def _frames(document: Document, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
    with _trajectory(document) as reader:
        for number in numbers:
            yield number, _decoded(partial(_frame_entry, reader, number))


def _frame_entry(reader: Any, number: int) -> dict[str, Any]:
    frame = reader[number]
    # Elements and periodic directions are written once, with the first frame, while they stay the same.
    head = frame if "numbers" in frame else reader
    entry = {"numbers": head.numbers, "pbc": head.pbc, "positions": frame.positions, "cell": frame.cell}
    info = frame.get("info")
    entry["key_value_pairs"] = info if isinstance(info, dict) else {}
    if "calculator" in frame:
        results = frame.calculator
        entry |= {name: results.get(name) for name in _RESULTS if name in results}
    return entry


_READERS = {".traj": _frames, ".aselmdb": _lmdb_rows}
