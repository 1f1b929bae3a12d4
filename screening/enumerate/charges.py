"""Which combinations of oxidation states are neutral, as bits: an assignment is neutral when a bit is left.

The neutral combinations of a prototype are listed once. An element on a site stands for the combinations that it can
take part in, one bit each; an assignment is neutral when the bits of all its elements have one in common. So a
million assignments cost a few million operations on words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from screening.arrays import Int64, UInt8, UInt64
from screening.crystals.elements import SYMBOLS
from screening.errors import InputError

# So many combinations of states are tried for one prototype; five sites of ten states each are a hundred thousand.
MOST_COMBINATIONS = 20_000_000
WORD = 64

# By site, by element: the oxidation states it may have there.
States = Sequence[Mapping[int, Sequence[int]]]


@dataclass(frozen=True, eq=False)
class Balance:
    """The neutral combinations of a prototype.

    `combinations` (count, sites): oxidation states, those of small charges first. `bits` (sites, 119, words): which
    combinations an element on a site can take part in; `usual`: likewise with its usual states alone.
    """

    combinations: Int64
    bits: UInt64
    usual: UInt64

    @property
    def words(self) -> int:
        """How many words of 64 bits hold one bit per combination."""
        return int(self.bits.shape[2])

    def possible(self, elements: UInt8) -> UInt64:
        """The combinations that rows of elements (crystals, sites) have in common, (crystals, words)."""
        return _common(self.bits, elements)

    def chosen(self, elements: UInt8, possible: UInt64) -> Int64:
        """The combination to name for each row, among those possible: one of usual states if there is one."""
        usual = _common(self.usual, elements) & possible
        kept = np.where(usual.any(axis=1, keepdims=True), usual, possible)
        word = (kept != 0).argmax(axis=1)
        first = kept[np.arange(len(kept)), word]
        # Two's complement leaves the lowest bit; the ones below it count its place.
        lowest = first & (~first + np.uint64(1))
        return np.asarray(np.bitwise_count(lowest - np.uint64(1)) + WORD * word, np.int64)


def balance(units: Sequence[int], states: States, usual: States) -> Balance:
    """List the neutral combinations for so many atoms of each site in a formula unit."""
    held = [sorted({q for each in site.values() for q in each}) for site in states]
    tried = int(np.prod([float(len(site)) for site in held]))
    if tried > MOST_COMBINATIONS:
        raise InputError(
            f"{tried:,} combinations of oxidation states are too many to try (limit {MOST_COMBINATIONS:,}); name the "
            "oxidation states of some sites with `states`, or set charge_neutral = false"
        )
    combinations = _neutral(units, held)
    weight = (combinations**2) @ np.array(units, np.int64)
    order = np.lexsort((*combinations.T[::-1], weight))
    combinations = combinations[order]
    return Balance(combinations, _bits(combinations, states), _bits(combinations, usual))


def _neutral(units: Sequence[int], held: Sequence[Sequence[int]]) -> Int64:
    """All neutral combinations, site by site, leaving out what the other sites cannot make up for."""
    low = np.cumsum([0, *(n * min(site, default=0) for n, site in zip(units[::-1], held[::-1], strict=True))])[::-1]
    high = np.cumsum([0, *(n * max(site, default=0) for n, site in zip(units[::-1], held[::-1], strict=True))])[::-1]
    found, charge = np.zeros((1, 0), np.int64), np.zeros(1, np.int64)
    for k, site in enumerate(held):
        new = np.array(site, np.int64)
        rows, columns = (
            grid.ravel() for grid in np.meshgrid(np.arange(len(found)), np.arange(len(new)), indexing="ij")
        )
        total = charge[rows] + units[k] * new[columns]
        kept = (total + low[k + 1] <= 0) & (total + high[k + 1] >= 0)
        found = np.column_stack([found[rows[kept]], new[columns[kept]]])
        charge = total[kept]
    return found


def _bits(combinations: Int64, states: States) -> UInt64:
    """For each site and element one bit per combination, (sites, 119, words)."""
    count, sites = combinations.shape
    words = max(1, -(-count // WORD))
    bits = np.zeros((sites, len(SYMBOLS), words), np.uint64)
    for s, by_element in enumerate(states):
        for z, held in by_element.items():
            fitting = np.zeros(words * WORD, np.bool_)
            fitting[:count] = np.isin(combinations[:, s], list(held))
            bits[s, z] = np.packbits(fitting, bitorder="little").view("<u8")
    return bits


def _common(bits: UInt64, elements: UInt8) -> UInt64:
    found: UInt64 = bits[0][elements[:, 0]]
    for s in range(1, elements.shape[1]):
        found = found & bits[s][elements[:, s]]
    return found
