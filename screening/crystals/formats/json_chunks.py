"""Plans how a JSON document is cut into chunks of entries, in constant memory.

A document is read from its start as far as its layout shows, then once more in chunks.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from screening.crystals.formats.chunk import Chunk, CutShort, gathered, guarded
from screening.crystals.formats.entry import tells_entry
from screening.crystals.formats.json_stream import Outline, lines, outline, values
from screening.crystals.formats.shapes import json_value

# How the values of a chunk are to be read: as entries, as `"id": entry`, or as rows of a table.
ELEMENTS, MEMBERS, ROWS = "elements", "members", "rows"
_BOOKKEEPING = re.compile(rb'\s*"(?:ids"\s*:\s*\[|nextid"\s*:\s*\d|metadata"\s*:\s*\{)')
Opener = Callable[[], BinaryIO]


def chunks_of(opener: Opener, *, by_lines: bool) -> Iterator[Chunk]:
    """Cut a document into chunks of entries, still JSON."""
    return guarded(_planned(opener, by_lines))


def _planned(opener: Opener, by_lines: bool) -> Iterator[Chunk]:
    with opener() as stream:
        start, first_byte = _first_byte(stream)
    if first_byte == b"[":
        yield from _packed(opener, start, Chunk([], layout=ELEMENTS), depth=1)
    elif by_lines or not first_byte:
        yield from _lines(opener, start)
    elif first_byte == b"{":
        yield from _object(opener, start)
    else:
        raise CutShort(f"starts with {first_byte!r}, expected {{ or [")


def _first_byte(stream: BinaryIO) -> tuple[int, bytes]:
    """Offset and value of the first byte that is neither white nor a byte order mark."""
    offset = 0
    while block := stream.read(4096):
        if offset == 0 and block.startswith(b"\xef\xbb\xbf"):
            block = b"   " + block[3:]
        if text := block.lstrip():
            return offset + len(block) - len(text), text[:1]
        offset += len(block)
    return offset, b""


def _object(opener: Opener, start: int) -> Iterator[Chunk]:
    with _opened_at(opener, start) as stream:
        found = outline(stream)
    if found.followed:
        yield from _packed(opener, start, Chunk([], layout=ELEMENTS), depth=0)
    elif tells_entry(found.members):
        with _opened_at(opener, start) as stream:
            yield Chunk([stream.read()], layout=ELEMENTS)
    elif _at(found, "data")[1] == b"[":
        yield from _envelope(opener, start, found)
    else:
        yield from _packed(opener, start, Chunk([], layout=MEMBERS), depth=1)


def _envelope(opener: Opener, start: int, found: Outline) -> Iterator[Chunk]:
    """The elements of `data`; with `columns`, each is a row of the table that pandas writes."""
    plan = Chunk([], layout=ELEMENTS)
    if "columns" in found.members:
        columns = _list_at(opener, start + _at(found, "columns")[0])
        index = _list_at(opener, start + _at(found, "index")[0]) if "index" in found.members else ()
        plan = Chunk([], layout=ROWS, columns=tuple(map(str, columns)), index=index)
    yield from _packed(opener, start + _at(found, "data")[0], plan, depth=1, alone=False)


def _at(found: Outline, key: str) -> tuple[int, bytes]:
    return found.members.get(key, (0, b""))


def _list_at(opener: Opener, start: int) -> tuple[Any, ...]:
    """The list that starts at this offset, whole; empty when it is no valid JSON."""
    with _opened_at(opener, start) as stream:
        try:
            return tuple(map(json_value, values(stream, depth=1, alone=False)))
        except ValueError:
            return ()


def _opened_at(opener: Opener, start: int) -> BinaryIO:
    stream = opener()
    try:
        stream.seek(start)
    except BaseException:
        stream.close()
        raise
    return stream


def _packed(opener: Opener, start: int, plan: Chunk, *, depth: int, alone: bool = True) -> Iterator[Chunk]:
    with _opened_at(opener, start) as stream:
        found = values(stream, depth=depth, alone=alone)
        if plan.layout == MEMBERS:
            found = (member for member in found if not _BOOKKEEPING.match(member))
        yield from gathered(found, plan, size_of=len)


def _lines(opener: Opener, start: int) -> Iterator[Chunk]:
    with _opened_at(opener, start) as stream:
        yield from gathered(lines(stream), Chunk([], layout=ELEMENTS), size_of=len)
