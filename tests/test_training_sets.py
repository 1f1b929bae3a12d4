"""Labelled graphs, batches and splits: gathering equals building, every crystal once, no formula on two sides."""

import itertools
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import made_crystals

from screening.arrays import Int64, UInt8
from screening.crystals import formulas
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.crystals.formulas import element_counts, reduced_formulas
from screening.errors import InputError
from screening.graphs import Neighbors, pack_graphs
from screening.models.graph_tensors import GraphTensors
from screening.predictions import Target
from screening.training import labelled
from screening.training.batching import epoch_batches, ordered_batches, prefetched
from screening.training.config import SplitSettings
from screening.training.labelled import LabelledGraphs
from screening.training.splits import Split, split_in_folds, split_once

TARGETS = (
    Target("formation_energy_per_atom", "eV/atom"),
    Target("band_gap", "eV"),
    Target("is_metal", "1", "classification"),
)
NEIGHBORS = Neighbors(cutoff=5.0, max_neighbors=8)
CRYSTALS = Crystals.of(made_crystals(60, seed=3, max_atoms=9))
GRAPHS = LabelledGraphs.of([CRYSTALS[:13], CRYSTALS[13:]], TARGETS, NEIGHBORS)
ROWS = np.arange(len(GRAPHS))


def crystal(id: str, symbols: list[int], **labels: float) -> Crystal:
    positions = 3.0 * np.arange(3 * len(symbols)).reshape(-1, 3)
    return Crystal(id, np.array(symbols, np.uint8), positions, 40 * np.eye(3), labels=labels)


@given(st.lists(st.integers(0, 59), max_size=20))
def test_what_is_gathered_is_what_these_crystals_would_be_built_to(chosen: list[int]) -> None:
    rows = np.array(chosen, np.int64)
    graph, labels = GRAPHS.take(rows)
    right = GraphTensors.of(pack_graphs(CRYSTALS.take(rows), NEIGHBORS), device="cpu", dtype=torch.float32)
    assert torch.equal(graph.numbers, right.numbers)
    assert torch.equal(graph.edge_vector, right.edge_vector)
    assert graph.crystals == len(rows)
    assert torch.equal(graph.crystal_of_atom, right.crystal_of_atom)
    for ours, theirs in zip(graph.edge_graph, right.edge_graph, strict=True):
        assert ours.dtype == torch.int32
        assert torch.equal(ours, theirs)
    assert np.array_equal(labels.numpy(), GRAPHS.labels[rows], equal_nan=True)


def test_labels_are_derived_and_missing_ones_stay_missing() -> None:
    made = [
        crystal("metal", [3], band_gap=0.0),
        crystal("gapped", [3], band_gap=1.5, formation_energy_per_atom=-1.0),
        crystal("told", [3], is_metal=1.0),
        crystal("bare", [3]),
    ]
    graphs = LabelledGraphs.of([Crystals.of(made)], TARGETS, NEIGHBORS)
    nan = np.nan
    np.testing.assert_array_equal(graphs.labels, [[nan, 0, 1], [-1, 1.5, 0], [nan, nan, 1], [nan, nan, nan]])


def test_a_class_that_is_neither_0_nor_1_is_named() -> None:
    with pytest.raises(InputError, match=r"odd: label is_metal is 0\.5"):
        LabelledGraphs.of([Crystals.of([crystal("odd", [3], is_metal=0.5)])], TARGETS, NEIGHBORS)


def test_the_fingerprint_tells_data_apart() -> None:
    same = LabelledGraphs.of([CRYSTALS], TARGETS, NEIGHBORS)
    assert same.fingerprint(ROWS) == GRAPHS.fingerprint(ROWS)
    assert GRAPHS.fingerprint(ROWS[:-1]) != GRAPHS.fingerprint(ROWS)
    assert LabelledGraphs.of([CRYSTALS], TARGETS[:1], NEIGHBORS).fingerprint(ROWS) != GRAPHS.fingerprint(ROWS)


