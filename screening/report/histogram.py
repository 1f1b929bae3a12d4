"""Histograms of targets: all predicted crystals, and those asked for before them, on a plain or a logarithmic scale."""

import math
from collections.abc import Callable
from itertools import pairwise

from screening.report.axes import linear_ticks, tick_text
from screening.report.frame import Frame, steps
from screening.report.markup import Content, Markup, element, short
from screening.report.survey import Histogram
from screening.report.wording import compact, measured, plural, share, title_of, unit_words, whole, with_unit

# A bin of so many times the mean count makes the logarithmic scale the first one shown.
PEAKED = 12.0
FRAME = Frame(360, 215, left=44, right=8)


def histogram_figure(one: Histogram, number: int, *, wanted: bool) -> Markup:
    """A histogram with its numbers in words; `number` makes its parts unique, `wanted` draws those asked for too."""
    heading = element("h3", _heading(one))
    if not one.distribution.count:
        return element("figure", heading, element("p", "No crystal was predicted yet.", class_="none"))
    switch = f"log-{number}"
    box = element("input", type="checkbox", id=switch, class_="switch", checked=_is_peaked(one))
    label = element("label", "logarithmic counts", for_=switch, class_="switch-label")
    charts = [_chart(one, log=log, wanted=wanted) for log in (False, True)]
    return element(
        "figure", heading, box, label, *charts, _caption(one), _table(one, wanted=wanted), class_="histogram"
    )


def _is_peaked(one: Histogram) -> bool:
    """Whether one bin stands so far above the others that little else would be seen."""
    filled = one.counts[one.counts > 0]
    return bool(filled.max() > PEAKED * filled.mean())


def _heading(one: Histogram) -> Content:
    probability = " (probability)" if one.target.kind == "classification" else None
    return [title_of(one.target.name, one.target.unit), probability]


def _chart(one: Histogram, *, log: bool, wanted: bool) -> Markup:
    inside = one.counts[1:-1].tolist()
    chosen = one.wanted[1:-1].tolist()
    height, ticks = _log_scale(max(inside)) if log else _linear_scale(max(inside))
    frame = FRAME

    def y(value: float) -> float:
        return frame.y(height(value))

    unit = unit_words(one.target.unit)
    title = f"{one.target.name} ({unit})" if unit else one.target.name
    words = f"Histogram of {one.target.name}{' with logarithmic counts' if log else ''}"
    return frame.drawing(
        frame.up(ticks, "crystals"),
        element("path", d=steps(inside, frame.x, y), class_="all"),
        element("path", d=steps(chosen, frame.x, y), class_="wanted") if wanted and any(chosen) else None,
        frame.across(one.axis, title),
        _hits(one, inside, chosen),
        label=words,
        class_="chart log" if log else "chart linear",
    )


def _linear_scale(most: int) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    top = max(most, 1) * 1.04
    ticks = [value for value in linear_ticks(0, top, 5) if value == int(value)]
    return (lambda value: value / top), [(value / top, compact(int(value))) for value in ticks]


def _log_scale(most: int) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    # A single crystal has a height too: the floor is at one half.
    floor = math.log10(0.5)
    span = math.log10(max(most, 2) * 1.2) - floor

    def height(value: float) -> float:
        return (math.log10(value) - floor) / span if value > 0 else 0.0

    decades = range(math.floor(math.log10(max(most, 1))) + 1)
    return height, [(height(10**k), compact(10**k)) for k in decades]


def _hits(one: Histogram, inside: list[int], chosen: list[int]) -> Markup:
    """Areas that tell their bin when pointed at."""
    edges, bins = one.axis.edges.tolist(), one.axis.bins
    areas = []
    for k, (count, picked) in enumerate(zip(inside, chosen, strict=True)):
        if count:
            told = f"{_range(edges[k], edges[k + 1], one)}: {plural(count, 'crystal')}"
            told += f", {whole(picked)} asked for" if picked else ""
            x = short(FRAME.x(k / bins))
            area = element("title", told)
            areas.append(
                element(
                    "rect", area, x=x, y=FRAME.top, width=short(FRAME.inner_width / bins), height=FRAME.inner_height
                )
            )
    return element("g", areas, class_="hits")


def _range(low: float, high: float, one: Histogram) -> str:
    return with_unit(f"{tick_text(low)} to {tick_text(high)}", one.target.unit)


def _caption(one: Histogram) -> Markup:
    found, unit = one.distribution, one.target.unit
    if one.target.kind == "classification":
        yes = found.count - found.count_below(0.5)
        text = f"{plural(yes, 'crystal')} ({share(yes, found.count)}) at 0.5 or more; mean {measured(found.mean, 3)}"
        return element("figcaption", text)
    quartiles = [measured(found.quantile(q), 3) for q in (0.25, 0.5, 0.75)]
    parts = [
        f"median {with_unit(quartiles[1], unit)}",
        f"half of them {quartiles[0]} to {quartiles[2]}",
        f"mean {measured(found.mean, 3)}",
        f"all {measured(found.low, 3)} to {measured(found.high, 3)}",
    ]
    outside = [f"{whole(int(n))} {where}" for n, where in ((one.counts[0], "below"), (one.counts[-1], "above")) if n]
    parts += [f"off the chart: {' and '.join(outside)}"] if outside else []
    return element("figcaption", "; ".join(parts))


def _table(one: Histogram, *, wanted: bool) -> Markup:
    """The same as a table, for those who do not see the chart."""
    edges = one.axis.edges.tolist()
    head = ["from", "to", "crystals"] + (["asked for"] if wanted else [])
    rows = []
    ends = [(None, edges[0]), *pairwise(edges), (edges[-1], None)]
    for (low, high), count, picked in zip(ends, one.counts.tolist(), one.wanted.tolist(), strict=True):
        if count:
            cells = ["" if end is None else tick_text(end) for end in (low, high)] + [whole(count)]
            rows.append([*cells, whole(picked)] if wanted else cells)
    table = element(
        "table",
        element("thead", element("tr", [element("th", cell, scope="col") for cell in head])),
        element("tbody", [element("tr", [element("td", cell) for cell in row]) for row in rows]),
    )
    return element("details", element("summary", "Counts"), element("div", table, class_="scroll"), class_="counts")
