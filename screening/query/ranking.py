"""The best rows of a stream: by a number, ties by place, so that the same question has one answer."""

import numpy as np
import numpy.typing as npt

from screening.arrays import Float64, Int64


class Best:
    """The `count` rows with the lowest numbers seen so far (highest if `descending`, all without a count).

    NaN is no number and never among them. Places must come in ascending order.
    """

    def __init__(self, count: int | None, *, descending: bool = False) -> None:
        self._count, self._sign = count, -1.0 if descending else 1.0
        self._worst = np.inf
        self._keys: list[Float64] = []
        self._places: list[Int64] = []
        self._held = 0

    def add(self, values: npt.NDArray[np.floating], places: Int64) -> None:
        """Look at more rows."""
        keys = self._sign * values.astype(np.float64)
        # A later row with the number of the last one kept comes behind it.
        good = keys < self._worst if np.isfinite(self._worst) else ~np.isnan(keys)
        self._keys.append(keys[good])
        self._places.append(places[good])
        self._held += len(self._keys[-1])
        if self._count is not None and self._held > 4 * self._count + 10_000:
            self._shrink()

    def places(self) -> Int64:
        """The rows, best first."""
        self._shrink()
        return self._places[0]

    def _shrink(self) -> None:
        keys = np.concatenate([np.empty(0), *self._keys])
        places = np.concatenate([np.empty(0, np.int64), *self._places])
        if self._count is not None and 0 < self._count < len(keys):
            # Most rows go before anything is sorted.
            kept = keys <= np.partition(keys, self._count - 1)[self._count - 1]
            keys, places = keys[kept], places[kept]
        order = np.lexsort((places, keys))[: self._count]
        self._keys, self._places = [keys[order]], [places[order]]
        self._held = len(order)
        if self._count is not None and len(order) == self._count > 0:
            self._worst = float(self._keys[0][-1])
