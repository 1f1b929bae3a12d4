"""Which shards together hold all rows once, and which rows none of them holds. Pure arithmetic on ranges.

Shards may overlap, when two drivers or two shard sizes were at work: equal rows are equal, so any will do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [start, stop) of the packed input, taken from a shard that holds at least them, from row `first` on."""

    path: Path
    first: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def inside(self) -> slice:
        """The place of these rows in the columns of the shard."""
        return slice(self.start - self.first, self.stop - self.first)


Range = tuple[int, int]


def cover(shards: Sequence[tuple[int, int, Path]], rows: int) -> tuple[list[Piece], list[Range]]:
    """Choose pieces that hold rows [0, rows) at most once, in order, and tell the ranges that are missing.

    `shards` is what `shard_ranges` lists, in its order. At each row the shard that reaches furthest is taken.
    """
    pieces: list[Piece] = []
    missing: list[Range] = []
    place = k = 0
    best: tuple[int, int, Path] | None = None
    while place < rows:
        while k < len(shards) and shards[k][0] <= place:
            best = shards[k] if best is None or shards[k][1] > best[1] else best
            k += 1
        if best is not None and best[1] > place:
            end = min(best[1], rows)
            pieces.append(Piece(best[2], best[0], place, end))
        else:
            end = min(shards[k][0], rows) if k < len(shards) else rows
            missing.append((place, end))
        place = end
    return pieces, missing


def ranges_in_words(ranges: Sequence[Range], most: int = 3) -> str:
    """Name ranges of rows, the first few of many: `rows 0 to 9,999, 20,000 to 29,999 and 7 more ranges`."""
    named = ", ".join(f"{a:,} to {b - 1:,}" if b - a > 1 else f"{a:,}" for a, b in ranges[:most])
    more = f" and {len(ranges) - most:,} more ranges" if len(ranges) > most else ""
    return f"rows {named}{more}"
