"""Everything that the page counts, from two passes over the columns in constant memory.

The first pass counts statuses and elements and finds where numbers lie. The second, with axes that fit them, counts
what falls into which bin, of all predicted crystals and of those that were asked for.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from screening.arrays import Bool, Int64, UInt64
from screening.crystals.elements import SYMBOLS
from screening.predictions import Target
from screening.report.asked import Asked, Wish, asked_of
from screening.report.axes import Axis, axis_of, unit_axis
from screening.report.distribution import Distribution
from screening.store.read import Results
from screening.store.rows import element_masks
from screening.store.schema import Array, Status, target_column

HISTOGRAM_BINS = 80
PROBABILITY_BINS = 50
# Fewer crystals would lie scattered in cells this fine.
FINE_FROM = 100_000
FINE_BINS, COARSE_BINS = (140, 110), (84, 64)
GAP, ENERGY = "band_gap", "formation_energy_per_atom"
# More different elements than this are counted together.
MOST_KINDS = 16


@dataclass
class Histogram:
    """Counts of one target in bins, with those below and above the axis at the ends: bins + 2 each."""

    target: Target
    distribution: Distribution
    axis: Axis
    counts: Int64
    wanted: Int64

    @property
    def decimals(self) -> int:
        """With how many decimals single values are worth telling: a thousandth of what half of all differ by."""
        if self.target.kind == "classification":
            return 3
        spread = self.distribution.quantile(0.75) - self.distribution.quantile(0.25)
        return min(max(3 - math.floor(math.log10(spread)), 0), 5) if spread > 0 else 3


@dataclass
class Density:
    """Counts of two targets in cells, (x bins, y bins)."""

    x: Histogram
    y: Histogram
    x_axis: Axis
    y_axis: Axis
    counts: Int64


@dataclass
class Survey:
    """What was counted. `elements` and `wanted_elements` are by atomic number, `kinds` by number of elements.

    `within` is how many predicted crystals have only elements that the model knows, None if it does not say.
    """

    statuses: dict[Status, int]
    atoms: int = 0
    kinds: Int64 = field(default_factory=lambda: np.zeros(MOST_KINDS + 1, np.int64))
    elements: Int64 = field(default_factory=lambda: np.zeros(len(SYMBOLS), np.int64))
    wanted_elements: Int64 = field(default_factory=lambda: np.zeros(len(SYMBOLS), np.int64))
    within: int | None = None
    wanted: int = 0
    wanted_within: int | None = None
    histograms: list[Histogram] = field(default_factory=list)
    density: Density | None = None

    @property
    def read(self) -> int:
        """All rows that are there."""
        return sum(self.statuses.values())

    @property
    def accepted(self) -> int:
        """Rows that packing accepted."""
        return self.statuses[Status.OK] + self.statuses[Status.FAILED]

    @property
    def predicted(self) -> int:
        """Rows with predictions."""
        return self.statuses[Status.OK]


def survey_of(results: Results, wish: Wish, known: Iterable[int] | None) -> tuple[Survey, Asked]:
    """Count what the page shows; `known` are the atomic numbers that the model knows, if it says so."""
    survey, distributions = _first_pass(results, known)
    asked = asked_of(results, wish, survey.predicted)
    survey.histograms = [_histogram(t, d) for t, d in zip(results.stamp.targets, distributions, strict=True)]
    survey.density = _density(survey.histograms)
    _second_pass(results, asked, survey, known)
    return survey, asked


# --- first pass -----------------------------------------------------------------------------------------------


def _first_pass(results: Results, known: Iterable[int] | None) -> tuple[Survey, list[Distribution]]:
    survey = Survey(dict.fromkeys(Status, 0), within=None if known is None else 0)
    targets = results.stamp.targets
    distributions = [Distribution() for _ in targets]
    columns = [target_column(target.name) for target in targets]
    for _, block in results.blocks(["status", "nsites", "nelements", "elements", *columns]):
        counts = np.bincount(block["status"], minlength=len(Status)).tolist()
        survey.statuses = {status: survey.statuses[status] + counts[status] for status in Status}
        survey.atoms += int(block["nsites"].sum(dtype=np.int64))
        ok = block["status"] == Status.OK
        masks = block["elements"][ok]
        survey.kinds += np.bincount(np.minimum(block["nelements"][ok], MOST_KINDS), minlength=MOST_KINDS + 1)
        survey.elements += elements_held(masks)
        if known is not None and survey.within is not None:
            survey.within += int(only_of(masks, known).sum())
        for name, distribution in zip(columns, distributions, strict=True):
            distribution.add(block[name][ok])
    return survey, distributions


def elements_held(masks: UInt64) -> Int64:
    """Count how many crystals hold each element, by atomic number; `masks` are as a store has them."""
    counts = np.zeros(128, np.int64)
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    octets = np.ascontiguousarray(masks, "<u8").view(np.uint8).reshape(-1, 16)
    for k in range(16):
        counts[8 * k : 8 * k + 8] = np.bincount(octets[:, k], minlength=256) @ bits
    return np.concatenate([[0], counts])[: len(SYMBOLS)]


def only_of(masks: UInt64, numbers: Iterable[int]) -> Bool:
    """Which crystals have no other elements than these."""
    chosen = np.array(sorted(set(numbers)), np.int64)
    low, high = element_masks(np.zeros(len(chosen), np.int64), chosen, 1)[0]
    outside: Bool = (masks[:, 0] & ~low | masks[:, 1] & ~high) == 0
    return outside


# --- second pass ----------------------------------------------------------------------------------------------


def _histogram(target: Target, distribution: Distribution) -> Histogram:
    if target.kind == "classification":
        axis = unit_axis(PROBABILITY_BINS)
    else:
        axis = axis_of(distribution, HISTOGRAM_BINS, log=target.scale == "log10")
    empty = np.zeros(axis.bins + 2, np.int64)
    return Histogram(target, distribution, axis, empty, empty.copy())


def _density(histograms: list[Histogram]) -> Density | None:
    """The gap against the formation energy, or else the first two quantities against each other."""
    quantities = [one for one in histograms if one.target.kind == "regression"]
    named = {one.target.name: one for one in quantities}
    pair = (named[ENERGY], named[GAP]) if ENERGY in named and GAP in named else next(combinations(quantities, 2), None)
    if pair is None:
        return None
    wanted = FINE_BINS if pair[0].distribution.count >= FINE_FROM else COARSE_BINS
    x, y = (
        axis_of(one.distribution, bins, log=one.target.scale == "log10") for one, bins in zip(pair, wanted, strict=True)
    )
    return Density(*pair, x, y, np.zeros((x.bins, y.bins), np.int64))


def _second_pass(results: Results, asked: Asked, survey: Survey, known: Iterable[int] | None) -> None:
    columns = {target_column(one.target.name) for one in survey.histograms}
    survey.wanted_within = None if known is None else 0
    for _, block in results.blocks(sorted(columns | asked.datasets | {"elements"})):
        wanted = asked.wanted(block)
        ok = block["status"] == Status.OK
        survey.wanted += int(wanted.sum())
        survey.wanted_elements += elements_held(block["elements"][wanted])
        if known is not None and survey.wanted_within is not None:
            survey.wanted_within += int(only_of(block["elements"][wanted], known).sum())
        for one in survey.histograms:
            _count(one, block, ok, wanted)
        if survey.density is not None:
            _count_cells(survey.density, block, ok)


def _count(histogram: Histogram, block: Mapping[str, Array], ok: Array, wanted: Array) -> None:
    bins = histogram.axis.bin_of(block[target_column(histogram.target.name)][ok]) + 1
    histogram.counts += np.bincount(bins, minlength=len(histogram.counts))
    histogram.wanted += np.bincount(bins[wanted[ok]], minlength=len(histogram.wanted))


def _count_cells(density: Density, block: Mapping[str, Array], ok: Array) -> None:
    i = density.x_axis.bin_of(block[target_column(density.x.target.name)][ok])
    j = density.y_axis.bin_of(block[target_column(density.y.target.name)][ok])
    rows, columns = density.counts.shape
    inside = (i >= 0) & (i < rows) & (j >= 0) & (j < columns)
    cells = np.bincount(i[inside] * columns + j[inside], minlength=rows * columns)
    density.counts += cells.reshape(rows, columns)
