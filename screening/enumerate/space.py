"""All assignments of elements to the sites of one prototype, and which of them are accepted.

Assignments are counted through like an odometer, the last site fastest, each site in the order of its list. A block is
a stretch of that order, tested at once: the sites are cut into a left and a right part, and the combinations of states
that the two parts have in common come from one outer product of bits.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from screening.arrays import Bool, Int64, UInt8, UInt64
from screening.crystals.elements import SYMBOLS
from screening.enumerate.charges import Balance
from screening.enumerate.chemistry import electronegativities
from screening.enumerate.prototype import Prototype
from screening.enumerate.tolerance import ToleranceWindow

# Assignments of a block: their bits just fit into a core's cache.
BLOCK = 1 << 18
# The right part of the sites has at most so many assignments, all in memory.
MOST_RIGHT = 1 << 14


class Block(NamedTuple):
    """What a block came to: the accepted assignments (count, sites), and how many were left after each test."""

    elements: UInt8
    neutral: int
    ordered: int


@dataclass(frozen=True, eq=False)
class Space:
    """One prototype with the elements of each site, and the tests.

    `order` holds pairs of sites (s, t) of which s must be the less electronegative. Without a `balance` the charges do
    not matter; with a `window` a tolerance factor does.
    """

    label: str
    prototype: Prototype
    elements: tuple[UInt8, ...]
    order: tuple[tuple[int, int], ...] = ()
    balance: Balance | None = None
    window: ToleranceWindow | None = None
    repeat_elements: bool = False
    block_size: int = BLOCK

    @property
    def size(self) -> int:
        """How many assignments there are, accepted or not."""
        return math.prod(map(len, self.elements))

    @property
    def blocks(self) -> int:
        """How many blocks these are tested in."""
        return -(-self.size // (self._rows_per_block * len(self._right)))

    def block(self, index: int) -> Block:
        """Test one block."""
        first = index * self._rows_per_block
        left = self._decoded(self._cut, np.arange(first, min(first + self._rows_per_block, self._left_size)))
        rows, columns = self._neutral(left)
        elements = np.concatenate([left[rows], self._right[columns]], axis=1)
        neutral = len(elements)
        elements = elements[self._ordered(elements)]
        ordered = len(elements)
        if self.window is not None:
            elements = elements[self._possible(elements).any(axis=1)]
        return Block(elements, neutral, ordered)

    def accepts(self, elements: UInt8) -> Bool:
        """Whether rows of elements are assignments of this space that it accepts."""
        inside = np.ones(len(elements), np.bool_)
        for s, allowed in enumerate(self._allowed):
            inside &= allowed[elements[:, s]]
        inside &= self._ordered(elements)
        if self.balance is not None:
            rows = np.flatnonzero(inside)
            inside[rows] = self._possible(elements[rows]).any(axis=1)
        return inside

    def states(self, elements: UInt8) -> Int64 | None:
        """One neutral combination of oxidation states for each accepted row; None where charges do not matter."""
        if self.balance is None:
            return None
        return self.balance.combinations[self.balance.chosen(elements, self._possible(elements))]

    def _possible(self, elements: UInt8) -> UInt64:
        assert self.balance is not None
        possible = self.balance.possible(elements)
        return possible if self.window is None else self.window.within(elements, possible)

    def _neutral(self, left: UInt8) -> tuple[Int64, Int64]:
        """Rows of the left and of the right part that go together, in order."""
        right = self._right
        if self.balance is None:
            rows, columns = np.divmod(np.arange(len(left) * len(right)), len(right))
            return rows, columns
        together = np.zeros((len(left), len(right)), np.bool_)
        ours, theirs = self._bits(left, 0), self._right_bits
        for word in range(self.balance.words):
            together |= (ours[:, word, None] & theirs[None, :, word]) != 0
        rows, columns = np.nonzero(together)
        return rows, columns

    def _ordered(self, elements: UInt8) -> Bool:
        """Whether no element is on two sites, unless it may be, and electronegativities rise as they should."""
        fits = np.ones(len(elements), np.bool_)
        if not self.repeat_elements:
            for s in range(elements.shape[1]):
                for t in range(s):
                    fits &= elements[:, s] != elements[:, t]
        chi = electronegativities()
        for s, t in self.order:
            # False where one has none.
            fits &= chi[elements[:, s]] < chi[elements[:, t]]
        return fits

    def _bits(self, elements: UInt8, first: int) -> UInt64:
        """The combinations that elements on neighbouring sites have in common, those before `first` left aside."""
        assert self.balance is not None
        found = np.full((len(elements), self.balance.words), ~np.uint64(0))
        for s in range(elements.shape[1]):
            found &= self.balance.bits[first + s][elements[:, s]]
        return found

    @cached_property
    def _cut(self) -> int:
        """How many sites the left part has."""
        sizes = [len(site) for site in self.elements]
        return next((s for s in range(len(sizes)) if math.prod(sizes[s:]) <= MOST_RIGHT), len(sizes) - 1)

    @cached_property
    def _left_size(self) -> int:
        return math.prod(len(site) for site in self.elements[: self._cut])

    @cached_property
    def _rows_per_block(self) -> int:
        return max(1, self.block_size // max(1, len(self._right)))

    @cached_property
    def _right(self) -> UInt8:
        size = math.prod(len(site) for site in self.elements[self._cut :])
        return self._decoded(None, np.arange(size))

    @cached_property
    def _right_bits(self) -> UInt64:
        return self._bits(self._right, self._cut)

    @cached_property
    def _allowed(self) -> Bool:
        allowed = np.zeros((len(self.elements), len(SYMBOLS)), np.bool_)
        for s, site in enumerate(self.elements):
            allowed[s, site] = True
        return allowed

    def _decoded(self, stop: int | None, numbers: Int64) -> UInt8:
        """Assignments of the sites before `stop` by number; of those from the cut on without a stop."""
        sites = self.elements[:stop] if stop is not None else self.elements[self._cut :]
        if not sites:
            return np.zeros((len(numbers), 0), np.uint8)
        digits = np.unravel_index(numbers, [len(site) for site in sites])
        return np.column_stack([site[digit] for site, digit in zip(sites, digits, strict=True)])
