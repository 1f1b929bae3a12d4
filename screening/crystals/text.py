"""A column of strings as packed files keep it: UTF-8 bytes end to end, and offsets. Decoded when looked at."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np

from screening.arrays import Int64, UInt8

# File names that are no valid UTF-8 reach Python as lone surrogates; this keeps them as they are, both ways.
SURROGATES = "surrogatepass"


class TextColumn(Sequence[str]):
    """Strings that share one buffer: string k is bytes [offsets[k], offsets[k + 1])."""

    __slots__ = ("data", "offsets")

    def __init__(self, data: UInt8, offsets: Int64) -> None:
        self.data = data
        self.offsets = offsets

    @classmethod
    def of(cls, strings: Iterable[str]) -> "TextColumn":
        """Encode strings, in order."""
        if isinstance(strings, TextColumn):
            return strings
        encoded = [text.encode("utf-8", SURROGATES) for text in strings]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), np.concatenate([[0], np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return list(self)[index]
            return TextColumn(self.data, self.offsets[start : max(start, stop) + 1])
        k = range(len(self))[index]
        return self.data[self.offsets[k] : self.offsets[k + 1]].tobytes().decode("utf-8", SURROGATES)

    def __iter__(self) -> Iterator[str]:
        first, last = int(self.offsets[0]), int(self.offsets[-1])
        data = self.data[first:last].tobytes()
        ends = (self.offsets - first).tolist()
        if data.isascii():
            text = data.decode("ascii")
            return (text[a:b] for a, b in pairwise(ends))
        return (data[a:b].decode("utf-8", SURROGATES) for a, b in pairwise(ends))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and not isinstance(other, str) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TextColumn({len(self)} strings)"
