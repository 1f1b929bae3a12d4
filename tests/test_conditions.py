"""Conditions as text: what they mean, against plain Python row by row, and what is said of those that mean nothing."""

import contextlib
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shards import TARGETS

from screening.crystals.elements import NUMBER_OF
from screening.errors import InputError
from screening.predictions import Target
from screening.query.conditions import Block
from screening.query.fields import fields_of
from screening.query.parse import parsed_condition, parsed_number
from screening.store.rows import element_masks
from screening.store.schema import Ending, Status

FIELDS = fields_of((*TARGETS, Target("volume_per_atom", "angstrom^3/atom"), Target("my target", "")))
NAN = float("nan")
# band_gap, nsites, formula, elements, status
ROWS: list[tuple[float, int, str, str, str]] = [
    (1.5, 5, "SrTiO3", "O-Sr-Ti", "ok"),
    (0.1, 2, "NaCl", "Cl-Na", "ok"),
    (0.0, 1, "Fe", "Fe", "ok"),
    (-0.0, 8, "Li2O", "Li-O", "ok"),
    (NAN, 4, "Li2O2", "Li-O", "failed"),
    (NAN, 0, "", "", "rejected"),
    (3.25, 10, "Cs2LiIn(CN)6", "C-Cs-In-Li-N", "ok"),
]


def block() -> Block:
    symbols = [row[3].split("-") if row[3] else [] for row in ROWS]
    crystal = np.repeat(np.arange(len(ROWS)), [len(s) for s in symbols])
    numbers = np.array([NUMBER_OF[symbol] for row in symbols for symbol in row])
    columns = {
        "targets/band_gap": np.array([row[0] for row in ROWS], np.float32),
        "nsites": np.array([row[1] for row in ROWS], np.uint32),
        "nelements": np.array([len(s) for s in symbols], np.uint8),
        "formula": np.array([row[2].encode() for row in ROWS]),
        "id": np.array([f"mp-{k}é" if k % 2 else f"oqmd-{k}" for k in range(len(ROWS))]).astype(str),
        "elements": element_masks(crystal, numbers, len(ROWS)),
        "status": np.array([Status[row[4].upper()] for row in ROWS], np.uint8),
        "targets/volume_per_atom": np.arange(len(ROWS), dtype=np.float32),
        "volume_per_atom": np.arange(len(ROWS), dtype=np.float32) * 10,
        "targets/my target": np.ones(len(ROWS), np.float32),
    }
    columns["id"] = np.array([id.encode() for id in columns["id"].tolist()])
    columns["reason"] = np.array([b"", b"", b"", b"", b"non_finite_prediction", b"empty", b""])
    return Block(len(ROWS), columns)


def rows_where(text: str) -> list[int]:
    return np.flatnonzero(parsed_condition(text, FIELDS).condition.of(block()).yes).tolist()