def test_atoms_without_neighbours_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "AT_ONCE", 2)
    crystals = [crystal(f"c{k}", [3] * size) for k, size in enumerate([1, 2, 1, 3, 1])]
    graphs = LabelledGraphs.of([Crystals.of(crystals)], (), Neighbors(cutoff=16.0))
    chosen = [[0, 1, 2, 3, 4], [3, 1], [1, 4], []]
    assert [graphs.lonely_atoms(np.array(rows, np.int64)) for rows in chosen] == [3, 0, 1, 0]


def test_no_crystals_make_an_empty_set() -> None:
    assert len(LabelledGraphs.of([], TARGETS, NEIGHBORS)) == 0
    assert ordered_batches(GRAPHS, ROWS[:0], batch_size=4, max_atoms=10, max_edges=10) == []


def test_elements_are_those_that_occur() -> None:
    assert GRAPHS.elements(ROWS[:3]) == sorted(set(CRYSTALS[:3].numbers.tolist()))


def test_reduced_formulas() -> None:
    made = Crystals.of([crystal("a", [11, 17, 17, 11]), crystal("b", [8, 13, 8, 13, 8]), crystal("c", [1])])
    assert reduced_formulas(made.numbers, made.atom_offsets) == ["ClNa", "Al2O3", "H"]


def test_formulas_of_many_crystals_are_made_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, fractions = list(GRAPHS.formulas), GRAPHS.fractions(ROWS[::-1])
    assert whole == reduced_formulas(CRYSTALS.numbers, CRYSTALS.atom_offsets)
    counted = []

    def noted(numbers: UInt8, offsets: npt.NDArray[np.integer]) -> Int64:
        counted.append(len(offsets) - 1)
        return element_counts(numbers, offsets)

    for module in (formulas, labelled):
        monkeypatch.setattr(module, "AT_ONCE", 7)
        monkeypatch.setattr(module, "element_counts", noted)
    again = LabelledGraphs.of([CRYSTALS], TARGETS, NEIGHBORS)
    assert list(again.formulas) == whole
    assert list(again.formulas[11:23]) == whole[11:23]
    assert len(again.formulas[50:]) == 10
    assert again.formulas[-1] == whole[-1]
    assert np.array_equal(again.fractions(ROWS[::-1]), fractions)
    assert max(counted) == 7


def test_splits_that_need_no_formulas_make_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("nobody asked for formulas")

    graphs = LabelledGraphs.of([CRYSTALS], TARGETS, NEIGHBORS)
    monkeypatch.setattr(formulas, "element_counts", fail)
    settings = SplitSettings(validation=0.2, test=0.1)
    assert every(split_once(settings, graphs.formulas)) == ROWS.tolist()
    assert len(split_in_folds(SplitSettings(folds=3), graphs.formulas, graphs.folds)) == 3
    with pytest.raises(AssertionError, match="nobody asked"):
        split_once(SplitSettings(by="formula"), graphs.formulas)


