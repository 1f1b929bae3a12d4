"""Draws so many of a sequence without holding it: one from each of equally long stretches.

Each member of the sequence is as likely to be drawn as any other, and the draw follows the sequence closely: a tenth of
the crystals is a tenth of each prototype and nearly a tenth of what any element is in.
"""

import numpy as np

from screening.arrays import Int64, UInt64


class Draw:
    """`wanted` places of a sequence of `total`, all of them if there are no more; a function of these and the seed."""

    def __init__(self, total: int, wanted: int | None, seed: int) -> None:
        self.total = total
        self.count = total if wanted is None else min(wanted, total)
        self._seed = seed
        # Where stretches of unequal length are the longer ones is drawn too, or places in them would be rarer.
        self._phase = int(_mixed(np.zeros(1, np.uint64), seed + 1)[0]) % max(self.count, 1)

    def within(self, start: int, stop: int) -> Int64:
        """The places drawn among [start, stop), ascending."""
        if self.count == self.total or start >= stop:
            return np.arange(start, stop)
        first, last = start * self.count // self.total, (stop - 1) * self.count // self.total
        stretches = np.arange(max(first - 2, 0), min(last + 2, self.count))
        places = self._places(stretches)
        return places[(places >= start) & (places < stop)]

    def before(self, place: int) -> int:
        """How many of the places drawn lie before this one."""
        if self.count == self.total:
            return place
        first = max(place * self.count // self.total - 2, 0)
        return first + int((self._places(np.arange(first, min(first + 4, self.count))) < place).sum())

    def _places(self, stretches: Int64) -> Int64:
        low, high = self._bound(stretches), self._bound(stretches + 1)
        drawn = _mixed(stretches.astype(np.uint64), self._seed) % (high - low).astype(np.uint64)
        return low + drawn.astype(np.int64)

    def _bound(self, stretches: Int64) -> Int64:
        """Where stretches begin, without a product that overflows."""
        whole, rest = divmod(self.total, self.count)
        return stretches * whole + (stretches * rest + self._phase) // self.count


def _mixed(numbers: UInt64, seed: int) -> UInt64:
    """Numbers that look random: SplitMix64 of Steele, Lea and Flood (2014), started from the seed."""
    mask = (1 << 64) - 1
    start = np.uint64(seed * 0xD1B54A32D192ED03 & mask)
    with np.errstate(over="ignore"):
        z = start + (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)), np.uint64)