# --- by hand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("band_gap > 1.5", [6]),
        ("band_gap >= 1.5", [0, 6]),
        ("- " * 300 + "band_gap > 1.5", [6]),
        ("band_gap = 0.1", [1]),
        ("0.1 = band_gap", [1]),
        ("band_gap = 0", [2, 3]),
        ("band_gap <> 0", [0, 1, 6]),
        ("band_gap != 0", [0, 1, 6]),
        ("band_gap == 1.5", [0]),
        ("band_gap = band_gap", [0, 1, 2, 3, 6]),
        ("NOT band_gap > 1", [1, 2, 3]),
        ("NOT (band_gap > 1 OR nsites > 4)", [1, 2]),
        ("band_gap > 1 or nsites = 4", [0, 4, 6]),
        ("band_gap IS NULL", [4, 5]),
        ("band_gap is not null AND nsites > 4", [0, 3, 6]),
        ("band_gap IS UNKNOWN OR band_gap IS KNOWN", [0, 1, 2, 3, 4, 5, 6]),
        ("band_gap BETWEEN 0 AND 0.1", [1, 2, 3]),
        ("band_gap NOT BETWEEN 0 AND 1", [0, 6]),
        ("nsites IN (1, 2, 5.0)", [0, 1, 2]),
        ("nsites NOT IN (1, 2, 5)", [3, 4, 6]),
        ("nsites < 2", [2]),
        ("NOT nsites > 2", [1, 2]),
        ("nsites IS NULL AND nelements IS NULL", [5]),
        ("nelements BETWEEN 0 AND 1", [2]),
        ("band_gap / nsites > 0.2", [0, 6]),
        ("1 / band_gap > 0", [0, 1, 6]),
        ("1 / band_gap IS NULL", [2, 3, 4, 5]),
        ("ln(band_gap) < 1", [0, 1]),
        ("abs(band_gap - 1.4) < 0.2", [0]),
        ("-band_gap < -1", [0, 6]),
        ("- -1 < band_gap", [0, 6]),
        ("nsites - 250 < 0 AND nsites % 2 = 1", [0, 2]),
        ("nsites * 1e18 * 1e18 > 4e36", [0, 3, 6]),
        ("2 + 3 * 2 = nsites", [3]),
        ("(2 + 3) * 2 = nsites", [6]),
        ("BAND_GAP > 3", [6]),
        ("e_gap > 3", [6]),
        ('"band_gap" > 3', [6]),
        ("formula = 'NaCl'", [1]),
        ('formula = "NaCl"', [1]),
        ("formula <> 'NaCl'", [0, 2, 3, 4, 6]),
        ("formula IN ('Fe', 'Li2O')", [2, 3]),
        ("formula = 'ClNa'", [1]),
        ("'O3TiSr' = formula", [0]),
        ("formula IN ('Fe4', 'C6N6Cs2InLi')", [2, 6]),
        ("formula <> 'O6(TiSr)2'", [1, 2, 3, 4, 6]),
        ("formula NOT IN ('Fe', 'Li2O', 'Sr(TiO3)1234567')", [0, 1, 4, 6]),
        ("band_gap IN (0.1, 1.5, 1e300)", [0, 1]),
        ("band_gap IN (nsites - 3.5, 0.1)", [0, 1]),
        ("status NOT IN ('ok')", [4, 5]),
        ("formula LIKE 'Li%'", [3, 4]),
        ("formula LIKE '%O_'", [0, 4]),
        ("formula LIKE '%(%)%'", [6]),
        ("formula NOT LIKE '%O%'", [1, 2, 6]),
        ("id LIKE 'mp-_é'", [1, 3, 5]),
        ("id LIKE '_p-__'", [1, 3, 5]),
        ("formula < 'G'", [2, 6]),
        ("elements HAS 'Li'", [3, 4, 6]),
        ("elements HAS ALL 'Li','O'", [3, 4]),
        ('elements HAS ALL "Li", "O"', [3, 4]),
        ("elements HAS ANY 'Na', 'Fe'", [1, 2]),
        ("elements HAS ONLY 'Na','Cl','Fe'", [1, 2]),
        ("NOT elements HAS ANY 'O'", [1, 2, 6]),
        ("elements = 'O-Li'", [3, 4]),
        ("elements IN ('Fe', 'Cl-Na')", [1, 2]),
        ("elements <> 'Li-O'", [0, 1, 2, 6]),
        ("elements IS NULL", [5]),
        ("status = 'failed'", [4]),
        ("status IN ('failed', 'rejected')", [4, 5]),
        ("reason = 'empty'", [5]),
        ("reason LIKE 'non%'", [4]),
        ("volume_per_atom = 20", [2]),
        ('"targets/volume_per_atom" = 2', [2]),
        ('"my target" = 1 AND nsites = 5', [0]),
        ("band_gap < 1e300", [0, 1, 2, 3, 6]),
        ("1 < 2", [0, 1, 2, 3, 4, 5, 6]),
        ("band_gap > 1 AND band_gap > 2 OR nsites = 1", [2, 6]),
    ],
)
def test_what_conditions_mean(text: str, expected: list[int]) -> None:
    assert rows_where(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has the end where a column, a number or a text in quotes is expected"),
        ("band_gap", "has a number where a yes or no is expected"),
        ("band_gapp > 1", "there is no column 'band_gapp' in these results; did you mean band_gap?"),
        ("zzz > 1", "there is no column 'zzz' in these results; there are row, status, id"),
        ("band_gap > ", "has the end where a column"),
        ("band_gap > 1 AND", "has the end where a column"),
        ("band_gap > 1 nsites > 2", "has 'nsites' at letter 14 where AND, OR or the end is expected"),
        ("1 < band_gap < 2", "has '<' at letter 14 where AND, OR or the end"),
        ("(band_gap > 1) > 2", "compares a yes or no; for 1 < a < 2 write a > 1 AND a < 2"),
        ("(band_gap > 1", "has the end where ) is expected"),
        ("band_gap > 1.5eV", "cannot understand '1.5eV', at letter 12"),
        ("formula = 'NaCl", "a quote is not closed, at letter 11"),
        ("formula = NaCl", "there is no column 'NaCl'"),
        ("band_gap > 'a'", "compares a number with text"),
        ("formula = 'perovskite'", "compares formula with 'perovskite', which is no formula; write one such as"),
        ("formula > 3", "compares text with a number"),
        ("formula + 1 > 3", "has text where a number is expected"),
        ("avg(band_gap) > 1", "calls avg, but there are only abs, sqrt, exp, ln, log10"),
        ("band_gap IS 3", "has '3' at letter 13 where NULL or NOT NULL after IS is expected"),
        ("band_gap NOT 3", "where IN, BETWEEN or LIKE after NOT is expected"),
        ("band_gap LIKE 'a'", "write id LIKE 'mp-%'"),
        ("formula HAS 'Li'", "uses HAS with something else than elements"),
        ("elements HAS Li", "has 'Li' at letter 14 where a symbol in quotes"),
        ("elements HAS 'Li','O'", "write HAS ALL, HAS ANY or HAS ONLY"),
        ("elements HAS 'li'", "'li' is no element; did you mean Li?"),
        ("elements HAS 'Xyz'", "'Xyz' is no element"),
        ("elements > 'Li'", "compares elements; write elements = 'Li-O'"),
        ("elements = 'LiO'", "'LiO' is no element"),
        ("status = 'broken'", "compares status with 'broken'; it is one of ok, rejected, duplicate, failed"),
        ("status = 'okk'", "compares status with 'okk'; did you mean ok?"),
        ("reason IN ('empty', 'disorderd')", "compares reason with 'disorderd'; did you mean disordered?"),
        ("reason <> 'zzz'", "it is one of unreadable, empty, "),
        ("message = 'x'", "text that can be shown, not searched; `id` and `reason` can be searched"),
        ("source LIKE 'a%'", "asks for source, text that can be shown, not searched"),
        ("band_gap > 1; DROP TABLE x", "cannot understand '; DROP TABLE x', at letter 13"),
        ("nsites" + " + 1" * 5000 + " = 1", "has too many terms"),
        ("band_gap IN (1, 'a')", "compares a number with text"),
        ("(" * 5000 + "1" + ")" * 5000 + " = 1", "is nested too deeply"),
        ("- " * 500 + "nsites > 1", "is nested too deeply"),
        ("NOT " * 600 + "nsites > 1", "is nested too deeply"),
        ("NOT " * 200 + "-" * 200 + "nsites > 1", "is nested too deeply"),
    ],
)
def test_what_is_said_of_conditions_that_mean_nothing(text: str, said: str) -> None:
    with pytest.raises(InputError, match=f"^where: .*{re.escape(said)}"):
        parsed_condition(text, FIELDS)


