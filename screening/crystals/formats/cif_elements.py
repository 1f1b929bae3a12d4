"""Which element a CIF means by a type symbol such as `Fe3+` or by a site label such as `Fe1`.

Deuterium and tritium are hydrogen: the models know elements, not isotopes.
"""

import re
from functools import lru_cache

from screening.crystals.elements import ISOTOPES, atomic_number

# Letters of one element, perhaps a mass number before, anything but letters after: Fe3+, O2-, 2H, Fe(III) is none.
_SYMBOL = re.compile(r"\d*([A-Za-z]{1,2})[^A-Za-z]*")
_LETTERS = re.compile(r"[A-Za-z]+")


@lru_cache(maxsize=4096)
def element_of_symbol(text: str) -> int:
    """The atomic number of `_atom_site_type_symbol`, quoted or not, in any case; 0 when it is none."""
    match = _SYMBOL.fullmatch(text.strip("'\" "))
    return atomic_number(match[1].capitalize()) if match else 0


@lru_cache(maxsize=16384)
def element_of_label(text: str) -> int:
    """The atomic number of `_atom_site_label`; 0 when it starts with no element or could mean two.

    A small second letter belongs to the symbol (`Ca1` is calcium). A capital one may name a position: `OW1` is
    oxygen, but `CA1` could be calcium or carbon A, and only the type symbol can tell.
    """
    match = _LETTERS.match(text.strip("'\" "))
    letters = match[0] if match else ""
    two, one = atomic_number(letters[:2].capitalize()), atomic_number(letters[:1].upper())
    if letters[1:2].islower() or len(letters) < 2:
        return two
    if two and one:
        return 0
    return two or (one if letters[0] not in ISOTOPES else 0)
