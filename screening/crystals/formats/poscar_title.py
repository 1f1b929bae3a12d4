"""Which elements the title of a POSCAR names: all that a file of VASP 4 says about them."""

import re
from collections.abc import Sequence

from screening.crystals.elements import NUMBER_OF

_FORMULA = re.compile(r"([A-Z][a-z]?)(\d{0,9})")
_SYMBOL = re.compile(r"([A-Z][a-z]?)(?:_\w+)?(?:/\w+)?")
# What stands beside the symbols in titles made of POTCAR headers: the kind of potential and its date.
_POTENTIAL = re.compile(r"(?:PAW|US|NC|LDA|GGA|PBE|PW91)(?:_\w+)?|\d{1,2}[A-Z][a-z]{2}\d{2,4}")


def symbols_in_title(title: str, counts: Sequence[int]) -> list[str]:
    """The elements that a title names, if it names nothing else, as many as there are counts; else none.

    A title is symbols (`Ag Ge`), potentials (`PAW_PBE Fe_pv 06Sep2000 PAW_PBE O 08Apr2002`) or a formula in
    the proportion of the counts (`Na4 Cl4`, `BaTiO3`).
    """
    words = [word for word in title.split() if not _POTENTIAL.fullmatch(word)]
    symbols = [match[1] for word in words if (match := _SYMBOL.fullmatch(word)) and match[1] in NUMBER_OF]
    if len(symbols) == len(words) == len(counts):
        return symbols
    parts = _parts(words)
    summed: dict[str, int] = {}
    for symbol, number in parts:
        summed[symbol] = summed.get(symbol, 0) + number
    for named in (parts, list(summed.items())):
        if _in_proportion([number for _, number in named], counts):
            return [symbol for symbol, _ in named]
    return []


def _parts(words: Sequence[str]) -> list[tuple[str, int]]:
    """Words as one formula, element after element; empty if they are none."""
    parts = [match for word in words for match in _FORMULA.findall(word)]
    is_formula = "".join(symbol + number for symbol, number in parts) == "".join(words)
    if not is_formula or any(symbol not in NUMBER_OF for symbol, _ in parts):
        return []
    return [(symbol, int(number or 1)) for symbol, number in parts]


def _in_proportion(numbers: Sequence[int], counts: Sequence[int]) -> bool:
    if not numbers or len(numbers) != len(counts):
        return False
    return all(number * counts[0] == count * numbers[0] for number, count in zip(numbers, counts, strict=True))