@pytest.mark.parametrize(
    ("text", "said"), [("formula", "has text where a number"), ("nsites > 1", "has '>'"), ("", "has the end")]
)
def test_what_is_said_of_numbers_that_are_none(text: str, said: str) -> None:
    with pytest.raises(InputError, match=f"^by: .*{re.escape(said)}"):
        parsed_number(text, FIELDS)


def test_steps_of_crystals_that_were_not_relaxed_are_missing() -> None:
    fields = fields_of((), relaxing=True)
    endings = np.array([Ending.CONVERGED, Ending.NONE, Ending.TIMED_OUT, Ending.DIVERGED], np.uint8)
    rows = Block(4, {"relaxation": endings, "relaxation_steps": np.array([0, 0, 500, 3], np.uint32)})
    for text, expected in (("relaxation_steps < 10", [0, 3]), ("relaxation_steps IS NULL", [1])):
        assert np.flatnonzero(parsed_condition(text, fields).condition.of(rows).yes).tolist() == expected


def test_endings_are_words_that_there_are() -> None:
    fields = fields_of((), relaxing=True)
    assert parsed_condition("relaxation = 'timed_out'", fields).fields
    for text, said in (("'CONVERGED'", "did you mean converged"), ("'none'", "one of converged, timed_out, diverged")):
        with pytest.raises(InputError, match=said):
            parsed_condition(f"relaxation = {text}", fields)


