"""One bad crystal costs one row, whatever it does to its batch short of killing the process."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import made_batch

from screening.arrays import Float64
from screening.crystals.batch import Crystals
from screening.errors import NativeError, ResourceError
from screening.predictions import FailureReason
from screening.runs.isolate import BrokenWorkerError, Proof, UnwellMachineError, isolated, said
from screening.runs.worker import SALT

CRYSTALS = made_batch(23)
ROW = {name: row for row, name in enumerate(CRYSTALS.ids)}
TARGETS = ["a", "b"]


def values_of(crystals: Crystals) -> Float64:
    rows = np.array([ROW[id] for id in crystals.ids], float)
    return np.stack([rows, -rows], axis=1)


@given(
    raising=st.frozensets(st.integers(0, 22), max_size=6),
    broken=st.dictionaries(st.integers(0, 22), st.sampled_from([np.nan, np.inf, 1e300]), max_size=6),
    room=st.integers(1, 23),
)
def test_only_culprits_have_no_prediction(raising: frozenset[int], broken: dict[int, float], room: int) -> None:
    def predict(crystals: Crystals) -> Float64:
        rows = [ROW[id] for id in crystals.ids]
        if len(rows) > room:
            raise torch.OutOfMemoryError("the GPU is full")
        for row in raising.intersection(rows):
            raise ValueError(f"no {row}")
        values = values_of(crystals)
        for place, row in enumerate(rows):
            values[place, 1] = broken.get(row, values[place, 1])
        return values

    found = isolated(predict, CRYSTALS, TARGETS)
    bad = raising | broken.keys()
    assert [trouble.place for trouble in found.troubles] == sorted(bad)
    for trouble in found.troubles:
        expected = FailureReason.MODEL_ERROR if trouble.place in raising else FailureReason.NON_FINITE_PREDICTION
        assert trouble.reason is expected
    right = values_of(CRYSTALS).astype(np.float32)
    right[sorted(bad)] = np.nan
    np.testing.assert_array_equal(found.values, right)


def test_messages_name_the_trouble() -> None:
    def predict(crystals: Crystals) -> Float64:
        if ROW[crystals.ids[0]] <= 3 < ROW[crystals.ids[-1]] + 1:
            raise ValueError("the crystal\n  is cursed")
        values = values_of(crystals)
        values[crystals.ids.index(CRYSTALS.ids[9]) if CRYSTALS.ids[9] in crystals.ids else 0] *= 1.0
        return np.where(np.array([[ROW[id] == 9] for id in crystals.ids]), [[np.nan, -np.inf]], values)

    found = isolated(predict, CRYSTALS, TARGETS)
    assert [(t.place, t.message) for t in found.troubles] == [
        (3, "ValueError: the crystal is cursed"),
        (9, "predicted nan for a, -inf for b"),
    ]


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("full"), ResourceError("full")], ids=lambda e: type(e).__name__
)
def test_a_crystal_too_large_for_memory_is_told_from_one_that_fails(error: Exception) -> None:
    def predict(crystals: Crystals) -> Float64:
        if ROW[crystals.ids[0]] == 0:
            raise error
        return values_of(crystals)

    found = isolated(predict, CRYSTALS[:5], TARGETS)
    assert [(t.place, t.reason) for t in found.troubles] == [(0, FailureReason.OUT_OF_MEMORY)]


@pytest.mark.parametrize("error", [BrokenWorkerError("the device is gone"), NativeError("not built")])
def test_what_every_crystal_would_meet_is_raised(error: Exception) -> None:
    def predict(crystals: Crystals) -> Float64:
        raise error

    with pytest.raises(type(error)):
        isolated(predict, CRYSTALS, TARGETS)


def test_values_of_another_shape_are_nobodys_prediction() -> None:
    found = isolated(lambda crystals: np.zeros((len(crystals), 3)), CRYSTALS[:2], TARGETS)
    assert [t.message for t in found.troubles] == [
        "ValueError: the model gave values of shape (1, 3) for 1 crystals"
    ] * 2


def test_long_messages_are_cut() -> None:
    assert said(ValueError()) == "ValueError"
    assert len(said(ValueError("x" * 5000))) == 1000


@given(room=st.integers(23, len(CRYSTALS.numbers) - 1))
def test_a_batch_that_was_too_large_shrinks_the_next_to_what_fits(room: int) -> None:
    def predict(crystals: Crystals) -> Float64:
        if len(crystals.numbers) > room:
            raise torch.OutOfMemoryError("the GPU is full")
        return values_of(crystals)

    told: list[int] = []
    assert isolated(predict, CRYSTALS, TARGETS, shrink=told.append).troubles == []
    assert room / 2 <= min(told) <= room


@pytest.mark.parametrize("giant", [0, 7, 22])
def test_one_crystal_that_is_too_large_alone_shrinks_nothing(giant: int) -> None:
    def predict(crystals: Crystals) -> Float64:
        if giant in [ROW[id] for id in crystals.ids]:
            raise ResourceError("out of memory in the native core")
        return values_of(crystals)

    told: list[int] = []
    found = isolated(predict, CRYSTALS, TARGETS, shrink=told.append)
    assert [(t.place, t.reason) for t in found.troubles] == [(giant, FailureReason.OUT_OF_MEMORY)]
    assert told == []


# --- the machine at fault ---------------------------------------------------------------------------------------

GOOD = Crystals.of([SALT])


def is_good(crystals: Crystals) -> bool:
    return set(crystals.ids) == {SALT.id}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("CUDA error")], ids=str)
def test_where_a_good_crystal_fails_too_no_crystal_is_blamed(error: Exception) -> None:
    calls = 0

    def predict(crystals: Crystals) -> Float64:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise error
        return values_of(crystals)

    proof = Proof(predict, GOOD)
    for _ in range(3):
        assert isolated(predict, CRYSTALS, TARGETS, proof=proof).troubles == []
    with pytest.raises(UnwellMachineError, match=f"{error}; so does what is known to be good: .*{error}"):
        isolated(predict, CRYSTALS, TARGETS, proof=proof)


@pytest.mark.parametrize("full", [True, False])
def test_a_crystal_that_failed_in_a_bad_moment_is_predicted(full: bool) -> None:
    failed: list[int] = []

    def predict(crystals: Crystals) -> Float64:
        if is_good(crystals):
            return np.zeros((len(crystals), 2))
        rows = [ROW[id] for id in crystals.ids]
        if 9 in rows and len(failed) < 6:
            failed.append(len(rows))
            raise torch.OutOfMemoryError("full") if full else RuntimeError("odd")
        return values_of(crystals)

    found = isolated(predict, CRYSTALS, TARGETS, proof=Proof(predict, GOOD))
    assert failed[-1] == 1, "it failed alone"
    assert found.troubles == []
    np.testing.assert_array_equal(found.values, values_of(CRYSTALS).astype(np.float32))


@pytest.mark.parametrize(("atoms", "asked"), [(3, 4), (30, 30), (10**6, 40)])
def test_as_many_atoms_as_failed_are_tried_of_what_is_good_but_no_more_than_have_fitted(atoms: int, asked: int) -> None:
    tried: list[int] = []
    proof = Proof(lambda crystals: tried.append(len(crystals.numbers)), GOOD)
    proof.noted(GOOD.take(np.zeros(20, np.int64)))
    proof.noted(GOOD)
    proof.require(atoms, "full")
    proof.require(0, "odd")
    assert tried == [asked, 2]


def test_what_ends_a_process_is_raised_from_the_proof_too() -> None:
    def predict(crystals: Crystals) -> Float64:
        raise BrokenWorkerError("the device is gone") if is_good(crystals) else RuntimeError("odd")

    with pytest.raises(BrokenWorkerError, match=r"^the device is gone"):
        isolated(predict, CRYSTALS, TARGETS, proof=Proof(predict, GOOD))
