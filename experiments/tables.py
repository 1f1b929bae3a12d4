"""Tables in Markdown for the reports of studies, and what is in their cells: means over seeds, gains between them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# A number of each seed, or of each fold, that has it.
BySeed = dict[int, float]
DASH = "-"
# Student's t for a one-sided 95 %, by degrees of freedom from 1 on.
T_95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its standard error, which one seed does not have."""

    mean: float
    error: float | None
    seeds: int

    @classmethod
    def of(cls, values: Mapping[int, float]) -> "Estimate | None":
        """Estimate from the numbers of seeds; None when there are none."""
        if not values:
            return None
        numbers = list(values.values())
        error = statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else None
        return cls(statistics.fmean(numbers), error, len(numbers))

    @property
    def margin(self) -> float:
        """What lies between the mean and a one-sided 95 % bound: Student's t times the error."""
        return math.inf if self.error is None else T_95[min(self.seeds - 2, len(T_95) - 1)] * self.error


def gains(before: BySeed, after: BySeed) -> BySeed:
    """By how many percent errors are lower, seed by seed, for the seeds that have both."""
    return {seed: 100.0 * (1.0 - after[seed] / before[seed]) for seed in sorted(before.keys() & after.keys())}


def shown(estimate: Estimate | None, mean: str = "{:.4g}", error: str = "{:.2g}", unit: str = "") -> str:
    """A mean with its standard error, each as its format says; a dash where there is none."""
    if estimate is None:
        return DASH
    after = "" if estimate.error is None else f" ± {error.format(estimate.error)}"
    return f"{mean.format(estimate.mean)}{after} {unit}".rstrip()


def fixed(estimate: Estimate | None, digits: int, unit: str = "") -> str:
    """The same with so many digits after the point."""
    return shown(estimate, f"{{:.{digits}f}}", f"{{:.{digits}f}}", unit)


def gain(before: BySeed, after: BySeed) -> str:
    """The mean of the gains with its standard error."""
    return shown(Estimate.of(gains(before, after)), "{:+.1f} %", "{:.1f}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """A table in Markdown; with numbers, all columns but the first are aligned to the right."""
    rule = ["---", *("---:" if numbers else "---" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
