"""Pictures of a run: how the losses and metrics went, and predictions against labels. PNG, drawn without a display."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from screening.arrays import Float64
from screening.files.whole import write_whole
from screening.predictions import Target
from screening.training.metrics import auc

Scale = Literal["linear", "log"]

PANEL_INCHES = 3.6
# Above this many points, a density says more than points that hide each other.
MOST_POINTS = 3000


def draw_curves(journal: Sequence[Mapping[str, Any]], targets: Sequence[Target], path: Path) -> None:
    """Draw loss by epoch, and for each target its error (a class: its AUC) on the validation crystals.

    A target that was learned by other numbers than its labels, as an energy by its slopes, has no error of its own.
    """
    validated = [entry for entry in journal if "validation" in entry]
    targets = [t for t in targets if all(t.name in entry["validation"].get("targets", {}) for entry in validated)]
    figure, panels = _panels(1 + len(targets) if validated else 1)
    loss = panels[0]
    loss.plot([e["epoch"] for e in journal], [e["train"]["loss"] for e in journal], label="training")
    if validated:
        epochs = [e["epoch"] for e in validated]
        loss.plot(epochs, [e["validation"]["loss"] for e in validated], label="validation")
        for panel, target in zip(panels[1:], targets, strict=False):
            metric = "auc" if target.kind == "classification" else "mae"
            values = [e["validation"]["targets"][target.name][metric] for e in validated]
            panel.plot(epochs, [np.nan if value is None else value for value in values])
            panel.set(xlabel="epoch", title=_short(target), ylabel="AUC" if metric == "auc" else f"MAE ({target.unit})")
    loss.set(xlabel="epoch", title="loss", yscale="log" if _positive(journal) else "linear")
    loss.legend(frameon=False)
    _save(figure, path)


def draw_parity(predicted: Mapping[str, Float64], labels: Float64, targets: Sequence[Target], path: Path) -> None:
    """Draw predictions against labels (crystals, targets), a panel each; a receiver operating curve for a class."""
    figure, panels = _panels(len(targets))
    for t, (panel, target) in enumerate(zip(panels, targets, strict=True)):
        present = ~np.isnan(labels[:, t]) & np.isfinite(predicted[target.name])
        ours, right = predicted[target.name][present], labels[present, t]
        if target.kind == "classification":
            _roc(panel, ours, right, target)
        else:
            _parity(panel, ours, right, target)
    _save(figure, path)


def _parity(panel: Axes, ours: Float64, right: Float64, target: Target) -> None:
    if target.scale == "log10":
        shown = (right > 0.0) & (ours > 0.0)
        ours, right = ours[shown], right[shown]
        panel.set(xscale="log", yscale="log")
    if len(right) > MOST_POINTS:
        scale: Scale = "log" if target.scale == "log10" else "linear"
        panel.hexbin(right, ours, gridsize=80, bins="log", mincnt=1, xscale=scale, yscale=scale, linewidths=0.1)
    else:
        panel.plot(right, ours, ".", markersize=2.5, alpha=0.5)
    if len(right):
        ends = [min(right.min(), ours.min()), max(right.max(), ours.max())]
        panel.plot(ends, ends, color="black", linewidth=0.8)
        panel.set_title(f"{_short(target)}: MAE {np.abs(ours - right).mean():.3g}")
    panel.set(xlabel=f"label ({target.unit or 'unknown unit'})", ylabel="predicted")


def _roc(panel: Axes, scores: Float64, classes: Float64, target: Target) -> None:
    order = np.argsort(-scores, kind="stable")
    hits = classes[order] == 1.0
    true, false = np.cumsum(hits) / max(hits.sum(), 1), np.cumsum(~hits) / max((~hits).sum(), 1)
    panel.plot(np.concatenate([[0.0], false]), np.concatenate([[0.0], true]))
    panel.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    panel.set(xlabel="false positive rate", ylabel="true positive rate")
    panel.set_title(f"{_short(target)}: AUC {auc(scores, classes):.3f}")


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(PANEL_INCHES * columns, PANEL_INCHES * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def _positive(journal: Sequence[Mapping[str, Any]]) -> bool:
    losses = [entry[part]["loss"] for entry in journal for part in ("train", "validation") if part in entry]
    return bool(losses) and min(losses) > 0.0


def _short(target: Target) -> str:
    return target.name.replace("_per_atom", "").replace("_", " ")


def _save(figure: Figure, path: Path) -> None:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_whole(path, [image.getbuffer()])
