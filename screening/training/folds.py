"""What several runs of one configuration, one per fold, say together."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Found = Mapping[str, Mapping[str, float | None]]


def summary_of(folds: Sequence[Found]) -> dict[str, Any]:
    """Metrics of each fold, and their mean and standard deviation over the folds in which they are defined."""
    names = {name: list(metrics) for name, metrics in folds[0].items()}
    targets = {
        name: {metric: _spread([fold[name][metric] for fold in folds]) for metric in metrics}
        for name, metrics in names.items()
    }
    return {"folds": len(folds), "targets": targets}


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    defined = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(defined) if defined else None,
        "std": statistics.stdev(defined) if len(defined) > 1 else None,
        "each": list(values),
    }
