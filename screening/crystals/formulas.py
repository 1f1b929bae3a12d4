"""Reduced formulas of many crystals at once: element counts divided by their greatest common divisor.

Two spellings. `reduced_formulas` sorts elements by symbol, which is all that grouping needs. `conventional_formulas`
is what chemists write and what pymatgen and the Materials Project call pretty: cations first, anions of several atoms
in brackets.
"""

import math
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

from screening.arrays import Int64, UInt8
from screening.crystals.elements import SYMBOLS, atomic_number

# Crystals whose atoms are counted by element at once: a row of 119 numbers each.
AT_ONCE = 16_384

_ = math.inf
# Pauling's electronegativity by atomic number, as in pymatgen; infinite where there is none.
# fmt: off
ELECTRONEGATIVITY = (
    _, 2.2, _, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, _, 0.93, 1.31, 1.61, 1.9, 2.19, 2.58, 3.16, _, 0.82, 1, 1.36,
    1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.9, 1.65, 1.81, 2.01, 2.18, 2.55, 2.96, 3, 0.82, 0.95, 1.22, 1.33, 1.6,
    2.16, 1.9, 2.2, 2.28, 2.2, 1.93, 1.69, 1.78, 1.96, 2.05, 2.1, 2.66, 2.6, 0.79, 0.89, 1.1, 1.12, 1.13, 1.14, 1.13,
    1.17, 1.2, 1.2, 1.1, 1.22, 1.23, 1.24, 1.25, 1.1, 1.27, 1.3, 1.5, 2.36, 1.9, 2.2, 2.2, 2.28, 2.54, 2, 1.62, 2.33,
    2.02, 2, 2.2, 2.2, 0.7, 0.9, 1.1, 1.3, 1.5, 1.38, 1.36, 1.28, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3, _, _, _,
    _, _, _, _, _, _, _, _, _, _, _, _,
)
# fmt: on
# Two elements further apart than this are a salt of their own, not one anion.
SALT = 1.65
# Not reduced to the end, because these are molecules or peroxides.
UNREDUCED = MappingProxyType(
    {"LiO": "Li2O2", "NaO": "Na2O2", "KO": "K2O2", "HO": "H2O2", "CsO": "Cs2O2", "RbO": "Rb2O2"}
    | {symbol: f"{symbol}2" for symbol in ("O", "N", "F", "Cl", "H")}
)
# An element or a closed bracket, and how often; or an open bracket.
FORMULA_PART = re.compile(r"(?P<open>\()|(?:(?P<symbol>[A-Z][a-z]?)|\))(?P<times>[0-9]{0,9})")
_NUMBERS = np.array(sorted(range(1, len(SYMBOLS)), key=lambda z: (ELECTRONEGATIVITY[z], SYMBOLS[z])))
_RANKS = np.zeros(len(SYMBOLS), np.int64)
_RANKS[_NUMBERS] = np.arange(len(_NUMBERS))


class Amounts(NamedTuple):
    """How many atoms of which element which crystal has: (n,) each, by crystal, then by electronegativity."""

    crystal: Int64
    number: Int64
    atoms: Int64


def element_counts(numbers: UInt8, atom_offsets: npt.NDArray[np.integer]) -> Int64:
    """Count the atoms of each element in each crystal, (crystals, 119)."""
    crystals, elements = len(atom_offsets) - 1, len(SYMBOLS)
    row = np.repeat(np.arange(crystals), np.diff(atom_offsets))
    counts = np.bincount(row * elements + numbers, minlength=crystals * elements)
    return counts.reshape(crystals, elements).astype(np.int64)


