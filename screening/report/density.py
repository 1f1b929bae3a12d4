"""Two targets against each other: how many crystals lie in each square, as colours, never a mark per crystal."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screening.arrays import Int64
from screening.report.axes import Axis, tick_text
from screening.report.frame import Frame
from screening.report.markup import Content, Markup, element, short
from screening.report.survey import Density, Histogram
from screening.report.wording import plural, title_of, unit_words, whole

FRAME = Frame(760, 480, left=50, bottom=40)
LEVELS = 8


@dataclass(frozen=True)
class Mark:
    """A candidate on the plot: where it lies, its rank, a name, and where its card is."""

    x: float
    y: float
    rank: int
    name: str
    anchor: str


def density_figure(density: Density, marks: Sequence[Mark]) -> Markup:
    """The plot with its legend; candidates are ringed and lead to their cards."""
    inside = int(density.counts.sum())
    if not inside:
        return element("p", "No crystal was predicted yet.", class_="none")
    outside = density.x.distribution.count - inside
    x, y = density.x.target.name, density.y.target.name
    label = f"Density of {plural(inside, 'crystal')}, {y} against {x}"
    plot = FRAME.drawing(
        FRAME.up([(density.y_axis.place(v), tick_text(v)) for v in density.y_axis.ticks()], _titled(density.y)),
        _cells(density),
        FRAME.across(density.x_axis, _titled(density.x)),
        _rings(density, marks),
        label=label,
        class_="chart density",
        role="group" if marks else "img",
    )
    left_out = f"; {whole(outside)} more lie outside the axes" if outside else ""
    rings = " Rings are the top candidates: they lead to their cards." if marks else ""
    caption = f"{plural(inside, 'crystal')} in {whole(int((density.counts > 0).sum()))} squares{left_out}.{rings}"
    aside = element("div", _legend(density), element("figcaption", caption))
    return element("figure", element("div", plot, data_density=_cell_counts(density)), aside, class_="pair")


def level_of(counts: Int64, most: int) -> Int64:
    """A colour for each count, on a logarithmic scale: 0 for none, up to LEVELS for the most."""
    scaled = np.log(np.maximum(counts, 1)) / max(math.log(max(most, 1)), 1e-9)
    return np.where(counts > 0, np.minimum((scaled * LEVELS).astype(np.int64) + 1, LEVELS), 0)


def level_ranges(most: int) -> list[tuple[int, int, int]]:
    """Each level that a count can have, with the fewest and the most crystals it stands for."""
    starts = {}
    for level in range(LEVELS, 0, -1):
        near = int(most ** ((level - 1) / LEVELS))
        tried = np.arange(max(near - 1, 1), near + 3)
        starts[level] = int(tried[level_of(tried, most) >= level][0])
    ends = {level: starts.get(level + 1, most + 1) - 1 for level in starts}
    return [(level, starts[level], ends[level]) for level in sorted(starts) if starts[level] <= ends[level]]


def _cells(density: Density) -> Markup:
    """One path per level, of cells joined along x, in units of cells from the upper left corner."""
    levels = level_of(density.counts, int(density.counts.max()))
    columns, rows = density.counts.shape
    paths: dict[int, list[str]] = {}
    for j in range(rows):
        row = levels[:, j]
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), columns], strict=True):
            if row[start]:
                width = end - start
                paths.setdefault(int(row[start]), []).append(f"M{start} {rows - 1 - j}h{width}v1h{-width}z")
    shapes = [element("path", d="".join(parts), class_=f"d{level}") for level, parts in sorted(paths.items())]
    width, height = FRAME.inner_width / columns, FRAME.inner_height / rows
    place = f"translate({FRAME.left} {FRAME.top}) scale({short(width, 5)} {short(height, 5)})"
    return element("g", shapes, class_="cells", transform=place)


def _rings(density: Density, marks: Sequence[Mark]) -> Markup:
    rings = []
    for mark in reversed(marks):
        x, y = _place(density.x_axis, mark.x), _place(density.y_axis, mark.y)
        if x is not None and y is not None:
            ring = element("circle", cx=short(FRAME.x(x)), cy=short(FRAME.y(y)), r=5)
            told = element("title", f"{mark.rank}. {mark.name}")
            rings.append(element("a", told, ring, href=f"#{mark.anchor}", aria_label=f"{mark.rank}. {mark.name}"))
    return element("g", rings, class_="rings")


def _place(axis: Axis, value: float) -> float | None:
    return axis.place(value) if axis.low <= value <= axis.high else None


def _cell_counts(density: Density) -> str:
    """What the script needs to tell a cell that is pointed at: the plot area, the axes, counts by place."""
    filled = np.flatnonzero(density.counts)
    numbers = np.stack([filled, density.counts.reshape(-1)[filled]], axis=1)
    area = [FRAME.left, FRAME.top, FRAME.inner_width, FRAME.inner_height, FRAME.width, FRAME.height]
    edges = [[float(f"{e:.4g}") for e in axis.edges.tolist()] for axis in (density.x_axis, density.y_axis)]
    units = [f"{one.target.name} %" + f" {unit_words(one.target.unit)}" for one in (density.x, density.y)]
    content = {"area": area, "edges": edges, "words": units, "cells": numbers.reshape(-1).tolist()}
    return json.dumps(content, separators=(",", ":"))


def _legend(density: Density) -> Markup:
    entries: list[Content] = []
    for level, low, high in level_ranges(int(density.counts.max())):
        words = whole(low) if low == high else f"{whole(low)} to {whole(high)}"
        entries.append(element("li", element("span", class_=f"swatch d{level}", aria_hidden="true"), words))
    return element("div", element("p", "Crystals in a square"), element("ul", entries), class_="levels")


def _titled(one: Histogram) -> str:
    unit = unit_words(one.target.unit)
    return f"{title_of(one.target.name, one.target.unit)}{f' ({unit})' if unit else ''}"
