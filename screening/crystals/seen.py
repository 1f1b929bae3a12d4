"""Remembers which ids were read, in eight bytes an id, so that the second of two equal ids is told.

An id is kept as the first 64 bits of its BLAKE2b hash. Two different ids collide with probability 2^-64, so
the chance that any id at all among n is mistaken for a duplicate is about n^2 / 2^65: 3e-8 for a million ids,
3e-4 for a hundred million, 3 % for a billion. The hash has no seed: every run decides alike.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from screening.arrays import Bool, UInt64


class Seen:
    """The ids read so far, as sorted runs of hashes whose lengths at least halve from one to the next.

    A new batch is one more run; runs of similar length are merged, so that n ids lie in at most log2(n) runs
    and each hash is merged at most log2(n) times. Merging takes eight more bytes an id for a moment.
    """

    def __init__(self) -> None:
        self._runs: list[UInt64] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def add(self, ids: Sequence[str]) -> Bool:
        """Remember these ids and mark the ones that were there before, in this batch or an earlier one."""
        hashes = _hashes(ids)
        fresh, first_row = np.unique(hashes, return_index=True)
        known = np.zeros(len(fresh), np.bool_)
        for run in self._runs:
            place = np.searchsorted(run, fresh)
            known |= run[np.minimum(place, len(run) - 1)] == fresh
        self._push(fresh[~known])
        repeated = np.ones(len(hashes), np.bool_)
        repeated[first_row[~known]] = False
        return repeated

    def _push(self, run: UInt64) -> None:
        if len(run) == 0:
            return
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            # A stable sort of two sorted runs laid end to end is a linear merge.
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        self._runs.append(run)


def _hashes(ids: Sequence[str]) -> UInt64:
    digests = b"".join(blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest() for id in ids)
    return np.frombuffer(digests, "<u8")
