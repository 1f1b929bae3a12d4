"""What finished runs measured on the validation crystals, and comparisons within a seed."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tables import BySeed, gains

from multitask.plan import GAP, METAL, PERCENTS, WHOLE, Run, Targets
from multitask.running import GAP_AUC_FILE
from screening.training.recipe import METRICS_FILE

Validation = Literal["random", "formula"]
VALIDATIONS: tuple[Validation, ...] = ("random", "formula")
# What a run calls them: the crystals that choose its epoch, and those of the formulas held out.
PARTS: Mapping[Validation, str] = {"random": "validation", "formula": "test"}


@dataclass(frozen=True, slots=True)
class Measure:
    """One number that a run gives: a metric of a target on one kind of validation."""

    target: str
    metric: str
    validation: Validation


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The numbers of all runs that are finished."""

    values: Mapping[tuple[Run, Measure], float]

    @classmethod
    def read(cls, runs: Iterable[Run], out: Path) -> "Outcomes":
        """Read the metrics of finished runs; one that is not has none."""
        values: dict[tuple[Run, Measure], float] = {}
        for run in runs:
            values |= {(run, measure): value for measure, value in _read_run(run, out / run.name).items()}
        return cls(values)

    def by_seed(self, targets: Targets, percent: int, measure: Measure, *, weight: float = 1.0) -> BySeed:
        """A number of each seed that has it."""
        return {
            run.seed: value
            for (run, own), value in self.values.items()
            if own == measure and (run.targets, run.percent, run.weight) == (targets, percent, weight)
        }

    def gains(
        self, targets: Targets, target: str, validation: Validation, *, percent: int = WHOLE, weight: float = 1.0
    ) -> BySeed:
        """By how many percent learning these targets together lowers the MAE of one of them."""
        mae = Measure(target, "mae", validation)
        alone, together = self.by_seed((target,), percent, mae), self.by_seed(targets, percent, mae, weight=weight)
        return gains(alone, together)

    def mean_gains(self, targets: Targets, validation: Validation, *, weight: float = 1.0) -> BySeed:
        """The mean of the gains of the targets."""
        return joined([self.gains(targets, t, validation, weight=weight) for t in targets], statistics.fmean)

    def rises(self, targets: Targets, alone: Targets, measure: Measure) -> BySeed:
        """By how much a metric is larger when these targets are learned together."""
        found = [self.by_seed(own, WHOLE, measure) for own in (alone, targets)]
        return joined(found, lambda values: values[1] - values[0])

    def equal_percents(self, targets: Targets, validation: Validation, *, percent: int) -> BySeed:
        """The percent of the training set from which single tasks learn as well as these together from `percent`.

        In between the learning curve is a straight line on logarithmic scales, and so beyond its ends. Of several
        targets, the mean of the logarithms of their MAE counts.
        """
        curve: list[BySeed] = [self._errors(((t,) for t in targets), targets, p, validation) for p in PERCENTS]
        together = self._errors((targets for _ in targets), targets, percent, validation)
        return joined([together, *curve], lambda values: percent_on_curve(values[0], values[1:]))

    def _errors(self, sets: Iterable[Targets], targets: Targets, percent: int, validation: Validation) -> BySeed:
        own = zip(sets, targets, strict=True)
        maes = [self.by_seed(learned, percent, Measure(target, "mae", validation)) for learned, target in own]
        return joined(maes, lambda values: statistics.fmean(map(math.log, values)))


def joined(series: Sequence[BySeed], combine: Callable[[Sequence[float]], float]) -> BySeed:
    """Combine numbers seed by seed, for the seeds that have all of them."""
    seeds = set.intersection(*(set(values) for values in series))
    return {seed: combine([values[seed] for values in series]) for seed in sorted(seeds)}


def percent_on_curve(error: float, curve: Sequence[float]) -> float:
    """Where a curve of log errors, one per percentage in `PERCENTS`, has this log error; the curve's ends go on."""
    logs = [math.log(percent) for percent in PERCENTS]
    falls = [k for k in range(len(curve) - 1) if curve[k + 1] < curve[k]]
    if not falls:
        return math.nan
    # The first falling piece that reaches down to the error, else the last.
    k = next((k for k in falls if curve[k + 1] <= error), falls[-1])
    part = (error - curve[k]) / (curve[k + 1] - curve[k])
    return math.exp(logs[k] + part * (logs[k + 1] - logs[k]))


def _read_run(run: Run, folder: Path) -> dict[Measure, float]:
    if not (folder / METRICS_FILE).exists():
        return {}
    metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    found: dict[Measure, float] = {}
    for validation, part in PARTS.items():
        for target, own in metrics[part]["targets"].items():
            found |= {Measure(target, name, validation): float(v) for name, v in own.items() if v is not None}
    if GAP in run.targets and (folder / GAP_AUC_FILE).exists():
        # Named as a metric of the gap: METAL stands for heads that learned the classes themselves.
        areas = json.loads((folder / GAP_AUC_FILE).read_text(encoding="utf-8"))
        found |= {Measure(GAP, "auc", v): float(areas[part]) for v, part in PARTS.items()}
    return found


def auc_measure(targets: Targets, validation: Validation) -> Measure:
    """What tells metals from the rest in a run: the head that learned it, else the gap."""
    return Measure(METAL if METAL in targets else GAP, "auc", validation)
