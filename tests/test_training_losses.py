"""Losses, normalisers and metrics: missing labels count nowhere, values agree with scipy and with sums by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from screening.errors import InputError
from screening.predictions import Target
from screening.training.config import LossName
from screening.training.losses import TargetLoss, masked_loss
from screening.training.metrics import auc, finite_or_none, r2, ranks, spearman, target_metrics
from screening.training.normalise import Normaliser

NAN = math.nan
ENERGY = Target("formation_energy_per_atom", "eV/atom")
METAL = Target("is_metal", "1", "classification")
BULK = Target("bulk_modulus", "GPa", scale="log10")
# Few distinct values, so that ties are common.
VALUES = arrays.arrays(np.float64, st.integers(2, 30), elements=st.integers(-5, 5).map(float))


def tensor(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (TargetLoss(LossName.MSE), (0.25 + 4.0) / 2),
        (TargetLoss(LossName.L1), (0.5 + 2.0) / 2),
        (TargetLoss(LossName.HUBER, delta=1.0), (0.125 + 1.5) / 2),
        (TargetLoss(LossName.SMOOTH_L1, delta=0.5), (0.25 + 1.75) / 2),
    ],
)
def test_losses_by_hand(loss: TargetLoss, expected: float) -> None:
    parts = masked_loss(tensor([[0.5], [3.0], [9.0]]), tensor([[0.0], [1.0], [NAN]]), [loss])
    assert float(parts.total) == pytest.approx(expected)
    assert parts.counts.tolist() == [2]


def test_cross_entropy_by_hand() -> None:
    parts = masked_loss(tensor([[0.0], [2.0]]), tensor([[1.0], [0.0]]), [TargetLoss(LossName.BCE)])
    assert float(parts.total) == pytest.approx((math.log(2) + math.log1p(math.exp(2))) / 2)


def test_weights_are_relative_and_rare_labels_count_by_their_own_mean() -> None:
    losses = [TargetLoss(LossName.L1, weight=3.0), TargetLoss(LossName.L1, weight=1.0)]
    outputs, labels = tensor([[1.0, 2.0], [3.0, 0.0]]), tensor([[0.0, 0.0], [0.0, NAN]])
    assert float(masked_loss(outputs, labels, losses).total) == pytest.approx((3 * 2.0 + 1 * 2.0) / 4)


@pytest.mark.parametrize("name", list(LossName))
@pytest.mark.parametrize("hidden", [NAN, math.inf, 1e300])
def test_what_stands_at_a_missing_label_changes_nothing(name: LossName, hidden: float) -> None:
    labels = tensor([[1.0], [NAN], [0.0]])
    found = []
    for value in (0.3, hidden):
        outputs = tensor([[0.2], [value], [-0.4]]).requires_grad_()
        total = masked_loss(outputs, labels, [TargetLoss(name)]).total
        (gradient,) = torch.autograd.grad(total, outputs)
        found.append((float(total.detach()), gradient.tolist()))
    assert found[0] == found[1]
    assert found[0][1][1] == [0.0]


def test_a_batch_without_any_label_has_no_loss_and_no_gradient() -> None:
    outputs = tensor([[1.0], [2.0]]).requires_grad_()
    parts = masked_loss(outputs, tensor([[NAN], [NAN]]), [TargetLoss(LossName.MSE)])
    (gradient,) = torch.autograd.grad(parts.total, outputs)
    assert float(parts.total.detach()) == 0.0
    assert gradient.tolist() == [[0.0], [0.0]]


def test_the_normaliser_measures_what_is_there() -> None:
    labels = np.array([[1.0, 0.0, 10.0], [3.0, 1.0, NAN], [NAN, 1.0, 1000.0]])
    targets = (ENERGY, METAL, BULK)
    normaliser = Normaliser.fit(labels, targets)
    np.testing.assert_allclose(normaliser.mean, [2.0, 0.0, 2.0])
    np.testing.assert_allclose(normaliser.std, [1.0, 1.0, 1.0])
    normal = normaliser.normalise(labels)
    np.testing.assert_allclose(normal, [[-1, 0, -1], [1, 1, NAN], [NAN, 1, 1]])


def test_a_label_without_a_logarithm_counts_as_missing() -> None:
    normaliser = Normaliser.fit(np.array([[10.0], [1000.0], [-5.0], [0.0]]), (BULK,))
    assert normaliser.mean.tolist() == pytest.approx([2.0])
    assert np.isnan(normaliser.normalise(np.array([[-5.0]]))).all()


def test_a_target_that_cannot_be_learned_is_named() -> None:
    with pytest.raises(InputError, match=r"has a label formation_energy_per_atom, the files have a, b; remove"):
        Normaliser.fit(np.array([[NAN], [NAN]]), (ENERGY,), {"b", "a"})
    with pytest.raises(InputError, match=r"has a label bad_gap, the files have no labels; did you mean band_gap\?"):
        Normaliser.fit(np.array([[NAN], [NAN]]), (Target("bad_gap", ""),))
    with pytest.raises(InputError, match=r"all 2 training labels is_metal are 1\.0"):
        Normaliser.fit(np.array([[1.0], [1.0], [NAN]]), (METAL,))


@given(VALUES)
def test_ranks_agree_with_scipy(values: np.ndarray) -> None:
    np.testing.assert_array_equal(ranks(values), stats.rankdata(values))


@given(VALUES, st.integers(0, 99))
def test_spearman_agrees_with_scipy(values: np.ndarray, seed: int) -> None:
    others = np.random.default_rng(seed).integers(0, 4, len(values)).astype(float)
    if np.ptp(values) == 0 or np.ptp(others) == 0:
        assert math.isnan(spearman(values, others))
    else:
        assert spearman(values, others) == pytest.approx(float(stats.spearmanr(values, others)[0]), abs=1e-12)


@given(VALUES, st.integers(0, 99))
def test_auc_is_the_chance_of_the_right_order(scores: np.ndarray, seed: int) -> None:
    classes = np.random.default_rng(seed).integers(0, 2, len(scores)).astype(float)
    positive, negative = scores[classes == 1], scores[classes == 0]
    if len(positive) == 0 or len(negative) == 0:
        assert math.isnan(auc(scores, classes))
        return
    pairs = positive[:, None] - negative[None, :]
    assert auc(scores, classes) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_metrics_of_a_regression_by_hand() -> None:
    found = target_metrics(np.array([1.0, 2.0, 5.0, 7.0]), np.array([1.0, 3.0, 3.0, NAN]), ENERGY)
    assert found["count"] == 3
    assert found["mae"] == pytest.approx(1.0)
    assert found["rmse"] == pytest.approx(math.sqrt(5 / 3))
    assert found["r2"] == pytest.approx(1 - 5 / (8 / 3))
    assert found["spearman"] == pytest.approx(stats.spearmanr([1, 2, 5], [1, 3, 3])[0])
    assert "auc" not in found


def test_metrics_of_a_classification_by_hand() -> None:
    found = target_metrics(np.array([0.9, 0.4, 0.2, 0.6]), np.array([1.0, 1.0, 0.0, NAN]), METAL)
    assert found == {
        "count": 3,
        "mae": pytest.approx(0.9 / 3),
        "rmse": pytest.approx(math.sqrt((0.01 + 0.36 + 0.04) / 3)),
        "auc": 1.0,
        "accuracy": pytest.approx(2 / 3),
        "positives": 2,
    }


def test_a_log_target_is_measured_on_both_scales() -> None:
    found = target_metrics(np.array([100.0, 10.0]), np.array([10.0, 10.0]), BULK)
    assert found["mae"] == pytest.approx(45.0)
    assert found["mae_log10"] == pytest.approx(0.5)


def test_metrics_that_are_not_defined_are_null() -> None:
    none = np.array([NAN])
    found = finite_or_none({"a": target_metrics(np.array([1.0]), none, ENERGY)})["a"]
    assert found == {"count": 0, "mae": None, "rmse": None, "r2": None, "spearman": None}
    assert math.isnan(r2(np.array([1.0, 2.0]), np.array([1.0, 1.0])))
    assert math.isnan(spearman(np.array([1.0]), np.array([1.0])))


def test_a_prediction_that_overflows_makes_no_broken_json() -> None:
    found = finite_or_none({"a": target_metrics(np.array([math.inf, 10.0]), np.array([10.0, 20.0]), BULK)})["a"]
    assert (found["mae"], found["rmse"], found["count"]) == (None, None, 2)
