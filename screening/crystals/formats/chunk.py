"""What the formats of many entries share: consecutive entries as one piece, numbering, and documents that break off.

Where a document becomes unreadable, the entries before are kept and one rejection says where and why.
"""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats.format import Document, Piece

# Bytes gathered before a piece is cut.
CHUNK = 1 << 20
# An entry longer than this is a quote or bracket that nobody closed.
VALUE_LIMIT = 1 << 28
NO_ENTRIES = "holds no entries"


class CutShort(Exception):
    """A document ended, or became unreadable, before it should; the message continues "the document …"."""


class WrongContent(CutShort):
    """A document is whole, as far as can be told, and not what its name says."""


UNREADABLE = (EOFError, OSError, zlib.error, CutShort)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive entries of a document, not yet read, and how to read them."""

    values: Sequence[Any]
    first: int = 0
    layout: str = ""
    columns: tuple[str, ...] = ()
    index: tuple[Any, ...] = ()
    alone: bool = False
    broken: str = ""

    def places(self, document: Document) -> Iterator[tuple[str, str]]:
        """Ids and sources of the entries, as far as their places tell them, and of what comes after the last."""
        stem, name = document.stem, document.name
        for k in range(self.first, self.first + len(self.values) + 1):
            yield (stem, name) if self.alone else (f"{stem}#{k}", f"{name}#{k}")


def guarded(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Pass chunks on; end with one that says why no more could be read, and mark the chunk of a lone entry."""
    return _lone_marked(_broken_told(chunks))


def _broken_told(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    reached = 0
    try:
        for chunk in chunks:
            reached = chunk.first + len(chunk.values)
            yield chunk
    except UNREADABLE as error:
        where = "" if isinstance(error, WrongContent) else f", after {reached} entries; is the file whole?"
        yield Chunk([], reached, broken=_cause(error) + where)


def _cause(error: Exception) -> str:
    if isinstance(error, CutShort):
        return f"the document {error}"
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
        return f"cannot be read: {error.strerror or error}"
    return f"cannot be decompressed: {error}"


def _lone_marked(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    held = next(chunks, None)
    if held is None:
        yield Chunk([], broken=NO_ENTRIES, alone=True)
        return
    following = next(chunks, None)
    if following is None:
        yield replace(held, alone=len(held.values) + bool(held.broken) == 1)
        return
    yield held
    yield following
    yield from chunks


def gathered(source: Iterator[Any], plan: Chunk, *, size_of: Callable[[Any], int]) -> Iterator[Chunk]:
    """Gather values into chunks like `plan` of about CHUNK bytes; what was read before a failure comes first."""
    held: list[Any] = []
    size = first = 0
    failure: Exception | None = None
    while failure is None:
        try:
            value = next(source, None)
        except UNREADABLE as error:
            failure, value = error, None
        if value is None:
            break
        held.append(value)
        size += size_of(value)
        if size >= CHUNK:
            yield _filled(plan, held, first)
            first, size, held = first + len(held), 0, []
    if held:
        yield _filled(plan, held, first)
    if failure is not None:
        raise failure


def _filled(plan: Chunk, held: list[Any], first: int) -> Chunk:
    return replace(plan, values=held, first=first, index=plan.index[first : first + len(held)])


def pieces(
    format: str, document: Document, chunks: Iterable[Chunk], *, size_of: Callable[[Any], int]
) -> Iterator[Piece]:
    """One piece per chunk."""
    for chunk in chunks:
        yield Piece(format, document, chunk, chunk.first, sum(map(size_of, chunk.values)))


def parsed(
    document: Document, chunk: Chunk, read: Callable[[Chunk, int, str, str], Iterable[Crystal | Rejection]]
) -> list[Crystal | Rejection]:
    """Read every entry of a chunk with `read(chunk, k, id, source)`, and add why the document broke off."""
    entries: list[Crystal | Rejection] = []
    places = chunk.places(document)
    for k, (id, source) in zip(range(len(chunk.values)), places, strict=False):
        entries.extend(read(chunk, k, id, source))
    if chunk.broken:
        reason = Reason.EMPTY if chunk.broken == NO_ENTRIES else Reason.UNREADABLE
        entries.append(Rejection(*next(places), reason, chunk.broken))
    return entries
