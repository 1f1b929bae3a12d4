"""Random numbers that belong to atoms: the same for a seed, epoch, crystal and atom, wherever and whenever drawn.

A generator with a state would have to be asked crystal by crystal, or would depend on the batch. Here a number is a
hash of what it belongs to, by the mixing step of SplitMix64 (Steele, Lea and Flood, doi 10.1145/2660193.2660195).
"""

import numpy as np

from screening.arrays import Float64, Int64, UInt64

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_WORD = (1 << 64) - 1


def uniform(rows: Int64, counts: Int64, *, seed: int, epoch: int, stream: int) -> Float64:
    """Draw a number in [0, 1) for each of the `counts[c]` atoms of each crystal `rows[c]`, end to end.

    Streams are independent of each other.
    """
    key = _mixed_int(_mixed_int(_mixed_int(seed) ^ epoch) ^ stream)
    crystals = _mixed(rows.astype(np.uint64) * np.uint64(_GOLDEN) ^ np.uint64(key))
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    atoms = (np.arange(total) - np.repeat(ends - counts, counts)).astype(np.uint64)
    words = _mixed(np.repeat(crystals, counts) + (atoms + np.uint64(1)) * np.uint64(_GOLDEN))
    # The upper 53 bits, which is what a double holds.
    found: Float64 = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found


def _mixed(words: UInt64) -> UInt64:
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    found: UInt64 = words ^ (words >> np.uint64(31))
    return found


def _mixed_int(value: int) -> int:
    return int(_mixed(np.array([(value * _GOLDEN + _GOLDEN) & _WORD], np.uint64))[0])
