"""Cuts the values at one nesting depth out of a JSON byte stream, in constant memory.

It only finds where values begin and end, at the speed of NumPy; whether a value is valid JSON is for its parser
to say. A document that is a list of a million crystals is never held whole, and one bad value never hides the next.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from screening.arrays import Bool, Int64, UInt8
from screening.crystals.formats.chunk import UNREADABLE, VALUE_LIMIT, CutShort

BLOCK = 1 << 20
SLASH_LIMIT = 1 << 16
HEAD = 4096
# Keys listed before an outline stops looking: an object with more members than this maps ids to crystals.
OUTLINE_MEMBERS = 64

QUOTE, BACKSLASH, OPEN, CLOSE, COMMA = 1, 2, 3, 4, 5
_KIND = bytearray(256)
for _characters, _kind in ((b'"', QUOTE), (b"\\", BACKSLASH), (b"{[", OPEN), (b"}]", CLOSE), (b",", COMMA)):
    for _character in _characters:
        _KIND[_character] = _kind
_KIND_TABLE = bytes(_KIND)
_KEY = re.compile(rb'\s*("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)


@dataclass(slots=True)
class _Marks:
    """Structural characters outside strings, block by block; carries string state and depth across blocks."""

    depth: int = 0
    in_string: bool = False

    def of(self, block: bytes) -> tuple[npt.NDArray[np.intp], UInt8, Int64]:
        """Positions, kinds (OPEN, CLOSE, COMMA) and the depth after each. A block must not end in a backslash."""
        kinds = np.frombuffer(block.translate(_KIND_TABLE), np.uint8)
        where = np.flatnonzero(kinds != 0)
        kinds = kinds[where]
        if b"\\" in block:
            kept = ~_escaped_or_backslash(where, kinds)
            where, kinds = where[kept], kinds[kept]
        quotes = kinds == QUOTE
        inside = (np.cumsum(quotes) + self.in_string) & 1
        outside = (inside == 0) & ~quotes
        if len(inside):
            self.in_string = bool(inside[-1])
        where, kinds = where[outside], kinds[outside]
        depths = self.depth + np.cumsum((kinds == OPEN).astype(np.int64) - (kinds == CLOSE))
        if len(depths):
            self.depth = int(depths[-1])
        return where, kinds, depths


def _escaped_or_backslash(where: npt.NDArray[np.intp], kinds: UInt8) -> Bool:
    """True for backslashes, and for a quote that an odd run of backslashes ends right before."""
    slash = kinds == BACKSLASH
    after_slash = np.zeros(len(where), bool)
    after_slash[1:] = slash[:-1] & (np.diff(where) == 1)
    # Length of the run of adjacent backslashes that ends at each position: distance to the last run start.
    rank = np.arange(len(where))
    starts = np.where(slash & ~after_slash, rank, 0)
    run = rank - np.maximum.accumulate(starts) + 1
    odd_before = np.zeros(len(where), bool)
    odd_before[1:] = (run[:-1] & 1 == 1) & after_slash[1:]
    dropped: Bool = slash | ((kinds == QUOTE) & odd_before)
    return dropped


def _read(stream: BinaryIO) -> Iterator[bytes]:
    """The bytes in parts of about BLOCK; what was read before a failure comes first, which `read` would drop."""
    read1 = cast(BufferedIOBase, stream).read1
    failure: Exception | None = None
    ended = False
    while not ended and failure is None:
        parts: list[bytes] = []
        missing = BLOCK
        while missing > 0 and not ended and failure is None:
            try:
                parts.append(read1(missing))
            except UNREADABLE as error:
                failure = error
            else:
                missing -= len(parts[-1])
                ended = not parts[-1]
        yield b"".join(parts)
    if failure is not None:
        raise failure


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The stream in blocks, none of which but the last ends in a backslash."""
    held = b""
    for block in _read(stream):
        block = held + block
        body = block.rstrip(b"\\")
        held = block[len(body) :]
        if len(held) > SLASH_LIMIT:
            raise CutShort("holds a run of backslashes without end")
        if body:
            yield body
    if held:
        yield held


def lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines that are not blank; raises CutShort at one longer than VALUE_LIMIT."""
    found = 0
    while line := stream.readline(VALUE_LIMIT):
        if len(line) == VALUE_LIMIT:
            raise CutShort(f"has an entry {found} longer than {VALUE_LIMIT >> 20} MiB; expected one entry per line")
        if line.strip():
            found += 1
            yield line


def values(stream: BinaryIO, *, depth: int, alone: bool = True) -> Iterator[bytes]:
    """Yield the bytes of every value (or `"key": value` member) inside the container that the stream starts with.

    With depth 1 these are the elements of the first container, with depth 0 the values of a stream of several.
    `alone` says that nothing may follow the container; what does is yielded too, for its parser to refuse.
    Raises CutShort where the container is not closed, after every whole value.
    """
    cutter = _Cutter(depth)
    for block in _blocks(stream):
        yield from cutter.feed(block)
        if cutter.closed and not alone:
            return
        if cutter.size > VALUE_LIMIT:
            limit = f"{VALUE_LIMIT >> 20} MiB"
            raise CutShort(f"has a value {cutter.found} longer than {limit}: a quote or bracket is not closed")
    yield from cutter.finish()


class _Cutter:
    """Cuts blocks where values at one depth end, and holds what is not yet whole."""

    def __init__(self, depth: int) -> None:
        self.closed = False
        self.found = 0
        self.size = 0
        self._depth = depth
        self._marks = _Marks()
        self._opened = depth == 0
        self._pending: list[bytes] = []

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield the values that end in this block."""
        if self.closed:
            self._keep(block[: max(0, HEAD - self.size)])
            return
        after = 0
        for position, kind in _ends(*self._marks.of(block), self._depth):
            if kind == OPEN:
                self._opened, after = True, position + 1
                continue
            # At depth 0 the closing bracket belongs to the value; deeper it only ends it, like a comma.
            stop = position if self._depth else position + 1
            value = b"".join((*self._pending, block[after:stop]))
            self._pending, self.size, after = [], 0, position + 1
            self.closed = self._depth > 0 and kind == CLOSE
            if value.strip() or (self._depth and kind == COMMA):
                self.found += 1
                yield value
            if self.closed:
                block = block[: after + HEAD]
                break
        self._keep(block[after:])

    def _keep(self, part: bytes) -> None:
        if part:
            self._pending.append(part)
            self.size += len(part)

    def finish(self) -> Iterator[bytes]:
        """Yield what is left at the end of the stream, and raise CutShort if that is not where it should end."""
        rest = b"".join(self._pending)
        if not self.closed:
            if self._marks.in_string or self._marks.depth > self._depth or not self._opened:
                raise CutShort(f"ends inside value {self.found}")
            if rest.strip():
                self.found += 1
                yield rest
            if self._depth:
                raise CutShort(f"ends after {self.found} values, before the closing bracket")
        elif rest.strip():
            yield rest


def _ends(where: npt.NDArray[np.intp], kinds: UInt8, depths: Int64, depth: int) -> Iterator[tuple[int, int]]:
    """Where values at this depth end, and where their container opens."""
    comma = (kinds == COMMA) & (depths == depth)
    if depth == 0:
        chosen = comma | ((kinds == CLOSE) & (depths <= 0))
    else:
        chosen = comma | ((kinds == CLOSE) & (depths < depth)) | ((kinds == OPEN) & (depths == depth))
    return zip(where[chosen].tolist(), kinds[chosen].tolist(), strict=True)


@dataclass(slots=True)
class Outline:
    """What an object at the start of a stream holds: by key, the offset of each value and its first byte."""

    members: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    whole: bool = False
    followed: bool = False


def outline(stream: BinaryIO) -> Outline:
    """List the members of the object that the stream starts with, without keeping their values.

    Stops early after OUTLINE_MEMBERS members.
    """
    found = Outline()
    marks = _Marks()
    offset = 0
    head: bytes | None = None
    head_at = 0
    blocks = _blocks(stream)
    for block in blocks:
        if head is not None and len(head) < HEAD:
            head += block[: HEAD - len(head)]
        where, kinds, depths = marks.of(block)
        for position, kind in _ends(where, kinds, depths, 1):
            if kind != OPEN and head is not None:
                _add_member(found, head, head_at)
            if kind == CLOSE:
                found.whole = True
                found.followed = bool(block[position + 1 :].strip()) or any(later.strip() for later in blocks)
                return found
            head, head_at = block[position + 1 : position + 1 + HEAD], offset + position + 1
            if len(found.members) > OUTLINE_MEMBERS:
                return found
        offset += len(block)
    if head is not None:
        _add_member(found, head, head_at)
    return found


def _add_member(found: Outline, head: bytes, at: int) -> None:
    match = _KEY.match(head)
    if match:
        key = match[1][1:-1].decode("utf-8", "replace")
        found.members.setdefault(key, (at + match.end(), head[match.end() : match.end() + 1]))