# --- any condition ---------------------------------------------------------------------------------------------

Row = tuple[float, int, str, str, str]
Meaning = Callable[[Row], Any]


def float32(x: float) -> float:
    return float(np.float32(x))


def checked(work: Callable[..., float]) -> Callable[..., float | None]:
    """Arithmetic on what may be missing; what is not finite is missing."""

    def run(*values: float | None) -> float | None:
        if any(value is None for value in values):
            return None
        try:
            found = work(*values)
        except (ZeroDivisionError, ValueError, OverflowError):
            return None
        return found if math.isfinite(found) else None

    return run


def apply(work: Callable[..., float], *inner: tuple[str, Meaning]) -> Meaning:
    return lambda row: checked(work)(*(meaning(row) for _, meaning in inner))


gap = ("band_gap", lambda row: None if math.isnan(row[0]) else float32(row[0]))
sites = ("nsites", lambda row: float(row[1]) or None)
literals = st.sampled_from([0.0, 1.5, 2.0, 3.25, 5.0, 0.25, 10.0]).map(lambda x: (repr(x), lambda row: x))
leaves = st.just(gap) | st.just(sites) | literals
SIGNS: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}


def grown(inner: st.SearchStrategy[tuple[str, Meaning]]) -> st.SearchStrategy[tuple[str, Meaning]]:
    def joined(left: tuple[str, Meaning], sign: str, right: tuple[str, Meaning]) -> tuple[str, Meaning]:
        return f"({left[0]} {sign} {right[0]})", apply(SIGNS[sign], left, right)

    def called(one: tuple[str, Meaning]) -> tuple[str, Meaning]:
        return f"abs({one[0]})", apply(abs, one)

    return st.builds(joined, inner, st.sampled_from(list(SIGNS)), inner) | st.builds(called, inner)


numbers = st.recursive(leaves, grown, max_leaves=4)
COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
}


def compared(left: tuple[str, Meaning], sign: str, right: tuple[str, Meaning]) -> tuple[str, Meaning]:
    def meaning(row: Row) -> bool | None:
        a, b = left[1](row), right[1](row)
        return None if a is None or b is None else COMPARED[sign](a, b)

    return f"{left[0]} {sign} {right[0]}", meaning


def missing(one: tuple[str, Meaning]) -> tuple[str, Meaning]:
    return f"{one[0]} IS NULL", lambda row: one[1](row) is None


def negated(one: tuple[str, Meaning]) -> tuple[str, Meaning]:
    return f"NOT ({one[0]})", lambda row: None if (found := one[1](row)) is None else not found


def both(left: tuple[str, Meaning], right: tuple[str, Meaning]) -> tuple[str, Meaning]:
    def meaning(row: Row) -> bool | None:
        found = (left[1](row), right[1](row))
        return False if False in found else None if None in found else True

    return f"({left[0]} AND {right[0]})", meaning


def either(left: tuple[str, Meaning], right: tuple[str, Meaning]) -> tuple[str, Meaning]:
    def meaning(row: Row) -> bool | None:
        found = (left[1](row), right[1](row))
        return True if True in found else None if None in found else False

    return f"({left[0]} OR {right[0]})", meaning


simple = st.builds(compared, numbers, st.sampled_from(list(COMPARED)), numbers) | st.builds(missing, numbers)
conditions = st.recursive(
    simple,
    lambda inner: st.builds(negated, inner) | st.builds(both, inner, inner) | st.builds(either, inner, inner),
    max_leaves=5,
)


@given(conditions)
def test_any_condition_means_what_python_says(drawn: tuple[str, Meaning]) -> None:
    text, meaning = drawn
    truth = parsed_condition(text, FIELDS).condition.of(block())
    expected = [meaning(row) for row in ROWS]
    assert truth.yes.tolist() == [found is True for found in expected]
    assert truth.known.tolist() == [found is not None for found in expected]


@given(st.text("ab(){}'\"<>=.,%+-*/ ANDORNotisnulhaLIKE0123456789e_é\0\n", max_size=40))
def test_any_text_is_understood_or_refused_in_words(text: str) -> None:
    with contextlib.suppress(InputError):
        parsed_condition(text, FIELDS).condition.of(block())
