"""Labels as a model learns them: log10 where the target asks for it, then shifted and scaled to mean 0 and deviation 1.

Fitted to the training labels that are there. Classes stay 0 and 1.
"""

import difflib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from screening.arrays import Float64
from screening.crystals.labels import TARGETS
from screening.errors import InputError
from screening.predictions import Target


@dataclass(frozen=True, slots=True, eq=False)
class Normaliser:
    """Per target the mean and deviation of what is learned, (targets,)."""

    targets: tuple[Target, ...]
    mean: Float64
    std: Float64

    @classmethod
    def fit(cls, labels: Float64, targets: tuple[Target, ...], held: Collection[str] = ()) -> "Normaliser":
        """Measure the labels (crystals, targets) of the training set; each target needs two different ones.

        An error names the labels that the files `held`, asked for or not.
        """
        learned = learned_labels(labels, targets)
        columns = [_measured(learned[:, t], target, held) for t, target in enumerate(targets)]
        return cls(targets, np.array([mean for mean, _ in columns]), np.array([std for _, std in columns]))

    def normalise(self, labels: Float64) -> Float64:
        """Turn labels in units into what the model's heads give; missing ones stay missing."""
        normal: Float64 = (learned_labels(labels, self.targets) - self.mean) / self.std
        return normal


def learned_labels(labels: Float64, targets: tuple[Target, ...]) -> Float64:
    """Labels on the scale on which they are learned; what has no logarithm counts as missing."""
    learned = labels.copy()
    for t, target in enumerate(targets):
        if target.scale == "log10":
            positive = labels[:, t] > 0.0
            learned[:, t] = np.log10(labels[:, t], out=np.full(len(labels), np.nan), where=positive)
    return learned


def held_labels(held: Collection[str]) -> str:
    """Say which labels there are in the files, if not those that were asked for."""
    return f"the files have {', '.join(sorted(held)) or 'no labels'}"


def _measured(learned: Float64, target: Target, held: Collection[str]) -> tuple[float, float]:
    present = learned[~np.isnan(learned)]
    if len(present) == 0:
        known = [one.name for one in TARGETS]
        near = [] if target.name in known else difflib.get_close_matches(target.name, known, n=1)
        cure = f"did you mean {near[0]}?" if near else "remove the target or give labels"
        raise InputError(f"no training crystal has a label {target.name}, {held_labels(held)}; {cure}")
    if len(np.unique(present)) == 1:
        raise InputError(f"all {len(present)} training labels {target.name} are {present[0]}; nothing can be learned")
    if target.kind == "classification":
        return 0.0, 1.0
    return float(present.mean()), float(present.std())