def element_amounts(numbers: UInt8, atom_offsets: npt.NDArray[np.integer]) -> Amounts:
    """Count the atoms of each element that a crystal has."""
    elements = len(SYMBOLS)
    row = np.repeat(np.arange(len(atom_offsets) - 1), np.diff(atom_offsets))
    places = row * elements + _RANKS[numbers]
    counts = np.bincount(places)
    found = np.flatnonzero(counts)
    return Amounts(found // elements, _NUMBERS[found % elements], counts[found])


def reduced_formulas(numbers: UInt8, atom_offsets: npt.NDArray[np.integer]) -> list[str]:
    """Name each crystal's composition, elements in the order of their symbols: Al2O3, ClNa."""
    found: list[str] = []
    for start in range(0, len(atom_offsets) - 1, AT_ONCE):
        offsets = atom_offsets[start : start + AT_ONCE + 1]
        found += _reduced(element_counts(numbers[offsets[0] : offsets[-1]], offsets))
    return found


class ReducedFormulas(Sequence[str]):
    """The reduced formulas of crystals, worked out when one is first asked for: who counts them needs none."""

    def __init__(self, numbers: UInt8, atom_offsets: npt.NDArray[np.integer]) -> None:
        self._numbers, self._offsets = numbers, atom_offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> "ReducedFormulas": ...

    def __getitem__(self, place: int | slice) -> "str | ReducedFormulas":
        if not isinstance(place, slice):
            return self._all[place]
        start, stop, step = place.indices(len(self))
        if step != 1:
            raise ValueError("formulas of crystals that lie end to end only")
        return ReducedFormulas(self._numbers, self._offsets[start : max(start, stop) + 1])

    @cached_property
    def _all(self) -> list[str]:
        return reduced_formulas(self._numbers, self._offsets)


def _reduced(counts: Int64) -> list[str]:
    divisor = np.maximum(np.gcd.reduce(counts, axis=1), 1)
    reduced = counts // divisor[:, None]
    crystal, element = np.nonzero(reduced)
    parts: list[list[tuple[str, int]]] = [[] for _ in range(len(counts))]
    for c, z, n in zip(crystal.tolist(), element.tolist(), reduced[crystal, element].tolist(), strict=True):
        parts[c].append((SYMBOLS[z], n))
    return ["".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in sorted(part)) for part in parts]


def conventional_formulas(amounts: Amounts, crystals: int) -> list[str]:
    """Name each crystal's composition as pymatgen does: NaCl, SrTiO3, Li3Fe2(PO4)3; "" for one without atoms."""
    starts = np.searchsorted(amounts.crystal, np.arange(crystals + 1)).tolist()
    numbers, counts = amounts.number.tolist(), amounts.atoms.tolist()
    return [_conventional(numbers[a:b], counts[a:b]) for a, b in pairwise(starts)]


def conventional_formula(text: str) -> str | None:
    """A formula in any order of elements, with brackets or not, spelt as `conventional_formulas` does.

    None for a text that is no formula.
    """
    counts = _atoms_in(text)
    if not counts or not all(counts.values()):
        return None
    numbers = sorted(counts, key=lambda number: _RANKS[number])
    return _conventional(numbers, [counts[number] for number in numbers])


def _atoms_in(text: str) -> dict[int, int] | None:
    """How many atoms of each element a formula names; None if it is none."""
    open_brackets: list[dict[int, int]] = [{}]
    place = 0
    while place < len(text):
        part = FORMULA_PART.match(text, place)
        if part is None:
            return None
        place, times = part.end(), int(part["times"] or 1)
        if part["open"]:
            open_brackets.append({})
            continue
        if part["symbol"]:
            number = atomic_number(part["symbol"])
            if not number:
                return None
            inside = {number: 1}
        elif len(open_brackets) > 1:
            inside = open_brackets.pop()
        else:
            return None
        around = open_brackets[-1]
        for each, count in inside.items():
            around[each] = around.get(each, 0) + times * count
    return open_brackets[0] if len(open_brackets) == 1 else None


def _conventional(numbers: list[int], counts: list[int]) -> str:
    """The formula of one crystal, elements by electronegativity."""
    divisor = math.gcd(*counts)
    counts = [count // divisor for count in counts] if divisor > 1 else counts
    if len(numbers) > 2 and ELECTRONEGATIVITY[numbers[-1]] - ELECTRONEGATIVITY[numbers[-2]] < SALT:
        anions = math.gcd(counts[-2], counts[-1])
        if anions > 1:
            anion = _joined(numbers[-2:], [count // anions for count in counts[-2:]])
            return f"{_joined(numbers[:-2], counts[:-2])}({anion}){anions}"
    formula = _joined(numbers, counts)
    return UNREDUCED.get(formula, formula) if len(numbers) < 3 else formula


def _joined(numbers: list[int], counts: list[int]) -> str:
    return "".join(
        SYMBOLS[number] if count == 1 else f"{SYMBOLS[number]}{count}"
        for number, count in zip(numbers, counts, strict=True)
    )
