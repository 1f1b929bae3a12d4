"""No crystal twice and none lost: against pymatgen's matcher on short lists, and the images one by one."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from specifications import counted, enumerated, of

from screening.crystals.convert import crystal_to_pymatgen
from screening.enumerate import named
from screening.enumerate.congruence import REACH, geometry_of, mappings
from screening.enumerate.duplicates import patterns
from screening.enumerate.space import Space
from screening.errors import InputError

pytestmark = pytest.mark.native

NEUTRAL_OR_NOT: dict[str, Any] = {"charge_neutral": False}
MATCHER = StructureMatcher(ltol=0.02, stol=0.02, angle_tol=1, primitive_cell=True, scale=True)


def structures(*prototypes: dict[str, Any], **options: Any) -> list[Structure]:
    """The crystals that are enumerated."""
    return [crystal_to_pymatgen(crystal) for crystal in enumerated(*prototypes, **options)]  # type: ignore[misc]


def every_assignment(*prototypes: dict[str, Any], repeat: bool) -> list[Structure]:
    """One crystal for each assignment of each prototype, duplicates and all."""
    found = []
    for prototype in prototypes:
        for elements in itertools.product(*prototype["sites"].values()):
            if repeat or len(set(elements)) == len(elements):
                chosen = {site: [z] for site, z in zip(prototype["sites"], elements, strict=True)}
                found += structures(prototype | {"sites": chosen}, repeat_elements=repeat, **NEUTRAL_OR_NOT)
    return found


CASES = {
    "one that swaps its sites": (of("rock-salt", A="Na K Cl", X="Cl Na Br"),),
    "one whose sites swap in pairs": (of("quaternary-heusler", W="Fe Co", X="Fe Co", Y="Ti Mn", Z="Ti Mn Fe"),),
    "a name and its inverse": (of("fluorite", A="Ca Li", X="O F"), of("antifluorite", A="Li F", X="O Ca")),
    "a prototype and pymatgen's": (
        of("perovskite", A="Sr Ba", B="Ti", X="O"),
        of("AB3C_cP5_221_a_c_b", A="Sr Pb", B="O S", C="Ti"),
    ),
    "structures of one formula": (of("zinc-blende", A="Zn S", X="S Zn"), of("wurtzite", A="S Zn", X="Zn Cd S")),
    "full and inverse": (
        of("heusler", X="Fe Co", Y="Co Ti Al", Z="Al Ti"),
        of("inverse-heusler", X="Fe Co", Y="Ti", Z="Al Co"),
    ),
}


@pytest.mark.parametrize("repeat", [False, True], ids=["distinct", "repeated"])
@pytest.mark.parametrize("case", CASES)
def test_the_crystals_are_those_that_a_matcher_tells_apart(case: str, repeat: bool) -> None:
    prototypes = CASES[case]
    ours = structures(*prototypes, repeat_elements=repeat, **NEUTRAL_OR_NOT)
    every = every_assignment(*prototypes, repeat=repeat)
    assert len(ours) < len(every)
    for k, one in enumerate(ours):
        assert not any(same(one, other) for other in ours[:k]), one.properties
    assert all(any(same(one, other) for other in ours) for one in every)


def same(one: Structure, other: Structure) -> bool:
    return sorted(one.composition.reduced_formula) == sorted(other.composition.reduced_formula) and bool(
        MATCHER.fit(one, other)
    )


def test_a_repeated_element_makes_another_prototype() -> None:
    """An elpasolite with one small cation is a perovskite, a Heusler crystal with one element caesium chloride."""
    cubic = of("perovskite", A="Cs", B="Pb Sn", X="I")
    ordered = of("double-perovskite", A="Cs", B="Pb Sn", C="Pb Sn", X="I")
    both = enumerated(cubic, ordered, repeat_elements=True, **NEUTRAL_OR_NOT)
    assert list(both.ids) == ["perovskite-CsPbI3", "perovskite-CsSnI3", "double-perovskite-Cs2SnPbI6"]
    assert list(enumerated(ordered, cubic, repeat_elements=True, **NEUTRAL_OR_NOT).ids) == [
        "double-perovskite-Cs2PbPbI6",
        "double-perovskite-Cs2SnPbI6",
        "double-perovskite-Cs2SnSnI6",
    ]
    alloys = [of("caesium-chloride", A="Ni", X="Al"), of("heusler", X="Ni", Y="Al", Z="Al Ti")]
    assert list(enumerated(*alloys, repeat_elements=True, **NEUTRAL_OR_NOT).ids) == [
        "caesium-chloride-NiAl",
        "heusler-Ni2AlTi",
    ]


def test_a_crystal_stays_when_its_twin_is_not_accepted() -> None:
    """Only what is really enumerated elsewhere is dropped."""
    assert list(enumerated(of("rock-salt", A="Na", X="Cl"), **NEUTRAL_OR_NOT).ids) == ["rock-salt-NaCl"]
    ordered = of("rock-salt", A="Na Cl", X="Cl Na", electronegativity="X < A")
    assert list(enumerated(ordered, **NEUTRAL_OR_NOT).ids) == ["rock-salt-ClNa"]
    neutral, any_charge = (
        of("rock-salt", A="Na", X="Cl S"),
        of("AB_cF8_225_a_b", A="S Cl", B="Na", charge_neutral=False),
    )
    assert list(enumerated(neutral, any_charge).ids) == ["rock-salt-NaCl", "AB_cF8_225_a_b-SNa"]


def test_a_prototype_twice_gives_each_crystal_once() -> None:
    both = enumerated(of("perovskite", A="Ca Sr", B="Ti", X="O"), of("perovskite", A="Sr Ba", B="Ti Zr", X="O"))
    assert list(both.ids) == [f"perovskite-{name}O3" for name in ("CaTi", "SrTi", "SrZr", "BaTi", "BaZr")]


@given(data=st.data())
@settings(max_examples=20)
def test_ids_are_unique_and_blocks_do_not_decide(data: st.DataObject) -> None:
    elements = st.lists(st.sampled_from(["Li", "Mg", "Al", "Ti", "O", "F"]), min_size=1, max_size=4, unique=True)
    names = data.draw(st.lists(st.sampled_from(named.names()), min_size=1, max_size=3, unique=True))
    prototypes = [
        of(name, **{site: " ".join(data.draw(elements)) for site in named.named(name).sites}) for name in names
    ]
    enumeration = counted(*prototypes, repeat_elements=data.draw(st.booleans()), **NEUTRAL_OR_NOT)
    ids = [id for batch in enumeration.batches() for id in batch.ids]
    assert len(set(ids)) == len(ids) == enumeration.total
    blocks = [space.block(number) for space in enumeration.spaces for number in range(space.blocks)]
    assert sum(len(block.elements) for block in blocks) == sum(f.tolerated for f in enumeration.funnels)


def test_patterns_are_the_ways_to_repeat_elements() -> None:
    def of_lists(*lists: list[int], repeat: bool = True) -> set[tuple[int, ...]]:
        elements = tuple(np.array(site, np.uint8) for site in lists)
        return set(patterns(Space("x", named.named("heusler"), elements, repeat_elements=repeat)))

    assert of_lists([1, 2], [2, 3], [3, 4]) == {(0, 1, 2), (0, 0, 2), (0, 1, 1)}
    assert of_lists([1], [1], [1]) == {(0, 0, 0), (0, 0, 2), (0, 1, 0), (0, 1, 1), (0, 1, 2)}
    assert of_lists([1], [1], [1], repeat=False) == {(0, 1, 2)}


def test_too_many_patterns_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screening.enumerate.duplicates.MOST_PATTERNS", 4)
    with pytest.raises(InputError, match=r"heusler: there are more than 4 ways in which elements can be repeated"):
        counted(of("heusler", X="Fe Co", Y="Fe Co", Z="Fe Co"), repeat_elements=True, **NEUTRAL_OR_NOT)


# --- congruence -----------------------------------------------------------------------------------------------------


@given(name=st.sampled_from(named.names()), seed=st.integers(0, 1000))
def test_a_geometry_is_recognised_however_it_is_written(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prototype = named.named(name)
    ours = geometry_of(prototype.lattice, prototype.fractional, prototype.site_of)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    skew = np.array([[1, 0, 0], [int(rng.integers(-2, 3)), 1, 0], [int(rng.integers(-2, 3)), 1, 1]], float)
    lattice = skew @ prototype.lattice @ turn * rng.uniform(0.5, 6.0)
    fractional = prototype.fractional @ np.linalg.inv(skew) + rng.uniform(size=3)
    order = rng.permutation(len(prototype))
    colour = rng.permutation(len(prototype.sites))
    theirs = geometry_of(lattice, fractional[order], colour[prototype.site_of][order])
    assert tuple(colour.tolist()) in list(mappings(ours, theirs))


def test_mappings_are_those_of_the_symmetry() -> None:
    expected = {"quaternary-heusler": 8, "rock-salt": 2, "half-heusler": 2, "heusler": 2, "perovskite": 1, "spinel": 1}
    for name, count in expected.items():
        prototype = named.named(name)
        geometry = geometry_of(prototype.lattice, prototype.fractional, prototype.site_of)
        assert len(list(mappings(geometry, geometry))) == count


def test_the_end_of_the_reach_does_not_decide() -> None:
    """A neighbour that is just inside for one source and just outside for another makes no difference."""
    assert REACH == 3.0, "in simple cubic, a distance that many atoms have"
    near, far = (
        geometry_of(np.diag([1, 1, stretch]), np.zeros((1, 3)), np.zeros(1, int)) for stretch in (0.995, 1.005)
    )
    assert len(near.distances[0, 0]) != len(far.distances[0, 0])
    assert list(mappings(near, far)) == [(0,)]
