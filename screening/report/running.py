"""How the run went, drawn: crystals per second over the time at work, and which stage took the time."""

from screening.report.axes import linear_ticks
from screening.report.frame import Frame, steps
from screening.report.markup import Content, Markup, element, short
from screening.report.pace import Pace, rates
from screening.report.table import plain_table
from screening.report.wording import compact, duration, measured, moment, plural, share, stretch

FRAME = Frame(920, 220, left=56)
MOST_BINS = 80
# fmt: off
_ROUND_SPANS = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30,
    60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400,
)
# fmt: on


def pace_section(pace: Pace) -> list[Content]:
    """The chart of throughput and the table of stages, as far as the shards tell."""
    parts: list[Content] = [element("p", _sentence(pace))]
    if pace.seconds > 0:
        parts.append(_chart(pace))
    if pace.stages:
        parts.append(_stages(pace))
    return parts


def _sentence(pace: Pace) -> str:
    words = f"{plural(pace.rows, 'crystal')} in {duration(pace.seconds)} of work"
    words += f" ({measured(pace.rows / pace.seconds, 3)} crystals/s)" if pace.seconds > 0 else ""
    if pace.workers:
        hosts = {worker.split(" ")[0] for worker in pace.workers}
        words += f", by {plural(len(pace.workers), 'worker')} on {plural(len(hosts), 'host')}"
    words += f", {stretch(pace.spells[0].start, pace.spells[-1].end)}"
    pauses = len(pace.spells) - 1
    return f"{words}, with {plural(pauses, 'pause')}." if pauses else f"{words}."


def _chart(pace: Pace) -> Markup:
    total = pace.seconds
    bins = max(1, min(MOST_BINS, len(pace.notes) // 2))
    found = rates(pace, bins).tolist()
    top = max(found) * 1.08 or 1.0
    ticks = [(value / top, compact(int(value)) if value >= 10 else f"{value:g}") for value in linear_ticks(0, top, 5)]
    span = next((s for s in _ROUND_SPANS if total / s <= 9), 86400 * (int(total / 86400 / 9) + 1))
    times = [(k * span / total, duration(k * span) if k else "0") for k in range(int(total / span) + 1)]
    mean = pace.rows / total
    line = f"M{FRAME.left} {short(FRAME.y(mean / top))}h{FRAME.inner_width}"
    return element(
        "figure",
        FRAME.drawing(
            FRAME.up(ticks, "crystals/s"),
            element("path", d=steps(found, FRAME.x, lambda value: FRAME.y(value / top)), class_="all"),
            element("path", d=line, class_="mean"),
            _pauses(pace),
            FRAME.ticks_across(times, "time at work"),
            _hits(found, total),
            class_="chart wide",
            label=f"Crystals per second over time; {measured(mean, 3)} on average",
        ),
        element("figcaption", f"The dashed line is the mean, {measured(mean, 3)} crystals/s."),
    )


def _pauses(pace: Pace) -> Markup:
    marks, place, spells = [], 0.0, pace.spells
    for k in range(len(spells) - 1):
        place += spells[k].seconds
        told = f"paused for {duration(spells[k + 1].start - spells[k].end)} from {moment(spells[k].end)} on"
        line = f"M{short(FRAME.x(place / pace.seconds))} {FRAME.top}v{FRAME.inner_height}"
        marks.append(element("path", element("title", told), d=line, class_="pause"))
    return element("g", marks)


def _hits(found: list[float], total: float) -> Markup:
    areas = []
    for k, rate in enumerate(found):
        start, end = (duration(place * total / len(found)) for place in (k, k + 1))
        told = f"{start} to {end}: {measured(rate, 3)} crystals/s"
        x, width = short(FRAME.x(k / len(found))), short(FRAME.inner_width / len(found))
        areas.append(element("rect", element("title", told), x=x, y=FRAME.top, width=width, height=FRAME.inner_height))
    return element("g", areas, class_="hits")


def _stages(pace: Pace) -> Markup:
    total = sum(pace.stages.values())
    ordered = sorted(pace.stages.items(), key=lambda item: -item[1])
    rows = []
    for stage, seconds in ordered:
        bar = element("span", style=f"width:{100 * seconds / total:.1f}%", class_="bar")
        rows.append(
            [
                stage,
                duration(seconds),
                share(round(seconds * 1e6), round(total * 1e6)),
                element("span", bar, class_="track"),
            ]
        )
    return plain_table(["stage", "time, all workers", "share", ""], rows)