@given(st.integers(1, 70), st.integers(1, 80), st.integers(1, 700), st.integers(0, 5))
def test_an_epoch_has_every_crystal_once_within_the_budget(size: int, atoms: int, edges: int, epoch: int) -> None:
    batches = epoch_batches(GRAPHS, ROWS, batch_size=size, max_atoms=atoms, max_edges=edges, seed=1, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == ROWS.tolist()
    for batch in batches:
        within = GRAPHS.atom_counts[batch].sum() <= atoms and GRAPHS.edge_counts[batch].sum() <= edges
        assert len(batch) <= size
        assert within or len(batch) == 1


def test_batches_differ_by_epoch_and_seed_and_are_nearly_equal() -> None:
    def made(seed: int, epoch: int) -> list[list[int]]:
        free = {"max_atoms": 10**6, "max_edges": 10**6}
        return [b.tolist() for b in epoch_batches(GRAPHS, ROWS, batch_size=7, seed=seed, epoch=epoch, **free)]

    assert made(0, 0) == made(0, 0)
    assert len({str(made(seed, epoch)) for seed, epoch in itertools.product(range(2), range(2))}) == 4
    assert {len(b) for b in made(0, 0)} == {6, 7}


def test_prefetching_keeps_order_and_passes_errors_on() -> None:
    batches = [np.array([k]) for k in range(7)]
    assert [int(made) for _, made in prefetched(batches, lambda rows: rows[0] * 10)] == [10 * k for k in range(7)]
    with pytest.raises(ZeroDivisionError):
        list(prefetched(batches, lambda rows: 1 // (3 - int(rows[0]))))


FORMULAS = [f"X{k % 17}" for k in range(100)] + ["Big"] * 30


def parts(split: Split) -> list[list[int]]:
    return [part.tolist() for part in (split.train, split.validation, split.test)]


def every(split: Split) -> list[int]:
    return sorted(itertools.chain(*parts(split)))


@given(st.integers(0, 99), st.sampled_from(["random", "formula"]), st.floats(0.0, 0.4), st.floats(0.0, 0.4))
def test_a_split_has_every_crystal_once(seed: int, by: str, validation: float, test: float) -> None:
    split = split_once(SplitSettings(by=by, validation=validation, test=test, seed=seed), FORMULAS)
    assert every(split) == list(range(len(FORMULAS)))
    assert parts(split) == [sorted(part) for part in parts(split)]
    # Whole formulas can miss the wanted size by up to half the largest one.
    slack = 15 if by == "formula" else 1
    assert abs(len(split.validation) - validation * len(FORMULAS)) <= slack
    if by == "formula":
        sides = [{FORMULAS[r] for r in part} for part in parts(split)]
        assert sum(map(len, sides)) == len(set(FORMULAS))


def test_splits_depend_on_the_seed() -> None:
    first, second = (split_once(SplitSettings(seed=seed), FORMULAS) for seed in (0, 1))
    assert first.validation.tolist() != second.validation.tolist()


@pytest.mark.parametrize("by", ["random", "formula"])
def test_each_crystal_is_tested_in_one_fold(by: str) -> None:
    splits = split_in_folds(SplitSettings(by=by, folds=4, validation=0.2), FORMULAS, np.full(len(FORMULAS), np.nan))
    tested = Counter(itertools.chain(*(split.test.tolist() for split in splits)))
    assert len(splits) == 4
    assert tested == Counter(range(len(FORMULAS)))
    for split in splits:
        assert every(split) == list(range(len(FORMULAS)))
        if by == "formula":
            sides = [{FORMULAS[r] for r in part} for part in parts(split)]
            assert sum(map(len, sides)) == len(set(FORMULAS))


def test_given_folds_are_kept() -> None:
    folds = np.arange(len(FORMULAS)) % 5.0
    splits = split_in_folds(SplitSettings(by="folds", validation=0.0), FORMULAS, folds)
    assert [np.unique(folds[split.test]).tolist() for split in splits] == [[0], [1], [2], [3], [4]]
    assert all(len(split.validation) == 0 for split in splits)


@pytest.mark.parametrize(
    ("folds", "said"),
    [([0, 1, np.nan], "1 of 3 crystals have no label"), ([0, 2, 2], "without gaps"), ([0, 0, 0], "without gaps")],
)
def test_folds_that_cannot_be_used_are_named(folds: list[float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        split_in_folds(SplitSettings(by="folds"), FORMULAS[:3], np.array(folds))


def test_too_few_crystals_are_refused() -> None:
    with pytest.raises(InputError, match="cannot make 4 folds"):
        split_in_folds(SplitSettings(by="formula", folds=4), ["A"] * 9, np.full(9, np.nan))
    with pytest.raises(InputError, match="no crystal to train on"):
        split_once(SplitSettings(), [])


def test_a_smaller_training_set_is_part_of_a_larger_one() -> None:
    split = split_once(SplitSettings(), FORMULAS)
    small, large = split.thinned(0.1, seed=0), split.thinned(0.5, seed=0)
    assert len(small.train) == 12
    assert set(small.train) < set(large.train) < set(split.train)
    assert small.validation.tolist() == split.validation.tolist()
