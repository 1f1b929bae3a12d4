"""Batches: slicing, taking and joining are what lists do, to the last bit; text columns serve as ids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import assert_same, made_crystals

from screening.crystals.batch import Crystals, offsets_of
from screening.crystals.crystal import Crystal
from screening.crystals.text import TextColumn
from screening.errors import InputError


@st.composite
def crystal_lists(draw: st.DrawFn, max_size: int = 9) -> list[Crystal]:
    count, seed = draw(st.integers(0, max_size)), draw(st.integers(0, 1000))
    crystals = made_crystals(count, seed=seed, max_atoms=5, forces=draw(st.booleans()))
    empty = Crystal("empty", np.empty(0, np.uint8), np.empty((0, 3)), np.eye(3))
    return [empty if draw(st.integers(0, 9)) == 0 else c for c in crystals]


def assert_all_same(batch: Crystals, expected: list[Crystal]) -> None:
    assert len(batch) == len(expected)
    assert batch.atom_offsets.dtype == np.int32
    assert batch.atom_counts.tolist() == [len(c) for c in expected]
    for array in (batch.numbers, batch.positions, batch.lattice, batch.pbc, batch.atom_offsets):
        assert array.flags.c_contiguous
    for ours, theirs in zip(batch, expected, strict=True):
        assert_same(ours, theirs)


@given(crystals=crystal_lists())
def test_of_and_iteration(crystals: list[Crystal]) -> None:
    batch = Crystals.of(crystals)
    assert_all_same(batch, crystals)
    assert Crystals.of(batch) is batch


@given(crystals=crystal_lists(), start=st.integers(-12, 12), stop=st.integers(-12, 12))
def test_slices(crystals: list[Crystal], start: int, stop: int) -> None:
    batch = Crystals.of(crystals)
    assert_all_same(batch[start:stop], crystals[start:stop])
    assert_all_same(batch[start:], crystals[start:])
    assert_all_same(batch[start:stop][1:], crystals[start:stop][1:])


@given(crystals=crystal_lists(), data=st.data())
def test_take(crystals: list[Crystal], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(crystals) - 1), max_size=12)) if crystals else []
    assert_all_same(Crystals.of(crystals).take(rows), [crystals[r] for r in rows])


@given(crystals=crystal_lists())
def test_moved_crystals_are_the_same_atoms_elsewhere(crystals: list[Crystal]) -> None:
    batch = Crystals.of(crystals)
    there = batch.moved(2.0 * batch.lattice, np.asfortranarray(batch.positions + 1.0))
    bare = (Crystal(c.id, c.numbers, c.positions + 1.0, 2.0 * c.lattice, pbc=c.pbc, source=c.source) for c in crystals)
    assert_all_same(there, list(bare))


@settings(max_examples=60)
@given(parts=st.lists(crystal_lists(4), max_size=5))
def test_joined(parts: list[list[Crystal]]) -> None:
    together = Crystals.joined([Crystals.of(part) for part in parts])
    assert_all_same(together, [c for part in parts for c in part])


@given(crystals=crystal_lists(), cut=st.integers(0, 9))
def test_cut_and_joined_is_the_same(crystals: list[Crystal], cut: int) -> None:
    batch = Crystals.of(crystals)
    assert_all_same(Crystals.joined([batch[:cut], batch[cut:]]), crystals)


def test_ids_may_be_text_columns() -> None:
    crystals = made_crystals(6)
    plain = Crystals.of(crystals)
    texts = [TextColumn.of(plain.ids), TextColumn.of(plain.sources)]
    batch = Crystals(
        texts[0],
        plain.numbers,
        plain.positions,
        plain.lattice,
        plain.pbc,
        plain.atom_offsets,
        plain.labels,
        sources=texts[1],
    )
    assert_all_same(batch, crystals)
    assert_all_same(batch[2:5], crystals[2:5])
    assert_all_same(batch.take([4, 0]), [crystals[4], crystals[0]])
    assert_all_same(Crystals.joined([batch, plain]), crystals * 2)


def test_negative_and_absent_rows() -> None:
    batch = Crystals.of(made_crystals(3))
    assert batch[-1].id == batch.ids[2]
    for row in (3, -4):
        with pytest.raises(IndexError):
            batch[row]
    with pytest.raises(InputError, match="step 1"):
        batch[::-1]


def test_column_major_arrays_become_row_major() -> None:
    positions = np.asfortranarray(np.arange(12.0).reshape(4, 3))
    crystal = Crystal("a", np.ones(4, np.uint8), positions, np.asfortranarray(np.eye(3)))
    assert_all_same(Crystals.of([crystal, crystal]), [crystal, crystal])


def test_too_many_atoms_for_one_batch() -> None:
    with pytest.raises(InputError, match="at most 2\\^31 - 1 atoms"):
        offsets_of([2**30, 2**30])
    assert offsets_of([2**30, 2**30 - 1])[-1] == 2**31 - 1
