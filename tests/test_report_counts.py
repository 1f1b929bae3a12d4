"""What the report counts: distributions, axes, elements, throughput, and how numbers are worded."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from screening.crystals.elements import NUMBER_OF, SYMBOLS
from screening.report import wording
from screening.report.axes import Axis, axis_of, linear_ticks, round_up, unit_axis
from screening.report.density import LEVELS, level_of, level_ranges
from screening.report.distribution import Distribution
from screening.report.element_looks import COLOUR, RADIUS
from screening.report.element_names import NAMES
from screening.report.pace import pace_of, rates
from screening.report.periodic import place_of
from screening.report.survey import elements_held, only_of
from screening.report.wording import DASH, MINUS
from screening.store.rows import element_masks
from screening.store.schema import ShardNote

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def distribution(values: np.ndarray, cuts: int = 3) -> Distribution:
    found = Distribution()
    for part in np.array_split(values.astype(np.float32), cuts):
        found.add(part)
    return found


# --- distributions ---------------------------------------------------------------------------------------------


@given(values=arrays.arrays(np.float32, st.integers(1, 60), elements=FLOATS), share=st.floats(0, 1))
def test_quantiles_are_right_to_one_part_in_2048(values: np.ndarray, share: float) -> None:
    found = distribution(values)
    assert (found.low, found.high, found.count) == (values.min(), values.max(), len(values))
    exact = float(np.sort(values)[min(max(math.ceil(share * len(values)), 1), len(values)) - 1])
    assert found.quantile(share) == pytest.approx(exact, rel=2**-11, abs=1e-38)


def test_round_numbers_come_out_exact() -> None:
    found = distribution(np.array([-2.5, -1.0, 0.0, -0.0, 0.5, 2.0, 768.0]))
    assert [found.quantile(q) for q in (0, 0.2, 0.5, 0.7, 0.8, 1)] == [-2.5, -1.0, 0.0, 0.5, 2.0, 768.0]
    assert (found.count_below(0.0), found.count_below(0.5), found.count_below(1024)) == (2, 4, 7)


def test_nothing_has_no_quantiles() -> None:
    found = distribution(np.empty(0))
    assert math.isnan(found.quantile(0.5))
    assert math.isnan(found.mean)


# --- axes ------------------------------------------------------------------------------------------------------


@given(values=arrays.arrays(np.float32, st.integers(1, 80), elements=FLOATS), log=st.booleans())
def test_every_value_is_counted_once(values: np.ndarray, log: bool) -> None:
    values = np.maximum(np.abs(values), np.float32(1e-25)) if log else values
    axis = axis_of(distribution(values), 80, log=log)
    values = values.astype(np.float64)
    assert 1 <= axis.bins <= 400
    assert (np.diff(axis.edges) > 0).all()
    bins = axis.bin_of(values)
    inside = (bins >= 0) & (bins < axis.bins)
    edges = axis.edges
    assert ((values[inside] >= edges[bins[inside]]) & (values[inside] <= edges[bins[inside] + 1])).all()
    assert (values[bins < 0] < axis.low).all()
    assert (values[bins >= axis.bins] > axis.high).all()
    # Few may be left out, and never half of them.
    assert inside.sum() * 2 >= len(values)
    ticks = axis.ticks()
    assert len(ticks) <= 12
    assert all(-1e-6 <= axis.place(tick) <= 1 + 1e-6 for tick in ticks)


def test_edges_are_round_and_the_last_bin_holds_its_end() -> None:
    axis = axis_of(distribution(np.linspace(-1, 2, 1000)), 80)
    assert axis.step == 0.05
    assert axis.edges.tolist() == [round(-1 + 0.05 * k, 2) for k in range(len(axis.edges))]
    assert unit_axis(50).bin_of(np.array([0.0, 0.02, 0.999, 1.0])).tolist() == [0, 1, 49, 49]
    assert Axis(0, 4, 0.5, log=True).ticks() == [1, 2, 5, 10, 20, 50, 100]


def test_a_long_tail_is_left_out_of_the_axis() -> None:
    values = np.concatenate([np.linspace(0, 1, 10_000), [1e6, -1e6]])
    axis = axis_of(distribution(values), 80)
    assert (axis.low, axis.high) == (pytest.approx(-0.1, abs=0.03), pytest.approx(1.1, abs=0.03))
    assert (axis.bin_of(values) == axis.bins).sum() == 1


@given(st.floats(1e-30, 1e30))
def test_steps_are_round(size: float) -> None:
    step = round_up(size)
    assert size * (1 - 1e-6) <= step <= 2.5 * size * (1 + 1e-6)
    assert f"{step:.1e}"[:3] in ("1.0", "2.0", "2.5", "5.0")


def test_ticks_of_a_point() -> None:
    assert linear_ticks(3.0, 3.0, 5) == [3.0]


# --- densities -------------------------------------------------------------------------------------------------


@given(st.integers(1, 10**9))
def test_levels_cover_every_count_once(most: int) -> None:
    ranges = level_ranges(most)
    assert (ranges[0][1], ranges[-1][2], ranges[-1][0]) == (1, most, LEVELS if most > 1 else 1)
    assert all(b[1] == a[2] + 1 for a, b in pairwise(ranges))
    for level, low, high in ranges:
        assert level_of(np.array([low, high]), most).tolist() == [level, level]
    assert level_of(np.array([0]), most).tolist() == [0]


# --- elements --------------------------------------------------------------------------------------------------


@given(st.lists(st.sets(st.integers(1, 118), max_size=5), max_size=30), st.sets(st.integers(1, 118)))
def test_elements_are_counted_by_bits(sets: list[set[int]], known: set[int]) -> None:
    crystal = np.array([k for k, held in enumerate(sets) for _ in held], np.int64)
    number = np.array([z for held in sets for z in sorted(held)], np.int64)
    masks = element_masks(crystal, number, len(sets))
    counts = elements_held(masks)
    assert counts.tolist() == [sum(z in held for held in sets) for z in range(119)]
    assert only_of(masks, known).tolist() == [held <= known for held in sets]


def test_the_periodic_table_is_in_order() -> None:
    places = {SYMBOLS[z]: place_of(z) for z in range(1, 119)}
    assert len(set(places.values())) == 118
    assert places["H"] == (1, 1)
    assert (places["He"], places["B"], places["Og"]) == ((1, 18), (2, 13), (7, 18))
    assert (places["Sc"], places["Ti"], places["Hf"], places["Rf"]) == ((4, 3), (4, 4), (6, 4), (7, 4))
    assert (places["La"], places["Lu"], places["Ac"], places["Lr"]) == ((9, 4), (9, 18), (10, 4), (10, 18))


def test_elements_look_as_ase_draws_them() -> None:
    data = pytest.importorskip("ase.data")
    colours = pytest.importorskip("ase.data.colors").jmol_colors
    assert [RADIUS[z] for z in range(1, 97)] == [pytest.approx(data.covalent_radii[z]) for z in range(1, 97)]
    for z in range(1, 110):
        parts = [int(COLOUR[z][k : k + 2], 16) for k in (1, 3, 5)]
        assert parts == [round(c * 255) for c in colours[z].tolist()], SYMBOLS[z]
    assert len(NAMES) == len(RADIUS) == len(COLOUR) == 119
    assert NAMES[NUMBER_OF["W"]] == "Tungsten"


# --- throughput ------------------------------------------------------------------------------------------------


def notes(worker: str, begin: float, times: list[float], rows: int = 100) -> list[ShardNote]:
    ends = np.cumsum([begin, *times]).tolist()[1:]
    shards = enumerate(zip(ends, times, strict=True))
    return [ShardNote(k * rows, (k + 1) * rows, end, worker, {"predict": took}) for k, (end, took) in shards]


def test_steady_work_has_a_steady_rate() -> None:
    pace = pace_of(notes("a 1", 1000.0, [2.0] * 50))
    assert (pace.rows, pace.seconds, len(pace.spells)) == (5000, pytest.approx(100.0), 1)
    np.testing.assert_allclose(rates(pace, 20), 50.0)
    assert pace.stages == {"predict": pytest.approx(100.0)}


def test_a_pause_is_cut_out() -> None:
    pace = pace_of(notes("a 1", 1000.0, [2.0] * 20) + notes("b 7", 9000.0, [4.0] * 10))
    assert [(spell.start, spell.end) for spell in pace.spells] == [(1000.0, 1040.0), (9000.0, 9040.0)]
    found = rates(pace, 8)
    np.testing.assert_allclose(found, [50.0] * 4 + [25.0] * 4)
    assert pace.workers == ["a 1", "b 7"]


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0, 100), st.sampled_from("abc"), st.integers(1, 1000)),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 20),
)
def test_every_row_is_in_some_bin(shards: list[tuple[float, float, str, int]], bins: int) -> None:
    made = [ShardNote(0, rows, 1.7e9 + at, worker, {"all": took}) for at, took, worker, rows in shards]
    pace = pace_of(made)
    assert pace.rows == sum(rows for *_, rows in shards)
    assert all(spell.seconds >= 0 for spell in pace.spells)
    if pace.seconds > 1e-3:
        found = rates(pace, bins)
        assert (found >= 0).all()
        assert found.sum() * pace.seconds / bins == pytest.approx(pace.rows, rel=1e-6)


def test_one_shard_and_none() -> None:
    assert pace_of(notes("a 1", 5.0, [3.0])).seconds == 3.0
    assert pace_of([]).seconds == 0
    assert rates(pace_of([]), 3).tolist() == [0, 0, 0]


# --- words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (wording.measured(-3.14159, 3), f"{MINUS}3.14"),
        (wording.measured(0.0), "0"),
        (wording.measured(1234567.0, 3), "1.23e+06"),
        (wording.measured(math.nan), DASH),
        (wording.fixed(-0.0004, 3), f">{MINUS}0.001"),
        (wording.fixed(0.0004, 3), "<0.001"),
        (wording.fixed(-1.2345, 2), f"{MINUS}1.23"),
        (wording.trimmed(90.0, 2), "90"),
        (wording.trimmed(-0.0001, 2), "0"),
        (wording.compact(999), "999"),
        (wording.compact(999_999), "1.0M"),
        (wording.compact(12_345), "12k"),
        (wording.share(0, 10), "0 %"),
        (wording.share(1, 100_000), "<0.1 %"),
        (wording.share(99_999, 100_000), ">99.9 %"),
        (wording.share(1, 0), DASH),
        (wording.duration(12.345), "12.3 s"),
        (wording.duration(3599.9), "1 h"),
        (wording.duration(90_000), "1 d 1 h"),
        (wording.duration(61), "1 min 1 s"),
        (wording.moment(0.0), "1970-01-01 00:00 UTC"),
        (wording.plural(1, "crystal"), "1 crystal"),
        (wording.title_of("formation_energy_per_atom", "eV/atom"), "Formation energy"),
        (wording.title_of("formation_energy_per_atom"), "Formation energy per atom"),
        (wording.formula_markup("Li3Fe2(PO4)3"), "Li<sub>3</sub>Fe<sub>2</sub>(PO<sub>4</sub>)<sub>3</sub>"),
        (wording.formula_markup("<b>"), "&lt;b&gt;"),
        (wording.with_unit("3", "1"), "3"),
        (wording.with_unit("3", "angstrom^3/atom"), "3 Å³/atom"),
    ],
)
def test_words(said: str, expected: str) -> None:
    assert said == expected, json.dumps(said)
