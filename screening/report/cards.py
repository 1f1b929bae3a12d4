"""The top candidates as cards, each with its crystal drawn, and as a table."""

from collections.abc import Sequence
from urllib.parse import quote

import numpy as np

from screening.crystals.crystal import Crystal
from screening.crystals.formats.cif_writer import parameters_of, write_cif
from screening.crystals.write import file_stem
from screening.report.asked import Asked
from screening.report.candidates import Candidate, space_group
from screening.report.drawing import crystal_drawing, element_key
from screening.report.markup import Content, Markup, element
from screening.report.scene import scene_of
from screening.report.survey import Histogram
from screening.report.table import Cell, sortable_table
from screening.report.wording import (
    fixed,
    formula_markup,
    measured,
    plural,
    title_of,
    trimmed,
    unit_words,
    with_unit,
)
from screening.store.schema import target_column


def cards(candidates: Sequence[Candidate], columns: Sequence[Histogram], asked: Asked) -> Markup:
    """Cards in the order of the ranks."""
    return element("ol", [_card(one, columns, asked) for one in candidates], class_="cards")


def _card(one: Candidate, columns: Sequence[Histogram], asked: Asked) -> Markup:
    heading = element("h3", element("span", str(one.rank), class_="rank"), " ", formula_markup(one.formula) or one.id)
    others: list[Content] = []
    first: Content = [element("dt", element("code", asked.by)), element("dd", measured(one.number), class_="by")]
    for column in columns:
        shown = with_unit(_value(one, column), column.target.unit)
        name = element("dt", title_of(column.target.name, column.target.unit))
        if target_column(column.target.name) == asked.ranked:
            first = [name, element("dd", shown, class_="by")]
        else:
            others.append([name, element("dd", shown)])
    unseen = None
    if one.unseen:
        words = f"{' and '.join(one.unseen)} not seen in training: treat the numbers with caution"
        unseen = element("p", words, class_="warning")
    late = None
    if one.force is not None:
        words = f"its relaxation timed out, with a force of {with_unit(measured(one.force, 2), 'eV/angstrom')} left"
        late = element("p", words, class_="warning")
    return element(
        "li",
        _drawing(one),
        element("div", heading, element("p", element("code", one.id), class_="id"), unseen, late, class_="name"),
        element("dl", first, others),
        _geometry(one),
        id=one.anchor,
    )


def _drawing(one: Candidate) -> Content:
    if one.crystal is None:
        return None
    scene = scene_of(one.crystal)
    label = f"Unit cell of {one.formula or one.id}, {plural(one.sites, 'atom')}; arrow keys turn it"
    more = f"{plural(scene.left_out, 'atom')} not drawn" if scene.left_out else None
    return [
        crystal_drawing(scene, label),
        element_key(one.crystal.numbers),
        element("p", more, class_="note") if more else None,
    ]


def _geometry(one: Candidate) -> Markup:
    parts: list[Content] = [plural(one.sites, "atom")]
    if np.isfinite(one.volume_per_atom):
        parts.append(with_unit(measured(one.volume_per_atom, 3), "angstrom^3/atom"))
    crystal = one.crystal
    group = space_group(crystal) if crystal is not None else None
    if group is not None:
        parts.insert(0, [_symbol(group[0]), f" ({group[1]})"])
    lines: list[Content] = [element("p", [[" · " if k else None, part] for k, part in enumerate(parts)])]
    if crystal is not None and all(crystal.pbc):
        parameters = parameters_of(crystal.lattice)
        lines.append(element("p", f"{', '.join(trimmed(x, 3) for x in parameters[:3])} Å"))
        lines.append(element("p", f"{', '.join(trimmed(x, 2) for x in parameters[3:])}°"))
        lines.append(_download(crystal))
    return element("div", lines, class_="geometry")


def _download(crystal: Crystal) -> Markup:
    content = f"data:chemical/x-cif;charset=utf-8,{quote(write_cif(crystal), errors='replace')}"
    return element("a", "CIF", href=content, download=f"{file_stem(crystal.id)}.cif", class_="download")


def _symbol(symbol: str) -> list[Content]:
    """The symbol of a space group: screw axes have subscripts."""
    parts = symbol.replace(" ", "").split("_")
    return [parts[0], *([element("sub", part[:1]), part[1:]] for part in parts[1:])]


def _value(one: Candidate, column: Histogram) -> str:
    return fixed(one.values[column.target.name], column.decimals)


def candidate_table(candidates: Sequence[Candidate], columns: Sequence[Histogram]) -> Markup:
    """The same crystals as a table to sort, and to copy from."""
    head: list[Content] = ["rank", "formula", "id", "atoms"]
    for column in columns:
        unit = unit_words(column.target.unit)
        head.append([title_of(column.target.name, column.target.unit), f" ({unit})" if unit else None])
    rows: list[list[Cell]] = []
    for one in candidates:
        link = element("a", formula_markup(one.formula) or one.id, href=f"#{one.anchor}")
        start: list[Cell] = [
            (one.rank, str(one.rank)),
            (None, link),
            (None, element("code", one.id)),
            (one.sites, str(one.sites)),
        ]
        rows.append(start + [(one.values[column.target.name], _value(one, column)) for column in columns])
    return sortable_table(head, rows)
