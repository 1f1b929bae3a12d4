"""The report of a run as one HTML file: everything is read from the store, so the same store gives the same bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from screening.files.whole import require_place, write_whole
from screening.query.doubts import doubts_of
from screening.report.asked import SHOWN, Asked, Wish
from screening.report.candidates import Candidate, candidates_of
from screening.report.cards import candidate_table, cards
from screening.report.density import Mark, density_figure
from screening.report.drawing import gradients, looks
from screening.report.facts import Facts, facts_of
from screening.report.failures import Trouble, trouble_table, troubles_of
from screening.report.head import funnel, kinds_part, tiles, title_part
from screening.report.histogram import histogram_figure
from screening.report.markup import Content, element
from screening.report.pace import Pace, pace_of
from screening.report.page import Section, document
from screening.report.periodic import element_map
from screening.report.provenance import model_part, repeat_part, run_part
from screening.report.relaxations import Relaxations, relaxation_part, relaxations_of
from screening.report.running import pace_section
from screening.report.survey import Density, Survey, survey_of
from screening.report.wording import measured, plural, share, title_of, whole
from screening.store.read import Results
from screening.version import code_version


@dataclass(frozen=True)
class Told:
    """What came of writing a report: where it is, how large, and what is in it."""

    path: Path
    size: int
    predicted: int
    wanted: int
    words: str
    drawn: bool
    missing: int


@dataclass(frozen=True)
class _Read:
    """All that a page is made of."""

    results: Results
    facts: Facts
    wish: Wish
    survey: Survey
    asked: Asked
    candidates: list[Candidate]
    troubles: list[Trouble]
    doubts: list[str]
    pace: Pace
    relaxations: Relaxations | None
    drawn: bool


def write_report(
    run: Path | str,
    output: Path | str,
    *,
    where: str | Sequence[str] = (),
    by: str | None = None,
    descending: bool = False,
    top: int = SHOWN,
    title: str | None = None,
    packed: Path | None = None,
) -> Told:
    """Write the report of a run folder, done or not, or of a `results.h5`; an older file is replaced when it is whole.

    Wanted are predicted crystals that fulfil `where`, one condition or all of several, and the `top` best by the number
    `by` are shown; without them, the best by the usual number. `packed` is where the packed input is now. Without that,
    or the file of relaxed crystals where the run relaxed them, crystals are not drawn, and the page says so.
    """
    require_place(output)
    with Results(run, packed=packed) as results:
        read = _read(results, Wish([where] if isinstance(where, str) else where, by, descending, top))
        name = title or results.record.folder.resolve().name
        page = _page(read, name)
    # Letters that have no UTF-8 were replaced when they became markup.
    path = write_whole(Path(output), [page.encode()])
    return Told(
        path,
        path.stat().st_size,
        read.survey.predicted,
        read.survey.wanted,
        read.asked.words,
        read.drawn,
        results.missing,
    )


def _read(results: Results, wish: Wish) -> _Read:
    facts = facts_of(results.record)
    known = facts.record.known_elements
    survey, asked = survey_of(results, wish, known)
    drawn = results.has_crystals
    return _Read(
        results=results,
        facts=facts,
        wish=wish,
        survey=survey,
        asked=asked,
        candidates=candidates_of(results, asked, known, drawn=drawn),
        troubles=troubles_of(results),
        doubts=list(doubts_of(results)),
        pace=pace_of(results.notes()),
        relaxations=relaxations_of(results),
        drawn=drawn,
    )


def _page(read: _Read, name: str) -> str:
    numbers = {int(z) for one in read.candidates if one.crystal is not None for z in one.crystal.numbers}
    head = [title_part(read.results, read.facts, read.pace, name), tiles(read.survey, read.pace)]
    foot = element("p", f"Made by crystal-screening ({code_version()}). This file loads nothing from anywhere.")
    sections = [
        Section("funnel", "What was screened", _screened(read)),
        Section("candidates", "Top candidates", _candidates(read)),
        Section("targets", "Predictions", _targets(read)),
        *_relaxation(read),
        Section("elements", "Elements", element_map(read.survey, read.asked.words)),
        Section("failures", "What has no predictions", trouble_table(read.troubles, read.survey.read)),
        Section("running", "How it ran", _running(read)),
        Section("model", "The model", model_part(read.facts)),
        Section("provenance", "Provenance", run_part(read.facts)),
        Section("repeat", "How to repeat it", repeat_part(read.facts, read.asked, read.wish, name)),
    ]
    return document(
        f"{name}: screening report", head, sections, foot=foot, looks=looks(numbers), shadings=gradients(numbers)
    )


def _relaxation(read: _Read) -> list[Section]:
    if read.relaxations is None:
        return []
    return [Section("relaxation", "Relaxation", relaxation_part(read.relaxations, read.facts))]


def _screened(read: _Read) -> Content:
    known = read.facts.record.known_elements
    kinds = kinds_part(read.survey)
    parts: list[Content] = [funnel(read.survey, read.asked, None if known is None else len(known), read.facts.trained)]
    parts += [element("p", words, class_="note") for words in read.doubts]
    return [*parts, element("h3", "Number of elements"), kinds] if kinds is not None else parts


def _candidates(read: _Read) -> Content:
    if not read.candidates:
        words = "No predicted crystal is like that."
        if read.survey.wanted:
            words = f"None of the {plural(read.survey.wanted, 'crystal')} asked for has such a number to rank by."
        return element("p", words, class_="none")
    order = "highest" if read.asked.descending else "lowest"
    words = f"{plural(len(read.candidates), 'crystal')} of {whole(read.survey.wanted)} asked for ("
    relaxed = ", or the file of relaxed crystals," if read.relaxations else ""
    sentence: list[Content] = [
        words,
        element("q", read.asked.words),
        f"), with the {order} ",
        element("code", read.asked.by),
        " first.",
    ]
    sentence.append(
        " Drag a crystal, or use the arrow keys, to turn it."
        if read.drawn
        else f" The packed input{relaxed} is not where the run says, so no crystals are drawn."
    )
    columns = read.survey.histograms
    table = element("details", element("summary", "As a table"), candidate_table(read.candidates, columns))
    return [element("p", sentence, class_="note"), cards(read.candidates, columns, read.asked), table]


def _targets(read: _Read) -> Content:
    survey = read.survey
    note = None
    if survey.wanted:
        key = [element("span", class_="swatch all", aria_hidden="true"), "all predicted crystals "]
        key += [
            element("span", class_="swatch wanted", aria_hidden="true"),
            f"those asked for ({share(survey.wanted, survey.predicted)})",
        ]
        note = element("p", key, class_="note legend")
    figures = [histogram_figure(one, k, wanted=survey.wanted > 0) for k, one in enumerate(survey.histograms)]
    parts: list[Content] = [note, element("div", figures, class_="histograms")]
    if survey.density is not None:
        x, y = survey.density.x.target.name, survey.density.y.target.name
        marks = [
            Mark(
                one.values[x],
                one.values[y],
                one.rank,
                f"{one.formula}, {measured(one.values[x])}, {measured(one.values[y])}",
                one.anchor,
            )
            for one in read.candidates
        ]
        parts += [element("h3", _against(survey.density)), density_figure(survey.density, marks)]
    return parts


def _against(density: Density) -> str:
    y, x = (title_of(one.target.name, one.target.unit) for one in (density.y, density.x))
    return f"{y} against {x[:1].lower()}{x[1:]}"


def _running(read: _Read) -> Content:
    if not read.pace.notes:
        return element("p", "There is no shard yet that would tell.", class_="none")
    return pace_section(read.pace)
