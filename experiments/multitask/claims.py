"""The claims of the MT-CGCNN paper (arXiv:1811.05660), and whether they hold on these validation crystals.

A claim is a number above a bound. It holds when the mean over seeds, less Student's t times its standard error
(one-sided, 95 %), is above; it does not hold when the mean with that added is below; else the seeds do not decide.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tables import Estimate

from multitask.outcomes import Measure, Outcomes, Validation, auc_measure, joined
from multitask.plan import CLASSIFIED, EVEN, FORMATION, GAP, PAIR, SET_UPS, Targets, short

Verdict = Literal["holds", "does not hold", "undecided"]

# Which published gain belongs to which set-up is not known here.
PUBLISHED_GAINS = (8.3, 3.8, 1.7, 4.4)
PUBLISHED = "8.3, 3.8, 1.7 and 4.4 % in four set-ups"


@dataclass(frozen=True, slots=True)
class Claim:
    """What was claimed, what was measured, in a unit and perhaps somewhere, and the bound that it has to exceed."""

    says: str
    published: str
    measured: Estimate | None
    unit: str
    above: float = 0.0
    digits: int = 1
    where: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether the claim holds."""
        if self.measured is None:
            return "undecided"
        if self.measured.mean - self.measured.margin > self.above:
            return "holds"
        return "does not hold" if self.measured.mean + self.measured.margin < self.above else "undecided"


def claims_of(outcomes: Outcomes, validation: Validation) -> list[Claim]:
    """All claims, on one kind of validation."""
    return [
        *_gains(outcomes, validation),
        _formation_suffers(outcomes, validation),
        _less_is_enough(outcomes, validation),
        *_ranks(outcomes, validation),
        *_classes(outcomes, validation),
    ]


def _gains(outcomes: Outcomes, validation: Validation) -> Iterator[Claim]:
    gains = {targets: outcomes.mean_gains(targets, validation) for targets in SET_UPS}
    over_all = Estimate.of(joined(list(gains.values()), lambda values: sum(values) / len(values)))
    mean, least = sum(PUBLISHED_GAINS) / len(PUBLISHED_GAINS), min(PUBLISHED_GAINS)
    yield Claim("the four set-ups: mean gain in MAE above 0", f"{mean:.1f} %", over_all, "%")
    for targets, values in gains.items():
        yield Claim(f"{short(targets)}: mean gain in MAE above 0", PUBLISHED, Estimate.of(values), "%")
    for targets, values in gains.items():
        says = f"{short(targets)}: mean gain in MAE of {least} % or more"
        yield Claim(says, PUBLISHED, Estimate.of(values), "%", above=least)
    even = outcomes.mean_gains(PAIR, validation, weight=EVEN)
    yield Claim(f"{short(PAIR, EVEN)}: mean gain in MAE above 0", "not tried", Estimate.of(even), "%")


def _formation_suffers(outcomes: Outcomes, validation: Validation) -> Claim:
    """Judged by the set-up with the largest loss, which is chosen by the same numbers: it holds a little too often."""
    losses = {
        targets: Estimate.of({s: -g for s, g in outcomes.gains(targets, FORMATION, validation).items()})
        for targets in SET_UPS
        if FORMATION in targets
    }
    known = {targets: estimate for targets, estimate in losses.items() if estimate is not None}
    says, published = "formation energy gets worse in a set-up: largest loss in MAE above 0", "it does, in some"
    if not known:
        return Claim(says, published, None, "%")
    worst = max(known, key=lambda targets: known[targets].mean)
    return Claim(says, published, known[worst], "%", where=short(worst))


def _less_is_enough(outcomes: Outcomes, validation: Validation) -> Claim:
    says = f"{short(PAIR)} from 50 % of the crystals is as good as single tasks from 60 % or more"
    found = Estimate.of(outcomes.equal_percents(PAIR, validation, percent=50))
    return Claim(says, "about 60 %", found, "% of the crystals", above=60.0)


def _ranks(outcomes: Outcomes, validation: Validation) -> Iterator[Claim]:
    measure = Measure(FORMATION, "spearman", validation)
    for targets in SET_UPS:
        if FORMATION in targets:
            found = Estimate.of(outcomes.rises(targets, (FORMATION,), measure))
            says = f"{short(targets)}: Spearman's rank correlation of formation energy rises"
            yield Claim(says, "it rises", found, "", digits=5)


def _classes(outcomes: Outcomes, validation: Validation) -> Iterator[Claim]:
    tried: list[tuple[Targets, Targets, str]] = [
        (targets, (GAP,), "the predicted gap") for targets in SET_UPS if GAP in targets
    ]
    for targets, alone, by in [*tried, (CLASSIFIED[1], CLASSIFIED[0], "a head for the classes")]:
        found = Estimate.of(outcomes.rises(targets, alone, auc_measure(targets, validation)))
        yield Claim(f"{short(targets)}: AUC of metals by {by} rises", "it rises", found, "", digits=5)
