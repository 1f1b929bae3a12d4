"""What a word of a text format means: a number, an element. The native row scanner decides alike."""

import re
from functools import lru_cache

from screening.crystals.elements import SYMBOLS, atomic_number

_NUMBER = re.compile(r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?|nan|inf(?:inity)?)", re.ASCII | re.IGNORECASE)
_SYMBOL = re.compile(r"([A-Za-z]{1,2})(?![A-Za-z])")


def number_in(word: str) -> float | None:
    """The number that a word is, Fortran's 1.0d-3 too; None if it is none."""
    if not _NUMBER.fullmatch(word):
        return None
    return float(word.replace("d", "e").replace("D", "e"))


@lru_cache(maxsize=4096)
def element_in(word: str) -> int:
    """The atomic number of a symbol in any case, perhaps with a label after it (`Cu1`, `Fe_pv`); 0 for none."""
    match = _SYMBOL.match(word)
    if match is None:
        return 0
    return atomic_number(match[1].capitalize())


def is_element(word: str) -> bool:
    """Whether a word names an element, by symbol or by atomic number."""
    if word.isascii() and word.isdigit():
        return len(word) < 9 and 1 <= int(word) < len(SYMBOLS)
    return element_in(word) > 0
