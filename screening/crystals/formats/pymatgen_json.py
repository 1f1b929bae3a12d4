"""JSON and JSON lines: pymatgen's own dictionaries, and rows that hold a crystal beside their labels.

A document is one entry, a list of entries, an object of id → entry, a pandas or API envelope
(`{"columns", "index", "data": [[…]]}`, `{"data": [{…}]}`), ASE's JSON database, or one entry per line; entry.py has
the shapes of an entry. In an object of entries, `ids`, `nextid` and `metadata` (ASE's bookkeeping) are none.
"""

import io
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, final

import orjson

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats.chunk import UNREADABLE, Chunk, parsed, pieces
from screening.crystals.formats.entry import entry_of, holds_crystal
from screening.crystals.formats.format import Document, Format, Piece
from screening.crystals.formats.json_chunks import MEMBERS, ROWS, Opener, chunks_of
from screening.crystals.formats.shapes import json_value

# Files up to this size (as stored) are one piece and are opened by the worker alone.
SMALL = 1 << 18


@final
class PymatgenJson(Format):
    """JSON documents of crystals, streamed; `.gz` too."""

    name = "json"

    def claims(self, file_name: str) -> bool:
        """Whether a file of this name is JSON or JSON lines."""
        return file_name.lower().endswith((".json", ".jsonl", ".ndjson"))

    def split(self, document: Document) -> Iterator[Piece]:
        """Cut at entries, about CHUNK bytes a piece; a small file is one piece, unopened."""
        if (size := _stored_size(document)) <= SMALL:
            yield Piece(self.name, document, None, weight=size)
            return
        chunks = chunks_of(document.open, by_lines=_by_lines(document))
        # The content of an archive's member would travel with every piece, which has its part of it already.
        yield from pieces(self.name, replace(document, content=None), chunks, size_of=len)

    def parse(self, piece: Piece) -> list[Crystal | Rejection]:
        """Every entry of the piece, in order."""
        document = piece.document
        if piece.payload is not None:
            return parsed(document, piece.payload, _entry)
        try:
            content = document.read()
        except UNREADABLE:
            opener: Opener = document.open
        else:
            if (entry := _lone_entry(content)) is not None:
                return [entry_of(entry, fallback_id=document.stem, source=document.name)]
            opener = partial(io.BytesIO, content)
        chunks = chunks_of(opener, by_lines=_by_lines(document))
        return [entry for chunk in chunks for entry in parsed(document, chunk, _entry)]


def _stored_size(document: Document) -> int:
    if document.content is not None:
        return len(document.content)
    try:
        return document.path.stat().st_size if document.path else 0
    except OSError:
        return 0


def _by_lines(document: Document) -> bool:
    return document.file_name.lower().endswith((".jsonl", ".ndjson"))


def _lone_entry(content: bytes) -> dict[str, Any] | None:
    """The entry, when the content is one object that is one."""
    if content[:1] != b"{":
        return None
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return value if holds_crystal(value) else None


def _entry(chunk: Chunk, k: int, id: str, source: str) -> Iterator[Crystal | Rejection]:
    try:
        key, entry = _keyed(chunk, k)
    except (ValueError, RecursionError) as error:
        yield Rejection(id, source, Reason.UNREADABLE, f"is no valid JSON: {error}")
        return
    if _is_group(entry):
        for n, (name, inner) in enumerate(entry.items()):
            inner_id = name if name.startswith(key) else f"{key}/{name}"
            yield entry_of(inner, fallback_id=inner_id, source=f"{source}.{n}", key=inner_id)
    else:
        yield entry_of(entry, fallback_id=id, source=source, key=key)


def _is_group(entry: object) -> bool:
    """Whether an entry is itself an object of entries, as relaxation steps by material id are."""
    return isinstance(entry, dict) and not holds_crystal(entry) and any(map(holds_crystal, entry.values()))


def _keyed(chunk: Chunk, k: int) -> tuple[str, Any]:
    """The key that the document gives an entry, if any, and the entry."""
    value = chunk.values[k]
    if chunk.layout == ROWS:
        return _row(chunk, k, json_value(value))
    if chunk.layout == MEMBERS:
        member = json_value(b"{" + value + b"}")
        if len(member) != 1:
            raise ValueError('expected one `"id": entry` between two commas')
        ((key, entry),) = member.items()
        return key, entry
    return "", json_value(value)


def _row(chunk: Chunk, k: int, cells: object) -> tuple[str, dict[str, Any]]:
    """The index and the named cells of a row of a table."""
    if not isinstance(cells, list) or len(cells) != len(chunk.columns):
        raise ValueError(f"expected a row of {len(chunk.columns)} values, as many as there are columns")
    label = chunk.index[k] if k < len(chunk.index) else None
    # 0, 1, 2… is the index that pandas makes up.
    made_up = label is None or label == chunk.first + k
    return "" if made_up else str(label), dict(zip(chunk.columns, cells, strict=True))
