"""Axes with round numbers: bins whose edges are round, and ticks that say which."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from screening.arrays import Float64, Int64
from screening.report.distribution import Distribution
from screening.report.wording import MINUS

_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)
# A range that leaves out less than this at either end is shown instead of all, if all is much wider.
_TAIL = 0.002
_MUCH = 1.6
_TINY = 1e-30


@dataclass(frozen=True)
class Axis:
    """So many `bins` of `step` (in decades if `log`) from `start` steps on; edges are multiples of the step."""

    start: int
    bins: int
    step: float
    log: bool = False

    @cached_property
    def edges(self) -> Float64:
        """Where bins begin and end, ascending, one more than bins."""
        places = (self.start + np.arange(self.bins + 1)) * self.step
        # Through text: 3 * 0.1 is 0.3 for a reader.
        return np.array([float(f"{x:.12g}") for x in (10.0**places if self.log else places).tolist()])

    @property
    def low(self) -> float:
        """Where the axis begins."""
        return float(self.edges[0])

    @property
    def high(self) -> float:
        """Where it ends."""
        return float(self.edges[-1])

    def bin_of(self, values: npt.NDArray[np.floating]) -> Int64:
        """The bin of each value; -1 below the axis, `bins` above it. The last bin holds its end."""
        found = np.searchsorted(self.edges, values, side="right") - 1
        return np.where(values == self.edges[-1], self.bins - 1, found)

    def place(self, value: float) -> float:
        """Where a value is, 0 at the beginning and 1 at the end."""
        scaled = math.log10(value) if self.log else value
        return (scaled / self.step - self.start) / self.bins

    def ticks(self, most: int = 7) -> list[float]:
        """Round numbers on the axis."""
        if not self.log:
            return linear_ticks(self.low, self.high, most)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [d * 10.0**e for e in range(first, last + 1) for d in digits]
            found = [x for x in found if self.low * (1 - 1e-9) <= x <= self.high * (1 + 1e-9)]
            if 2 <= len(found) <= most:
                return found
        every = max(1, math.ceil(len(found) / most))
        return found[::every] if len(found) > 1 else [self.low, self.high]


def axis_of(distribution: Distribution, bins: int, *, log: bool = False) -> Axis:
    """An axis of about so many bins over what a column holds; long thin tails are left out of it."""
    low, high = _shown_range(distribution, log=log)
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        room = max(abs(low), 1.0) * 0.05
        low, high = low - room, high + room
    step = round_up((high - low) / bins)
    start = math.floor(low / step)
    return Axis(start, max(1, math.floor(high / step) + 1 - start), step, log)


def unit_axis(bins: int) -> Axis:
    """The axis of probabilities."""
    return Axis(0, bins, 1.0 / bins)


def _shown_range(distribution: Distribution, *, log: bool) -> tuple[float, float]:
    """The ends of what is shown, as places on the axis."""
    if not distribution.count:
        return 0.0, 1.0
    ends = (distribution.low, distribution.quantile(_TAIL), distribution.quantile(1 - _TAIL), distribution.high)
    # Predictions on a logarithmic scale are positive; what underflowed to 0 is below any axis.
    low, inner_low, inner_high, high = (math.log10(max(end, _TINY)) for end in ends) if log else ends
    width = inner_high - inner_low
    if width > 0 and high - low > _MUCH * width:
        low, high = max(low, inner_low - 0.1 * width), min(high, inner_high + 0.1 * width)
    return low, high


def round_up(size: float) -> float:
    """The next round number: 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(float(f"{r * power:.12g}") for r in _ROUND if r * power >= size * (1 - 1e-9))


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two others."""
    if not high > low:
        return [low]
    step = round_up((high - low) / most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick's number."""
    return f"{value:.6g}".replace("-", MINUS) if abs(value) < 1e6 else f"{value:.3g}".replace("-", MINUS)
