"""What enumeration knows of elements: its tables against pymatgen, neutral combinations by brute force, sizes."""

import csv
import itertools
import math
import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import made_crystal
from pymatgen.core import Element, Species
from specifications import counted, enumerated, of

from screening.crystals.elements import NUMBER_OF, SYMBOLS
from screening.enumerate import named
from screening.enumerate.catalogue import prototype_named
from screening.enumerate.charges import Balance, balance
from screening.enumerate.chemistry import GROUPS, StateSet, electronegativities, ionic_radius, oxidation_states
from screening.enumerate.selection import require_groups, selected
from screening.enumerate.tolerance import tolerance_window
from screening.enumerate.volumes import REACH, TABLE, fitted_lengths, repulsions, spacings
from screening.errors import InputError

pytestmark = pytest.mark.native

LAST = 103


# --- tables ---------------------------------------------------------------------------------------------------------


def test_electronegativities_are_paulings() -> None:
    chi = electronegativities()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [float(Element.from_Z(z).X) for z in range(1, LAST + 1)]
    np.testing.assert_array_equal(chi[1 : LAST + 1], expected)
    assert np.isnan(chi[LAST + 1 :]).all()


def test_oxidation_states_are_those_of_pymatgen_without_the_weaker_negative_ones() -> None:
    for z in range(1, LAST + 1):
        element = Element.from_Z(z)
        listed = element.icsd_oxidation_states or element.common_oxidation_states
        kept = {q for q in listed if q > 0 or (q < 0 and q == min(listed))}
        assert set(oxidation_states(StateSet.ICSD)[z]) == kept
        assert set(oxidation_states(StateSet.ALL)[z]) >= kept
        assert 0 not in oxidation_states(StateSet.ALL)[z]
    assert oxidation_states(StateSet.ICSD)[NUMBER_OF["S"]] == (-2, 2, 4, 6)
    assert oxidation_states(StateSet.COMMON)[NUMBER_OF["Mn"]] == (2, 4, 7)


@pytest.mark.parametrize(
    ("symbol", "charge", "coordination", "place"),
    [("Sr", 2, 12, "XII"), ("Ti", 4, 6, "VI"), ("O", -2, 6, "VI"), ("La", 3, 12, "XII"), ("I", -1, 6, "VI")],
)
def test_radii_are_shannons(symbol: str, charge: int, coordination: int, place: str) -> None:
    expected = Species(symbol, charge).get_shannon_radius(place, radius_type="ionic")
    assert ionic_radius(NUMBER_OF[symbol], charge, coordination) == pytest.approx(expected)


def test_the_nearest_coordination_stands_in() -> None:
    bismuth = NUMBER_OF["Bi"]
    assert ionic_radius(bismuth, 3, 12) == ionic_radius(bismuth, 3, 8) == pytest.approx(1.17)
    assert math.isnan(ionic_radius(bismuth, -3, 6))


def test_groups_hold_elements_whose_volume_is_known() -> None:
    known = fitted_lengths().known
    assert all(known[NUMBER_OF[symbol]] for members in GROUPS.values() for symbol in members)
    assert all(len(set(members)) == len(members) for members in GROUPS.values())


# --- lists of elements ----------------------------------------------------------------------------------------------


def symbols(names: str, **groups: str) -> str:
    held = {name: tuple(members.split()) for name, members in groups.items()}
    return " ".join(SYMBOLS[z] for z in selected(names.split(), held, place="sites.A"))


