"""Cuts a CIF stream of any length into stretches of whole data blocks, in constant memory.

A block starts at a line that starts with `data_`, unless the line belongs to a text field, which runs from one line
that starts with `;` to the next.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

READ = 1 << 18
# Long enough that cutting costs nothing beside parsing, short enough for many stretches in memory.
STRETCH = 1 << 18
# A block longer than this is a text field that nobody closed, or no crystal.
BLOCK_LIMIT = 1 << 26

UNREADABLE = (OSError, EOFError, zlib.error)

_MARK = re.compile(rb"[\r\n](?:(;)|[ \t]*[dD][aA][tT][aA]_(\S*))")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Whole blocks with their names as written; `broken` says why the last of them has no content."""

    content: bytes
    names: list[str]
    broken: str = ""


@dataclass(slots=True)
class _Scan:
    """The text that is not handed out yet: it starts with a line end, `starts` are the line ends before blocks."""

    pending: bytes = b"\n"
    scanned: int = 0
    in_text: bool = False
    starts: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def extend(self, data: bytes) -> None:
        """Take more text, and look for blocks in all lines that are whole; no data means that the last one is."""
        self.pending += data
        end = max(self.pending.rfind(b"\n"), self.pending.rfind(b"\r")) if data else len(self.pending)
        for match in _MARK.finditer(self.pending, self.scanned, end):
            if match[1]:
                self.in_text = not self.in_text
            elif not self.in_text:
                self.starts.append(match.start())
                self.names.append(match[2].decode("utf-8", "replace"))
        self.scanned = max(self.scanned, end)

    def cut(self, blocks: int) -> Stretch:
        """Hand out the first so many blocks; what stands before the first one goes with it."""
        end = self.starts[blocks] if blocks < len(self.starts) else len(self.pending)
        stretch = Stretch(self.pending[:end], self.names[:blocks] or [""])
        self.pending, self.scanned = self.pending[end:], max(self.scanned - end, 0)
        self.starts, self.names = [start - end for start in self.starts[blocks:]], self.names[blocks:]
        return stretch

    def drop(self, why: str) -> Stretch:
        """Give up the last block; the next one starts at the next line that looks like it, text field or not."""
        name = self.names[-1] if self.names else ""
        self.pending, self.scanned, self.in_text, self.starts, self.names = b"\n", 0, False, [], []
        return Stretch(b"", [name], why)


def stretches(stream: BinaryIO) -> Iterator[Stretch]:
    """Yield all blocks, in order; a stream that breaks off ends with a stretch that says so.

    Every stretch but the last is followed by another block.
    """
    scan = _Scan()
    dropped = False
    while True:
        try:
            data = stream.read(READ)
        except UNREADABLE as error:
            if len(scan.starts) > 1:
                yield scan.cut(len(scan.starts) - 1)
            yield scan.drop(f"the file cannot be read from here on ({error}); is it whole?")
            return
        scan.extend(data)
        if dropped and scan.starts:
            scan.cut(0)
            dropped = False
        if not data:
            break
        if len(scan.pending) > STRETCH and len(scan.starts) > 1:
            yield scan.cut(len(scan.starts) - 1)
        elif dropped or len(scan.pending) > BLOCK_LIMIT:
            stretch = scan.drop(f"is longer than {BLOCK_LIMIT >> 20} MiB; is a text field not closed?")
            if not dropped:
                yield stretch
            dropped = True
    if scan.starts or (not dropped and scan.pending.strip()):
        yield scan.cut(max(len(scan.starts), 1))


def blocks_of(content: bytes) -> list[Stretch]:
    """Every block of a text as a stretch of its own."""
    scan = _Scan()
    scan.extend(content)
    scan.extend(b"")
    return [scan.cut(1) for _ in range(max(len(scan.starts), 1))]
