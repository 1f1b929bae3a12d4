"""Numbers, times, units and names as a reader of the page meets them."""

import math
import re
from datetime import UTC, datetime

from screening.report.markup import Markup, element, joined

MINUS, DASH, TIMES = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
_UNITS = {
    "1": "",
    "text": "",
    "angstrom": "Å",
    "angstrom^3/atom": "Å³/atom",
    "angstrom^3/cell": "Å³/cell",
    "eV/angstrom": "eV/Å",
    "eV/angstrom^3": "eV/Å³",
    "muB/cell": "μB/cell",
    "cm^-1": "cm⁻¹",
    "g/cm^3": "g/cm³",
    "log10(GPa)": "log₁₀ GPa",
}
_TITLES = {"efermi": "Fermi energy", "is_metal": "Metal"}
_SPANS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


def whole(count: int) -> str:
    """A count, such as 1,234,567."""
    return f"{count:,}".replace("-", MINUS)


def compact(count: int) -> str:
    """A count in at most four letters or so: 999, 1.2k, 35k, 4.1M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size * (1 - 5e-4):
            return f"{count / size:.{1 if count < 9.95 * size else 0}f}{letter}"
    return str(count)


def measured(value: float, digits: int = 4) -> str:
    """A measured number with so many digits that count, and a typographic minus; a dash where there is none."""
    if not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")
    exponent = math.floor(math.log10(abs(value)))
    form = f",.{max(digits - 1 - exponent, 0)}f" if -4 <= exponent < 6 else f".{digits - 1}e"
    return f"{value:{form}}".replace("-", MINUS)


def share(part: int, total: int) -> str:
    """A part in percent; neither 0 nor 100 unless it is."""
    if total <= 0:
        return DASH
    percent = 100 * part / total
    if part == 0 or part == total:
        return f"{percent:.0f} %"
    if percent < 0.1 or percent > 99.9:
        return "<0.1 %" if percent < 0.1 else ">99.9 %"
    return f"{percent:.1f} %"


def duration(seconds: float) -> str:
    """A span of time in two units at most: 3 h 20 min, 12.3 s."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    rounded = round(seconds) if seconds < 3600 else 60 * round(seconds / 60)
    parts = []
    for size, word in _SPANS:
        count, rounded = divmod(rounded, int(size))
        if count:
            parts.append(f"{count} {word}")
    return " ".join(parts[:2])


def moment(unix: float) -> str:
    """A time of the clock, UTC."""
    return f"{_date(unix):%Y-%m-%d %H:%M} UTC"


def stretch(start: float, end: float) -> str:
    """Two times of the clock, the day once if it is the same."""
    a, b = _date(start), _date(end)
    if a.date() != b.date():
        return f"{a:%Y-%m-%d %H:%M} to {b:%Y-%m-%d %H:%M} UTC"
    return f"{a:%Y-%m-%d %H:%M:%S} to {b:%H:%M:%S} UTC"


def _date(unix: float) -> datetime:
    # A clock gone wrong shows as a strange date, not as an error.
    return datetime.fromtimestamp(min(max(unix, 0.0), 4e9), UTC)


def unit_words(unit: str) -> str:
    """A unit as it is printed; empty for plain numbers."""
    return _UNITS.get(unit, unit)


def with_unit(text: str, unit: str) -> str:
    """A number and its unit."""
    printed = unit_words(unit)
    return f"{text} {printed}" if printed else text


def title_of(name: str, unit: str = "") -> str:
    """A name of a target as a heading: Formation energy, where the unit says that it is per atom."""
    words = _TITLES.get(name, name.replace("_", " ").strip())
    words = words.removesuffix(f" per {unit.rpartition('/')[2]}") if "/" in unit else words
    return words[:1].upper() + words[1:]


def fixed(value: float, decimals: int) -> str:
    """A number with so many decimals; one too small for them is told from 0."""
    if not math.isfinite(value):
        return DASH
    if value and abs(value) < 0.5 * 10.0**-decimals:
        return f"{f'>{MINUS}' if value < 0 else '<'}{10.0**-decimals:.{decimals}f}"
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def trimmed(value: float, decimals: int) -> str:
    """A number with at most so many decimals, such as an angle."""
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return ("0" if text == "-0" else text).replace("-", MINUS)


def formula_markup(formula: str) -> Markup:
    """A formula with its numbers as subscripts."""
    parts = re.split(r"(?<=[A-Za-z)])(\d+)", formula)
    return joined([element("sub", part) if k % 2 else part for k, part in enumerate(parts)])


def plural(count: int, noun: str) -> str:
    """A count and its noun: 1 crystal, 2 crystals."""
    return f"{whole(count)} {noun}{'' if count == 1 else 's'}"
