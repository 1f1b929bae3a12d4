"""The periodic table as a map: how many crystals hold each element, and which share of them was asked for."""

import math
from dataclasses import dataclass

from screening.crystals.elements import SYMBOLS
from screening.report.element_names import NAMES
from screening.report.markup import Content, Markup, element
from screening.report.survey import Survey
from screening.report.table import sortable_table
from screening.report.wording import TIMES, compact, measured, plural, share, whole

LEVELS = 8
# Of fewer crystals, a share says little; such elements are hatched.
FEW = 20
_LANTHANIDES, _ACTINIDES = range(57, 72), range(89, 104)
# The first element of each period, and where its elements after the first gap stand in 18 columns.
_NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)


@dataclass(frozen=True, slots=True)
class _Cell:
    number: int
    count: int
    wanted: int


def place_of(number: int) -> tuple[int, int]:
    """Row and column of an element, from 1; lanthanides and actinides in rows 9 and 10."""
    if number in _LANTHANIDES:
        return 9, 4 + number - _LANTHANIDES[0]
    if number in _ACTINIDES:
        return 10, 4 + number - _ACTINIDES[0]
    period = next(p for p in range(1, 8) if number <= _NOBLE[p])
    place, left = number - _NOBLE[period - 1], _NOBLE[period] - number
    # From the right, unless it is of the first two groups or, where they are, of the d block.
    ahead = {1: 1, 2: 2, 3: 2}.get(period, 3)
    return period, place if place <= ahead else 18 - left


def element_map(survey: Survey, words: str) -> Markup:
    """The map with its switch, legend and table; `words` say what was asked for."""
    cells = [_Cell(z, int(survey.elements[z]), int(survey.wanted_elements[z])) for z in range(1, len(SYMBOLS))]
    if not survey.predicted:
        return element("p", "No crystal was predicted yet.", class_="none")
    counts = sorted(cell.count for cell in cells if cell.count)
    # Most elements are alike: below the tenth part of them, colours would tell little.
    few, most = counts[len(counts) // 10], counts[-1]
    best = max((_share(cell) for cell in cells if cell.count >= FEW), default=0.0)
    modes = [("count", "crystals with the element"), ("share", "share of them asked for")]
    # Beside the table, so that one line of style shows what was chosen in any browser.
    choices: list[Content] = [
        [
            element("input", type="radio", name="map", id=f"map-{mode}", checked=mode == "count"),
            element("label", text, for_=f"map-{mode}"),
        ]
        for mode, text in modes
    ]
    table = element("ol", [_drawn(cell, _level(cell.count, few, most), best) for cell in cells], class_="periodic")
    return element(
        "div",
        choices,
        element("p", _sentence(survey, words), class_="note"),
        table,
        _scale("count", "crystals", compact(few), compact(most)),
        _scale("share", "asked for", "0 %", f"{measured(100 * best, 3)} %"),
        _table([cell for cell in cells if cell.count], survey),
        class_="map",
        role="group",
        aria_label="Map of the elements",
    )


def _share(cell: _Cell) -> float:
    return cell.wanted / cell.count if cell.count else 0.0


def _level(count: int, few: int, most: int) -> int:
    """A colour for a count on a logarithmic scale: 0 for none, 1 up to `few`, LEVELS for the most."""
    if not count:
        return 0
    span = math.log(most / few)
    return 1 + round((LEVELS - 1) * max(math.log(count / few), 0.0) / span) if span else LEVELS


def _drawn(cell: _Cell, level: int, best: float) -> Markup:
    row, column = place_of(cell.number)
    symbol = SYMBOLS[cell.number]
    told = f"{NAMES[cell.number]}: {plural(cell.count, 'crystal')}"
    if cell.count:
        told += f", {whole(cell.wanted)} of them asked for ({share(cell.wanted, cell.count)})"
    portion = min(math.ceil(_share(cell) / best * LEVELS), LEVELS) if best else 0
    few = "few" if 0 < cell.count < FEW else "none" if not cell.count else None
    return element(
        "li",
        element("abbr", symbol),
        element("span", compact(cell.count) if cell.count else "", class_="in-count"),
        element("span", _portion(cell), class_="in-share"),
        style=f"grid-area:{row}/{column}",
        class_=" ".join(filter(None, [f"c{level} s{portion}", few])),
        data_tip=told,
        aria_label=told,
    )


def _portion(cell: _Cell) -> str:
    if not cell.count:
        return ""
    percent = 100 * _share(cell)
    return "0" if not cell.wanted else f"{percent:.0f}%" if percent >= 9.95 else f"{percent:.1f}%"


def _sentence(survey: Survey, words: str) -> list[Content]:
    held = int((survey.elements > 0).sum())
    return [
        f"{plural(held, 'element')} in {plural(survey.predicted, 'predicted crystal')}. Asked for: ",
        element("q", words),
        f", which are {whole(survey.wanted)} ({share(survey.wanted, survey.predicted)}).",
    ]


def _scale(mode: str, words: str, low: str, high: str) -> Markup:
    swatches = [element("span", class_=f"{mode[0]}{level}") for level in range(1, LEVELS + 1)]
    hatched = f"; hatched: fewer than {FEW} crystals" if mode == "share" else " (logarithmic)"
    bar = element("span", swatches, class_="ramp", aria_hidden="true")
    return element("p", f"{low} ", bar, f" {high} {words}{hatched}", class_=f"scale for-{mode}")


def _table(cells: list[_Cell], survey: Survey) -> Markup:
    overall = survey.wanted / survey.predicted
    head = ["Z", "element", "crystals", "asked for", "share", "against all"]
    rows = []
    for cell in cells:
        times = _share(cell) / overall if overall else 0.0
        shown = [
            (cell.number, str(cell.number)),
            (None, f"{SYMBOLS[cell.number]} {NAMES[cell.number]}"),
            (cell.count, whole(cell.count)),
            (cell.wanted, whole(cell.wanted)),
            (_share(cell), share(cell.wanted, cell.count)),
            (times, f"{measured(times, 2)}{TIMES}"),
        ]
        rows.append(shown)
    return element("details", element("summary", "All elements as a table"), sortable_table(head, rows))