def test_lists_keep_their_order_and_name_each_element_once() -> None:
    assert symbols("O halogens F S") == "O F Cl Br I S"
    assert symbols("halogens -Br") == "F Cl I"
    assert symbols("-Br halogens") == "F Cl I"
    assert symbols("mine K", mine="alkali -inner", inner="K Rb") == "Li Na Cs K"
    assert symbols("-alkali") == ""


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("halogen", "sites.A: 'halogen' is neither an element nor a group; did you mean halogens?"),
        ("-Xx", "'Xx' is neither an element nor a group; groups are mine, alkali, "),
        ("K Po", "no volume is known for Po"),
    ],
)
def test_other_names_are_errors(names: str, told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        symbols(names, mine="K")


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ({"K": ("Na",)}, "groups.K: is the name of a group or an element already"),
        ({"alkali": ("Na",)}, "groups.alkali: is the name of a group or an element already"),
        ({"a": ("b",), "b": ("c",), "c": ("b",)}, "groups.b: holds itself (a > b > c > b)"),
        ({"a": ("Qq",)}, "groups.a: 'Qq' is neither an element nor a group"),
    ],
)
def test_groups_that_cannot_be_are_errors(groups: dict[str, tuple[str, ...]], told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        require_groups(groups)


# --- charges --------------------------------------------------------------------------------------------------------

TABLES = st.lists(
    st.dictionaries(st.integers(1, 6), st.lists(st.integers(-4, 7), max_size=4, unique=True), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


def neutral_by_hand(
    units: tuple[int, ...], states: list[dict[int, list[int]]], elements: tuple[int, ...]
) -> set[tuple[int, ...]]:
    held = [site[z] for site, z in zip(states, elements, strict=True)]
    return {q for q in itertools.product(*held) if sum(n * each for n, each in zip(units, q, strict=True)) == 0}


@given(states=TABLES, data=st.data())
def test_bits_tell_what_is_neutral(states: list[dict[int, list[int]]], data: st.DataObject) -> None:
    units = tuple(data.draw(st.lists(st.integers(1, 12), min_size=len(states), max_size=len(states))))
    found = balance(units, states, states)
    assignments = list(itertools.product(*states))
    elements = np.array(assignments, np.uint8)
    possible = found.possible(elements)
    for row, assignment in enumerate(assignments):
        expected = neutral_by_hand(units, states, assignment)
        assert {tuple(found.combinations[c].tolist()) for c in bits_of(found, possible[row])} == expected
        if expected:
            chosen = int(found.chosen(elements[row : row + 1], possible[row : row + 1])[0])
            weights = {q: sum(n * each**2 for n, each in zip(units, q, strict=True)) for q in expected}
            assert weights[tuple(found.combinations[chosen].tolist())] == min(weights.values())


def bits_of(found: Balance, words: np.ndarray) -> list[int]:
    return [c for c in range(len(found.combinations)) if int(words[c // 64]) >> (c % 64) & 1]


def test_many_combinations_need_many_words() -> None:
    states = [{1: list(range(-9, 10))} for _ in range(3)]
    found = balance((1, 1, 1), states, states)
    assert len(found.combinations) == 271
    assert found.words == 5
    possible = found.possible(np.ones((2, 3), np.uint8))
    assert len(bits_of(found, possible[1])) == 271


def test_usual_states_are_named_first() -> None:
    both = [{26: [2, 3, 4]}, {22: [2, 3, 4]}, {8: [-2]}]
    usual = [{26: [2, 3]}, {22: [4]}, {8: [-2]}]
    found = balance((1, 1, 3), both, usual)
    elements = np.array([[26, 22, 8]], np.uint8)
    chosen = found.combinations[found.chosen(elements, found.possible(elements))]
    assert chosen.tolist() == [[2, 4, -2]]


def test_too_many_combinations_are_refused() -> None:
    states = [{1: list(range(-9, 10))} for _ in range(6)]
    with pytest.raises(InputError, match="combinations of oxidation states are too many to try"):
        balance((1,) * 6, states, states)


def test_crystals_are_neutral_and_say_in_which_states() -> None:
    crystals = enumerated(
        of("spinel", A="Mg Fe Zn Li", B="Al Fe Ti Mn", X="O S F"), of("garnet", A="Al Fe", C="Y Ca", D="Si Al", X="O")
    )
    assert len(crystals) > 20
    for crystal in crystals:
        charges = {s: int(q) for s, q in re.findall(r" ([A-Z][a-z]?)([+-]\d)", crystal.source)}
        assert sum(charges[SYMBOLS[z]] for z in crystal.numbers.tolist()) == 0, crystal.source


def test_states_can_be_given() -> None:
    mixed = of("rock-salt", A="Fe Ti Na", X="O")
    assert list(enumerated(mixed).ids) == ["rock-salt-FeO", "rock-salt-TiO"]
    assert list(enumerated(mixed, oxidation_states="common").ids) == ["rock-salt-FeO"]
    assert list(enumerated(mixed, states={"Fe": [3], "Na": [2]}).ids) == ["rock-salt-TiO", "rock-salt-NaO"]
    assert list(enumerated(mixed | {"states": {"X": [-1]}}).ids) == ["rock-salt-NaO"]
    assert len(enumerated(mixed, charge_neutral=False)) == 3


# --- tolerance factors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "charges", "expected"),
    [
        ("Sr Ti O", (2, 4, -2), (1.44 + 1.40) / (math.sqrt(2) * (0.605 + 1.40))),
        ("Cs Pb I", (1, 2, -1), (1.88 + 2.20) / (math.sqrt(2) * (1.19 + 2.20))),
    ],
)
def test_the_factor_is_goldschmidts(elements: str, charges: tuple[int, ...], expected: float) -> None:
    row = np.array([[NUMBER_OF[symbol] for symbol in elements.split()]], np.uint8)
    states = [{int(z): [q]} for z, q in zip(row[0], charges, strict=True)]
    window = tolerance_window(named.named("perovskite"), (0.8, 1.1), balance((1, 1, 3), states, states))
    assert window.factors(row, 0)[0] == pytest.approx(expected)


def test_small_cations_are_averaged() -> None:
    row = np.array([[NUMBER_OF[symbol] for symbol in ("Cs", "Ag", "Bi", "Br")]], np.uint8)
    states = [{int(z): [q]} for z, q in zip(row[0], (1, 1, 3, -1), strict=True)]
    window = tolerance_window(named.named("double-perovskite"), (0.8, 1.1), balance((2, 1, 1, 6), states, states))
    expected = (1.88 + 1.96) / (math.sqrt(2) * ((1.15 + 1.03) / 2 + 1.96))
    assert window.factors(row, 0)[0] == pytest.approx(expected)


@given(low=st.floats(0.7, 1.0), width=st.floats(0.01, 0.4))
def test_the_window_keeps_what_some_combination_puts_into_it(low: float, width: float) -> None:
    sites = of("perovskite", A="K Ca La Pb Ce", B="Ti Fe Mn W Ce", X="O F")
    kept = set(enumerated(sites | {"tolerance_factor": [low, low + width]}).ids)
    (space,) = counted(sites).spaces
    assert space.balance is not None
    window = tolerance_window(space.prototype, (low, low + width), space.balance)
    for crystal in enumerated(sites):
        row = crystal.numbers[None, [0, 1, 2]]
        possible = bits_of(space.balance, space.balance.possible(row)[0])
        factors = [float(window.factors(row, c)[0]) for c in possible]
        assert (crystal.id in kept) == any(low <= t <= low + width for t in factors)


def test_radii_can_be_given() -> None:
    tin = of("perovskite", A="Cs", B="Sn Pb", X="I", tolerance_factor=[0.8, 1.0])
    assert list(enumerated(tin).ids) == ["perovskite-CsPbI3"]
    assert list(enumerated(tin, radii={"Sn+2": 1.1}).ids) == ["perovskite-CsSnI3", "perovskite-CsPbI3"]
    with pytest.raises(InputError, match="radii: 'Sn2' is no ion; write an element and its charge"):
        enumerated(tin, radii={"Sn2": 1.1})


def test_only_perovskites_have_a_factor() -> None:
    with pytest.raises(InputError, match="prototype rock-salt has no tolerance factor"):
        counted(of("rock-salt", A="Na", X="Cl", tolerance_factor=[0.8, 1.0]))
    with pytest.raises(InputError, match="tolerance_factor and states need oxidation states"):
        counted(of("perovskite", A="K", B="Ta", X="O", tolerance_factor=[0.8, 1.0], charge_neutral=False))


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "elements", "length"),
    [
        ("rock-salt", "Na Cl", 5.69),
        ("rock-salt", "Mg O", 4.25),
        ("perovskite", "Sr Ti O", 3.94),
        ("perovskite", "Cs Pb I", 6.39),
        ("fluorite", "Ca F", 5.50),
        ("zinc-blende", "Ga As", 5.75),
        ("heusler", "Cu Mn Al", 5.94),
        ("spinel", "Mg Al O", 8.17),
        ("garnet", "Y Al Al O", 12.12),
        ("caesium-chloride", "Ni Al", 2.89),
        ("auricupride", "Cu Au", 3.98),
    ],
)
def test_known_crystals_come_out_at_their_size(name: str, elements: str, length: float) -> None:
    """Against cell lengths computed with PBE, within two per cent."""
    prototype = prototype_named(name)
    sums = repulsions(prototype.lattice, prototype.fractional, prototype.site_of, len(prototype.sites))
    row = np.array([[NUMBER_OF[symbol] for symbol in elements.split()]], np.uint8)
    spacing = float(spacings(sums, prototype.counts / len(prototype), row)[0])
    assert spacing * (len(prototype) / prototype.volume) ** (1 / 3) == pytest.approx(length, rel=0.02)


@given(seed=st.integers(0, 500))
def test_a_size_depends_on_the_geometry_alone(seed: int) -> None:
    """Not on the unit of length, the choice of the cell or the order of atoms."""
    rng = np.random.default_rng(seed)
    crystal = made_crystal(rng, "c", max_atoms=6)
    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    kinds = rng.integers(0, 2, len(crystal))
    ours = repulsions(crystal.lattice, fractional, kinds, 2)
    assert ours.sum() > 0
    np.testing.assert_allclose(repulsions(crystal.lattice * 1.7, fractional, kinds, 2), ours, rtol=1e-6)
    twice = np.array([[1.0, 0, 0], [1, 1, 0], [0, 0, 2]])
    doubled = np.concatenate([crystal.positions, crystal.positions + crystal.lattice[2]])
    larger = twice @ crystal.lattice
    again = repulsions(larger, doubled @ np.linalg.inv(larger), np.tile(kinds, 2), 2)
    np.testing.assert_allclose(again, ours, rtol=1e-6)


def test_the_table_of_lengths_is_whole() -> None:
    with TABLE.open(encoding="ascii", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == int(fitted_lengths().known.sum()) == 86
    assert all(int(row["crystals"]) >= 5 for row in rows)
    lengths = fitted_lengths()
    np.testing.assert_array_equal(lengths.pair, lengths.pair.T)
    assert REACH == 2.5


def test_volumes_can_be_scaled() -> None:
    salt = of("rock-salt", A="Na", X="Cl")
    plain, larger = enumerated(salt)[0], enumerated(salt, volume_scale=1.331)[0]
    np.testing.assert_allclose(larger.lattice, plain.lattice * 1.1, rtol=1e-6)
