"""Formulas as chemists write them: pymatgen's, for any composition."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, Element

from screening.crystals.elements import SYMBOLS
from screening.crystals.formulas import (
    ELECTRONEGATIVITY,
    Amounts,
    conventional_formula,
    conventional_formulas,
    element_amounts,
)

# pymatgen warns of elements without electronegativity.
pytestmark = pytest.mark.filterwarnings("ignore:No Pauling electronegativity")

compositions = st.dictionaries(st.integers(1, 118), st.integers(1, 30), min_size=1, max_size=6)


def amounts_of(*atoms: dict[int, int]) -> Amounts:
    numbers = [np.repeat(list(made), list(made.values())).astype(np.uint8) for made in atoms]
    offsets = np.cumsum([0, *map(len, numbers)])
    return element_amounts(np.concatenate([np.empty(0, np.uint8), *numbers]), offsets)


@pytest.mark.parametrize(
    "formula", ["SrTiO3", "NaCl", "LiFePO4", "Li3Fe2(PO4)3", "O2", "H2O2", "Li2O2", "Cs2LiIn(CN)6", "K2SO4", "Al2O3"]
)
def test_known_formulas(formula: str) -> None:
    atoms = {element.Z: round(2 * amount) for element, amount in Composition(formula).items()}
    assert conventional_formulas(amounts_of(atoms), 1) == [formula]


@given(st.lists(compositions, max_size=8))
def test_formulas_are_those_of_pymatgen(many: list[dict[int, int]]) -> None:
    expected = [Composition({SYMBOLS[z]: n for z, n in made.items()}).reduced_formula for made in many]
    assert conventional_formulas(amounts_of(*many), len(many)) == expected


@given(compositions, st.randoms(use_true_random=False), st.integers(1, 3))
def test_a_formula_in_any_order_is_found(made: dict[int, int], chance: random.Random, times: int) -> None:
    parts = [f"{SYMBOLS[z]}{n}" for z, n in made.items()]
    chance.shuffle(parts)
    expected = Composition({SYMBOLS[z]: n for z, n in made.items()}).reduced_formula
    assert conventional_formula("".join(parts)) == expected
    assert conventional_formula(f"({parts[0]}({''.join(parts[1:])})){times}") == expected
    assert conventional_formula(expected) == expected


@pytest.mark.parametrize("text", ["", "x", "Xx", "SrTiO3 ", "Sr-Ti", "(NaCl", "NaCl)", "()", "H0", "2H", "X"])
def test_what_is_no_formula(text: str) -> None:
    assert conventional_formula(text) is None


def test_electronegativities_are_those_of_pymatgen() -> None:
    expected = [Element(symbol).X for symbol in SYMBOLS[1:]]
    assert [x if math.isfinite(x) else None for x in ELECTRONEGATIVITY[1:]] == [
        x if math.isfinite(x) else None for x in expected
    ]


def test_a_crystal_without_atoms_has_an_empty_formula() -> None:
    amounts = element_amounts(np.array([8, 8], np.uint8), np.array([0, 0, 2, 2]))
    assert conventional_formulas(amounts, 3) == ["", "O2", ""]
