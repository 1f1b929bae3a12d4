"""Cuts a file of XYZ frames into blocks of whole frames, in constant memory, and finds its feet after damage.

A frame is a line with the number of atoms, a comment line, and a line for each atom. Only counts are read here:
a frame is whole when its last row is followed by another count, a blank line or the end of the file, and no
count stands among its rows. Where that does not hold, the frame is broken, and reading goes on at the next count
that is followed by a comment and an atom row. extxyz.py reads what the frames say.
"""

import gzip
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import cast

import numpy as np

from screening.arrays import Int64
from screening.crystals.formats.format import Document

BLOCK_BYTES = 1 << 20
# About three million atoms. A count that is wrong must not make us hold the rest of a file.
LARGEST_FRAME_BYTES = 1 << 28
# A count with blanks around it; longer lines are not looked at.
_LONGEST_COUNT = 24
_NUMBERS_IN_A_ROW = 3
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Frames that lie in one text: the comment of frame k is text[comments[k]:rows[k]], its rows follow.

    `atoms` is the count each frame states, `lines` the number of the line it states it on, from 1; `faults` says
    of frames that cannot be read why. Text between frames that belongs to none is a frame of its own, with a fault.
    """

    text: bytes
    comments: Int64
    rows: Int64
    atoms: Int64
    lines: Int64
    faults: Mapping[int, str]

    @classmethod
    def none(cls) -> "Frames":
        """What an empty file holds."""
        return _Found().in_text(b"")

    def __len__(self) -> int:
        return len(self.atoms)

    def comment(self, k: int) -> str:
        """The comment line of frame k."""
        return self.text[self.comments[k] : self.rows[k]].decode("utf-8", "replace")


def frames_of(document: Document) -> Iterator[Frames]:
    """Read a document block by block; damage to its compression ends it with a fault."""
    cutter = _Cutter()
    with document.open() as stream:
        chunk, damage = _read(cast(BufferedIOBase, stream), BLOCK_BYTES)
        text, at_end = chunk.removeprefix(_BYTE_ORDER_MARK), len(chunk) < BLOCK_BYTES
        while True:
            found = cutter.cut(text, at_end=at_end, damage=damage)
            if len(found):
                yield found
            if at_end:
                return
            text = text[cutter.used :]
            if len(text) > LARGEST_FRAME_BYTES:
                found, text = cutter.give_up(text), b""
                if len(found):
                    yield found
            # As much again as is left over, so that a frame of many blocks is looked at only a few times.
            wanted = max(BLOCK_BYTES, len(text))
            chunk, damage = _read(cast(BufferedIOBase, stream), wanted)
            text, at_end = text + chunk, len(chunk) < wanted


def _read(stream: BufferedIOBase, wanted: int) -> tuple[bytes, str]:
    """So many bytes, fewer at the end of the stream, and what is wrong with its compression."""
    parts: list[bytes] = []
    missing = wanted
    try:
        # read1 hands over what it has: with read, a damaged end would take up to a block of whole frames with it.
        while missing and (part := stream.read1(missing)):
            parts.append(part)
            missing -= len(part)
    except _DAMAGE as error:
        return b"".join(parts), f"the compressed data is damaged ({error})"
    return b"".join(parts), ""


@dataclass(slots=True)
class _Found:
    """Frames as they are found."""

    comments: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    atoms: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)

    def add(self, comment: int, row: int, atoms: int, line: int, fault: str) -> None:
        if fault:
            self.faults[len(self.atoms)] = fault
            atoms = 0
        self.comments.append(comment)
        self.rows.append(row)
        self.atoms.append(atoms)
        self.lines.append(line)

    def in_text(self, text: bytes) -> Frames:
        comments, rows, atoms, lines = (
            np.array(c, np.int64) for c in (self.comments, self.rows, self.atoms, self.lines)
        )
        return Frames(text, comments, rows, atoms, lines, self.faults)


class _Lines:
    """The whole lines of a text, and which of them are nothing but a count."""

    def __init__(self, text: bytes, *, at_end: bool) -> None:
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
        if at_end and text and text[-1] != ord("\n"):
            ends = np.append(ends, len(text))
        self.text = text
        self.at_end = at_end
        self.begins: Int64 = np.concatenate([[0], ends])
        self.blank: set[int] = set()
        self.counts: dict[int, int] = {}
        for i in np.flatnonzero(np.diff(self.begins) <= _LONGEST_COUNT).tolist():
            word = self[i].strip()
            if word.isdigit():
                self.counts[i] = int(word)
            elif not word:
                self.blank.add(i)
        self.heads = list(self.counts)
        heads = np.array(self.heads, np.int64)
        longest = len(self)  # a count may be too large for an integer
        atoms = np.array([min(count, longest) for count in self.counts.values()], np.int64)
        self._gaps: list[int] = np.flatnonzero(heads[1:] != heads[:-1] + 2 + atoms[:-1]).tolist()

    def run(self, i: int) -> list[int]:
        """The counts from line i on after which the next one stands where the frame ends."""
        first = bisect_left(self.heads, i)
        gap = bisect_left(self._gaps, first)
        return self.heads[first : self._gaps[gap] if gap < len(self._gaps) else -1]

    def __len__(self) -> int:
        return len(self.begins) - 1

    def __getitem__(self, i: int) -> bytes:
        return self.text[self.begins[i] : self.begins[i + 1]]

    def next_count(self, i: int) -> int:
        """The first line from i on that is a count; len(self) if there is none."""
        at = bisect_left(self.heads, i)
        return self.heads[at] if at < len(self.heads) else len(self)

    def starts_frame(self, i: int) -> bool:
        """Whether a count in unknown surroundings is followed by a comment and an atom row."""
        return self.counts[i] > 0 and i + 2 < len(self) and self.is_row(i + 2)

    def is_row(self, i: int) -> bool:
        return sum(map(_is_number, self[i].split())) >= _NUMBERS_IN_A_ROW

    def place(self, i: int) -> tuple[int, int, int]:
        """Where the comment and the rows of the frame at line i begin, and how many atoms it states."""
        if i not in self.counts:
            return int(self.begins[i]), int(self.begins[i]), 0
        last = len(self)
        return int(self.begins[min(i + 1, last)]), int(self.begins[min(i + 2, last)]), self.counts[i]

    def quoted(self, i: int) -> str:
        words = self[i][:200].decode("utf-8", "replace").strip()
        return f"`{words[:40]}...`" if len(words) > 40 else f"`{words}`"


class _Cutter:
    """Goes through the texts of one file in order; knows the line it is on and whether it has lost its way."""

    def __init__(self) -> None:
        self.used = 0  # bytes of the last text that need not be seen again
        self._line = 1
        self._lost = False

    def cut(self, text: bytes, *, at_end: bool, damage: str = "", ending: str = "the file ends") -> Frames:
        """The whole frames at the start of a text, and the faults among them; at the end all of it."""
        lines = _Lines(text, at_end=at_end)
        found = _Found()
        i = 0
        while i < len(lines):
            if self._lost:
                i, self._lost = self._search(lines, i)
                if self._lost:
                    break
            if i in lines.blank:
                i += 1
                continue
            if i in lines.counts and (heads := lines.run(i)):
                self._add_all(found, lines, heads)
                i = heads[-1] + 2 + lines.counts[heads[-1]]
                continue
            end, fault = self._frame(lines, i, damage or ending)
            if not end:
                break
            found.add(*lines.place(i), self._line + i, fault)
            self._lost = bool(fault)
            i = end
        self.used = int(lines.begins[i])
        self._line += i
        if damage and not any(damage in fault for fault in found.faults.values()):
            found.add(len(text), len(text), 0, self._line, f"{damage} at line {self._line}; fetch the file again")
        return found.in_text(text)

    def give_up(self, text: bytes) -> Frames:
        """Take a text as all there is, because the frame or the line it ends in grows beyond all bounds."""
        found = self.cut(text, at_end=True, ending=f"it is longer than {LARGEST_FRAME_BYTES >> 20} MiB")
        if not text.endswith(b"\n"):
            # The rest of the last line is still to come.
            self._line -= 1
            self._lost = True
        return found

    def _add_all(self, found: _Found, lines: _Lines, heads: list[int]) -> None:
        at = np.array(heads)
        found.comments += lines.begins[at + 1].tolist()
        found.rows += lines.begins[at + 2].tolist()
        found.atoms += [lines.counts[head] for head in heads]
        found.lines += (self._line + at).tolist()

    def _search(self, lines: _Lines, i: int) -> tuple[int, bool]:
        """The next line that starts a frame; else the first line to see again with more text, and True."""
        while (i := lines.next_count(i)) < len(lines):
            if i + 2 >= len(lines) and not lines.at_end:
                return i, True
            if lines.starts_frame(i):
                return i, False
            i += 1
        return len(lines), True

    def _frame(self, lines: _Lines, i: int, ending: str) -> tuple[int, str]:
        """Where the frame at line i ends, and what is wrong with it; 0 if that takes more text to tell."""
        line = self._line + i
        if i not in lines.counts:
            return i + 1, f"line {line} is {lines.quoted(i)}, expected a number of atoms; mend or remove it"
        atoms = lines.counts[i]
        end = i + 2 + atoms
        # After a fault the search goes on among the rows, where the next count may be.
        inside = min(i + 2, len(lines))
        says = f"line {line} says {atoms} atoms"
        if (other := lines.next_count(i + 2)) < min(end, len(lines)):
            return inside, f"{says}, but after {other - i - 2} rows line {self._line + other} is a count; mend either"
        if end >= len(lines) and not lines.at_end:
            return 0, ""
        if end > len(lines):
            missing = f"{end - len(lines)} lines are missing: {ending}"
            return inside, f"{says}, but {missing}; check the number, or fetch the file again"
        if end < len(lines) and end not in lines.counts and end not in lines.blank and lines.is_row(end):
            return inside, f"{says}, but line {self._line + end} goes on with another atom; mend the count"
        return end, ""


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
