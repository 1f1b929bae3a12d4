"""The stream: sampling, order, the same file for any block and batch, checks on the way to disk."""

import re
from pathlib import Path
from typing import Any

import moyopy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import closest_distance
from specifications import counted, enumerated, of, specification

from screening.crystals.batch import Crystals
from screening.crystals.packed import PackedCrystals
from screening.crystals.validate import CrystalLimits
from screening.enumerate import enumeration as enumeration_module
from screening.enumerate import named
from screening.enumerate import space as space_module
from screening.enumerate.aflow import aflow_prototypes
from screening.enumerate.catalogue import prototype_named
from screening.enumerate.enumeration import Enumeration, write_enumeration
from screening.enumerate.sampling import Draw
from screening.errors import InputError

pytestmark = pytest.mark.native

PEROVSKITES = of("perovskite", A="alkali alkaline-earths rare-earths", B="transition-metals", X="O halogens")
ELEMENTS = ("Ba", "Ti", "Fe", "La", "O", "F")


# --- sampling -------------------------------------------------------------------------------------------------------

SIZES = st.integers(0, 5000)


@given(total=SIZES, wanted=st.one_of(st.none(), st.integers(1, 6000)), seed=st.integers(0, 2**40), data=st.data())
def test_a_draw_is_the_same_in_any_pieces(total: int, wanted: int | None, seed: int, data: st.DataObject) -> None:
    draw = Draw(total, wanted, seed)
    every = draw.within(0, total)
    assert len(every) == draw.count == min(total, wanted or total)
    assert (np.diff(every) > 0).all()
    cuts = sorted(data.draw(st.lists(st.integers(0, total), max_size=6)))
    parts = [draw.within(a, b) for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
    np.testing.assert_array_equal(np.concatenate(parts), every)
    for place in cuts:
        assert draw.before(place) == (every < place).sum()


def test_a_draw_takes_one_of_each_stretch() -> None:
    every = Draw(1000, 100, seed=7).within(0, 1000)
    np.testing.assert_array_equal(every // 10, np.arange(100))
    assert not np.array_equal(every, Draw(1000, 100, seed=8).within(0, 1000))


def test_each_place_is_as_likely_as_any_other() -> None:
    counts = np.zeros(50, int)
    for seed in range(4000):
        counts[Draw(50, 15, seed).within(0, 50)] += 1
    expected = 4000 * 15 / 50
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_huge_draws_do_not_overflow() -> None:
    draw = Draw(10**12, 10**9, seed=1)
    middle = draw.within(5 * 10**11, 5 * 10**11 + 10**6)
    assert 990 <= len(middle) <= 1010
    assert draw.before(10**12) == 10**9


# --- the stream -----------------------------------------------------------------------------------------------------


def test_a_sample_is_part_of_the_whole_and_in_its_order() -> None:
    whole, sample = list(enumerated(PEROVSKITES).ids), list(enumerated(PEROVSKITES, max_crystals=100).ids)
    assert len(sample) == 100
    places = [whole.index(id) for id in sample]
    assert places == sorted(places)
    assert sample != list(enumerated(PEROVSKITES, max_crystals=100, seed=1).ids)


def test_prototypes_can_be_limited_each() -> None:
    spinels = of("spinel", A="Mg Zn Fe", B="Al Cr Fe Ga In", X="O S Se", max_crystals=7)
    enumeration = counted(PEROVSKITES | {"max_crystals": 50}, spinels, max_crystals=40)
    perovskite, spinel = enumeration.funnels
    assert perovskite.drawn + spinel.drawn == 40
    assert spinel.drawn in (4, 5)
    assert spinel.distinct > 7
    ids = [id for batch in enumeration.batches() for id in batch.ids]
    assert sum(id.startswith("spinel-") for id in ids) == spinel.drawn


@given(seed=st.integers(0, 50), wanted=st.integers(1, 300), block=st.integers(1, 2000), atoms=st.integers(1, 3000))
def test_blocks_and_batches_do_not_decide(seed: int, wanted: int, block: int, atoms: int) -> None:
    prototypes = (
        of("perovskite", A="Ca Sr Ba La", B="Ti Fe Mn Al", X="O F S"),
        of("double-perovskite", A="Ba Cs La", B="Ti Fe Ag Bi", C="Bi Fe W", X="O Cl", max_crystals=10),
        of("AB3C_cP5_221_a_c_b", A="Sr Eu", B="O", C="Ti Zr"),
    )
    settings: dict[str, Any] = {"max_crystals": wanted, "seed": seed}
    expected = enumerated(*prototypes, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space_module.Space, "block_size", block)
        patch.setattr(space_module, "MOST_RIGHT", max(1, block // 7))
        other = Enumeration(specification(*prototypes, **settings), "spec.toml", batch_atoms=atoms)
        for space in other.spaces:
            object.__setattr__(space, "block_size", block)
        other.count()
        assert_equal(Crystals.joined(list(other.batches())), expected)


def assert_equal(ours: Crystals, theirs: Crystals) -> None:
    assert list(ours.ids) == list(theirs.ids)
    assert list(ours.sources) == list(theirs.sources)
    for name in ("numbers", "positions", "lattice", "pbc", "atom_offsets"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), strict=True)


def test_it_counts_by_itself() -> None:
    enumeration = Enumeration(specification(of("rock-salt", A="Na K", X="Cl")), "spec.toml")
    assert [list(batch.ids) for batch in enumeration.batches()] == [["rock-salt-NaCl", "rock-salt-KCl"]]
    assert enumeration.total == 2


def test_more_assignments_than_can_be_counted_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screening.enumerate.resolve.MOST_ASSIGNMENTS", 30_000)
    with pytest.raises(InputError, match=r"4e\+04 assignments are too many to count \(limit 3e\+04\)"):
        counted(of("perovskite", A="metals", B="metals", X="chalcogens halogens"))


def test_a_file_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    files = []
    for atoms in (1 << 16, 997):
        enumeration = Enumeration(specification(PEROVSKITES, max_crystals=500), "spec.toml", batch_atoms=atoms)
        enumeration.count()
        path = tmp_path / f"{atoms}.h5"
        tally = write_enumeration(enumeration, path)
        assert (tally.read, tally.accepted) == (500, 500)
        files.append(path.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("name", [*named.names(), *aflow_prototypes()])
def test_crystals_have_the_symmetry_of_their_prototype(name: str) -> None:
    """Distinct elements on distinct sites, as they are built: the space group, the formula, sound distances."""
    prototype = prototype_named(name)
    elements = dict(zip(prototype.sites, ELEMENTS, strict=False))
    (crystal,) = enumerated({"name": name, "sites": {s: [z] for s, z in elements.items()}, "charge_neutral": False})
    counts = zip(prototype.sites, prototype.units, strict=True)
    expected = "".join(f"{elements[s]}{n if n > 1 else ''}" for s, n in counts)
    assert crystal.id == f"{name}-{expected}"
    assert len(crystal) == len(prototype)
    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    cell = moyopy.Cell(crystal.lattice.tolist(), fractional.tolist(), crystal.numbers.tolist())
    parent = moyopy.Cell(prototype.lattice.tolist(), prototype.fractional.tolist(), prototype.site_of.tolist())
    size = (prototype.volume / len(prototype)) ** (1 / 3)
    found = moyopy.MoyoDataset(cell, symprec=1e-3)
    assert found.number == moyopy.MoyoDataset(parent, symprec=4e-4 * size).number
    assert closest_distance(crystal.positions, crystal.lattice, crystal.pbc, 1.5) > 1.0


def test_sizes_are_short_binary_numbers() -> None:
    """So that files are small and last bits agree everywhere."""
    lattice = enumerated(PEROVSKITES).lattice
    np.testing.assert_array_equal(lattice * 2**20, np.rint(lattice * 2**20))


# --- on the way to disk ---------------------------------------------------------------------------------------------


def test_crystals_with_atoms_too_close_are_rejections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enumeration_module, "LIMITS", CrystalLimits(min_distance=1.95))
    enumeration = counted(of("perovskite", A="Sr Ba", B="Ti Al Zr La", X="O F"), charge_neutral=False)
    tally = write_enumeration(enumeration, tmp_path / "out.h5", rejections=tmp_path / "refused.csv")
    assert tally.read == enumeration.total == 16
    assert tally.rejected.total() > 0
    with PackedCrystals(tmp_path / "out.h5") as packed:
        assert len(packed) == tally.accepted
        refused = packed.rejections()
        assert packed.inputs == ["spec.toml"]
        assert packed.limits.min_distance == 1.95
    assert [r.reason for r in refused] == ["atoms_too_close"] * len(refused)
    assert refused[0].source.startswith("spec.toml#perovskite")
    assert len((tmp_path / "refused.csv").read_text().splitlines()) == len(refused) + 1


@pytest.mark.parametrize(
    ("prototype", "told"),
    [
        (of("rock-salt", A="Na", X="O"), "rock-salt: of 1 assignments none is charge neutral"),
        (
            of("rock-salt", A="Na", X="Cl", electronegativity="X < A"),
            "rock-salt: of 1 assignments none has distinct elements in the order of electronegativity",
        ),
        (
            of("perovskite", A="Li", B="Nb", X="O", tolerance_factor=[1.1, 1.2]),
            "perovskite: of 1 assignments none is in the window of the tolerance factor",
        ),
    ],
)
def test_nothing_left_says_where_it_was_lost(prototype: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(f"spec.toml: no crystal is left; {told}")):
        write_enumeration(Enumeration(specification(prototype), "spec.toml"), tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_the_examples_are_as_large_as_they_say(root: Path) -> None:
    from screening import config
    from screening.enumerate.spec import Specification

    enumeration = Enumeration(config.load(Specification, root / "examples/perovskites.toml"), "perovskites.toml")
    enumeration.count()
    assert enumeration.total == 20_000
    million = Enumeration(config.load(Specification, root / "examples/million.toml"), "million.toml")
    assert sum(space.size for space in million.spaces) > 4_000_000
