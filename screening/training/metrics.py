"""How good predictions are: per target, over the crystals that have a label; NaN where a metric is not defined."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from screening.arrays import Float64
from screening.predictions import Target

Metrics = dict[str, float]

# More of these is better; of every other metric less.
UPWARDS = frozenset({"r2", "spearman", "auc", "accuracy", "accuracy_5", "recall"})


def target_metrics(predicted: Float64, labels: Float64, target: Target) -> Metrics:
    """Measure one target, (crystals,) each, in its unit; probabilities and classes for a classification."""
    present = ~np.isnan(labels)
    ours, right = predicted[present], labels[present]
    found: Metrics = {
        "count": len(right),
        "mae": _mean(np.abs(ours - right)),
        "rmse": math.sqrt(_mean((ours - right) ** 2)),
    }
    if target.kind == "classification":
        hits = (ours >= 0.5) == (right == 1.0)
        return found | {"auc": auc(ours, right), "accuracy": _mean(hits), "positives": int((right == 1.0).sum())}
    found |= {"r2": r2(ours, right), "spearman": spearman(ours, right)}
    if target.scale == "log10":
        both = (ours > 0.0) & (right > 0.0)
        found["mae_log10"] = _mean(np.abs(np.log10(ours[both]) - np.log10(right[both])))
    return found


def all_metrics(predicted: Mapping[str, Float64], labels: Float64, targets: Sequence[Target]) -> dict[str, Metrics]:
    """Measure every target against its column of the labels (crystals, targets)."""
    return {
        target.name: target_metrics(predicted[target.name], labels[:, t], target) for t, target in enumerate(targets)
    }


def r2(predicted: Float64, labels: Float64) -> float:
    """The part of the labels' variance that is explained: 1 - squared error / variance."""
    spread = ((labels - labels.mean()) ** 2).sum() if len(labels) else 0.0
    return 1.0 - float(((predicted - labels) ** 2).sum() / spread) if spread > 0.0 else math.nan


def spearman(predicted: Float64, labels: Float64) -> float:
    """The correlation of ranks; equal values share the mean of their ranks."""
    if len(labels) < 2:
        return math.nan
    a, b = ranks(predicted), ranks(labels)
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0.0 else math.nan


def auc(scores: Float64, classes: Float64) -> float:
    """The probability that a crystal of class 1 scores above one of class 0, ties counted half."""
    positive = classes == 1.0
    p, n = int(positive.sum()), int((~positive).sum())
    if p == 0 or n == 0:
        return math.nan
    return (float(ranks(scores)[positive].sum()) - p * (p + 1) / 2) / (p * n)


def ranks(values: Float64) -> Float64:
    """Ranks from 1 on; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    shared: Float64 = (ends - (counts - 1) / 2)[place]
    return shared


def finite_or_none(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Metrics as JSON can hold them: null where a metric is not defined or not finite."""
    return {
        name: {key: value if math.isfinite(value) else None for key, value in found.items()}
        for name, found in metrics.items()
    }


def _mean(values: npt.NDArray[np.generic]) -> float:
    return float(values.astype(np.float64).mean()) if len(values) else math.nan
