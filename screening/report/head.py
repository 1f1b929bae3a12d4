"""The top of the page: what was screened, by which model, how far it got, and what became of the crystals."""

import numpy as np

from screening.report.asked import Asked
from screening.report.facts import Facts
from screening.report.markup import Content, Markup, element
from screening.report.pace import Pace
from screening.report.survey import MOST_KINDS, Survey
from screening.report.table import plain_table
from screening.report.wording import compact, duration, measured, moment, plural, share, whole
from screening.store.read import Results
from screening.store.schema import Status

_KINDS = {1: "elements", 2: "binary", 3: "ternary", 4: "quaternary", 5: "quinary"}


def title_part(results: Results, facts: Facts, pace: Pace, title: str) -> Markup:
    """The heading, with a notice if rows are missing."""
    when = f", {moment(pace.spells[-1].end)}" if pace.spells else ""
    notice = None
    if results.missing:
        words = f"This run is not done: {whole(results.missing)} of {whole(results.expected)} rows are missing yet. "
        words += "Everything below is about the rows that are there."
        notice = element("p", words, class_="warning", role="status")
    return element(
        "header",
        element("p", "Screening report", class_="kicker"),
        element("h1", title),
        element("p", f"Predicted by {facts.model_title}{when}"),
        notice,
    )


def tiles(survey: Survey, pace: Pace) -> Markup:
    """The numbers that one asks for first."""
    shown = [
        (whole(survey.read), "crystals read"),
        (whole(survey.predicted), f"predicted ({share(survey.predicted, survey.read)})"),
        (whole(survey.wanted), "asked for"),
        (str(int((survey.elements > 0).sum())), "elements"),
        (compact(survey.atoms), "atoms"),
    ]
    if pace.seconds > 0:
        shown.append((measured(pace.rows / pace.seconds, 3), f"crystals/s for {duration(pace.seconds)}"))
    return element(
        "dl", [element("div", element("dt", name), element("dd", value)) for value, name in shown], class_="tiles"
    )


def funnel(survey: Survey, asked: Asked, known: int | None, trained: str = "the model was") -> Markup:
    """How many crystals are left after each step, as bars; `trained` is who knows only so many elements."""
    lost = {status: survey.statuses[status] for status in Status}
    steps: list[tuple[str, int, str]] = [
        ("read", survey.read, "every entry of the inputs"),
        ("accepted", survey.accepted, _without(lost, Status.REJECTED, Status.DUPLICATE)),
        ("predicted", survey.predicted, _without(lost, Status.FAILED)),
    ]
    if survey.within is not None:
        outside = survey.predicted - survey.within
        words = f"{trained} trained on {known} elements; {whole(outside)} crystals hold others"
        steps.append(("of known elements", survey.within, words))
    words = asked.words
    if survey.wanted_within is not None and survey.wanted > survey.wanted_within:
        words += f"; {whole(survey.wanted - survey.wanted_within)} of them hold elements that the model has not seen"
    steps.append(("asked for", survey.wanted, words))
    rows: list[list[Content]] = []
    for k, (name, count, note) in enumerate(steps):
        width = 100 * count / survey.read if survey.read else 0.0
        bar = element("span", style=f"width:{width:.2f}%", class_=f"bar step{k}")
        rows.append([name, whole(count), share(count, survey.read), element("span", bar, class_="track"), note])
    return element("div", plain_table(["", "crystals", "of all read", "", ""], rows), class_="funnel")


def _without(lost: dict[Status, int], *statuses: Status) -> str:
    words = [f"{whole(lost[status])} {status.word}" for status in statuses if lost[status]]
    return f"without {' and '.join(words)}" if words else "all of them"


def kinds_part(survey: Survey) -> Markup | None:
    """How many predicted crystals have how many elements."""
    found = [int(k) for k in np.flatnonzero(survey.kinds)]
    if not found:
        return None
    most = int(survey.kinds.max())
    rows: list[list[Content]] = []
    for k in found:
        count = int(survey.kinds[k])
        bar = element("span", style=f"width:{100 * count / most:.1f}%", class_="bar")
        name = _KINDS.get(k, f"{MOST_KINDS} elements or more" if k == MOST_KINDS else plural(k, "element"))
        rows.append([name, whole(count), share(count, survey.predicted), element("span", bar, class_="track")])
    return plain_table(["", "predicted", "share", ""], rows)
