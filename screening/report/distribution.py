"""Where the numbers of a column lie, from one pass over it in constant memory: extremes, mean and quantiles.

A float32 is ordered as the integer is that its bits make once those of negative numbers are turned over. Counting by
the first 20 of these bits (sign, exponent, 11 of the fraction) tells every quantile to one part in 2048, whatever the
numbers are: no range has to be guessed, and no sample drawn.
"""

import numpy as np

from screening.arrays import Float32, UInt32

_BITS = 20
_DROPPED = 32 - _BITS


class Distribution:
    """Counts float32 numbers by size; all of them must be finite."""

    def __init__(self) -> None:
        self.count = 0
        self.low, self.high = np.inf, -np.inf
        self._sum = 0.0
        self._counts = np.zeros(1 << _BITS, np.int64)

    def add(self, values: Float32) -> None:
        """Count more numbers."""
        if len(values) == 0:
            return
        self.count += len(values)
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self._sum += float(values.sum(dtype=np.float64))
        keys = _ordered(values) >> _DROPPED
        first = int(keys.min())
        counts = np.bincount((keys - first).astype(np.int64))
        self._counts[first : first + len(counts)] += counts

    @property
    def mean(self) -> float:
        """The mean; NaN of nothing."""
        return self._sum / self.count if self.count else float("nan")

    def quantile(self, share: float) -> float:
        """The number that this share of all numbers does not exceed, to one part in 2048; NaN of nothing."""
        if not self.count:
            return float("nan")
        rank = min(max(int(np.ceil(share * self.count)), 1), self.count)
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(max(_nearest_zero(place), self.low), self.high)

    def count_below(self, limit: float) -> int:
        """Count the numbers smaller than a limit of at most 11 bits, such as 0 or 0.5."""
        place = int(_ordered(np.array([limit], np.float32))[0]) >> _DROPPED
        return int(self._counts[:place].sum())


def _ordered(values: Float32) -> UInt32:
    # Adding 0 makes one zero of two.
    bits = (values.astype(np.float32, copy=False) + np.float32(0)).view(np.uint32)
    negative = bits >> 31 != 0
    return np.where(negative, ~bits, bits | np.uint32(1 << 31))


def _nearest_zero(place: int) -> float:
    """Of all numbers that are counted together, the one that is nearest to 0; so that 0, 0.5 and 2 come out exact."""
    key = np.uint32(place << _DROPPED)
    positive = place >> (_BITS - 1)
    bits = key ^ np.uint32(1 << 31) if positive else ~(key | np.uint32((1 << _DROPPED) - 1))
    return float(np.array([bits], np.uint32).view(np.float32)[0]) + 0.0
