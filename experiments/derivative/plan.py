"""Which runs the study is made of, and in which order: plain data.

The record holds for one study.toml; what is here decides outcomes too, so that a change of a run gives it another name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from screening.pretrained.shipped import POTENTIAL

SIEVE, TRANSFORMER = "sieve", "equivariant_transformer"
SCRATCH = "scratch"
# The production model by its default settings, as it was shipped before this study: it hears the nearest neighbours
# alone, so that no potential can be one.
NEAREST = "scratch-nearest"
# What pre-training learns, as overrides of [forces].
KINDS: Mapping[str, Mapping[str, Any]] = {
    "denoise-head": {"learn": "denoising_by_head"},
    "denoise-derivative": {"learn": "denoising"},
    "E": {"force": 0.0, "stress": 0.0},
    "F": {"energy": 0.0, "stress": 0.0},
    "EFS": {},
}
# Rates that did best in the few epochs of a try, and with which all epochs came to nothing; the report's notes on rates
# say how.
LOST: Mapping[tuple[str, str], Sequence[float]] = {(SIEVE, "F"): (1e-2, 5e-3)}
STARTS: Mapping[str, Sequence[str]] = {
    SIEVE: (NEAREST, SCRATCH, *KINDS, POTENTIAL),
    TRANSFORMER: (SCRATCH, "denoise-derivative", "EFS"),
}
# Start by start, so that an early end leaves whole rows of the tables, and these the most telling ones first.
FIRST = ("EFS", SCRATCH, "denoise-derivative", "denoise-head")
SEEDS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Task:
    """What is fine-tuned on the crystals of its name, `seeds` times from each start.

    Where official folds test it, rates are chosen for each fold by itself: the crystals that choose for one are among
    the test crystals of others. So the runs that try rates are all there are.
    """

    name: str
    targets: Mapping[str, Mapping[str, Any]] = field(hash=False)
    seeds: int = 3
    folds: bool = False


LOG: Mapping[str, Any] = {"scale": "log10", "loss": "l1"}
L1: Mapping[str, Any] = {"loss": "l1"}
PHONONS = Task("phonons", {"last_phdos_peak": L1}, seeds=0, folds=True)
MODULI = Task("moduli", {"bulk_modulus": LOG, "shear_modulus": LOG})
FEW = Task("mp2000", {"formation_energy_per_atom": L1, "band_gap": L1})
# These of the targets of the shipped model, which it learns all.
WHOLE = Task("whole", {"formation_energy_per_atom": L1, "band_gap": L1}, seeds=2)
# What models are fine-tuned on by all their starts, each of which tries all rates on each: one that fits 2,000 crystals
# may not fit 900, and a start that stands it would seem to gain (docs/results.md, "Does pre-training ... help?").
TASKS: Mapping[str, Sequence[Task]] = {SIEVE: (FEW, PHONONS, MODULI), TRANSFORMER: (PHONONS, MODULI)}


@dataclass(frozen=True, slots=True)
class PreTraining:
    """One pre-training run; a short one if it tries a `rate`."""

    kind: str
    architecture: str
    rate: float | None = None

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"pretrain-{self.architecture}-{self.kind}{_tries(self.rate)}"

    @property
    def needs(self) -> None:
        """Nothing: it starts from random weights."""

    @property
    def tried(self) -> float | None:
        """The rate that it tries."""
        return self.rate

    @property
    def is_reported(self) -> bool:
        """Whether what it measures is wanted, and not its model alone."""
        return True

    @property
    def is_potential(self) -> bool:
        """Whether it learns all that labels of energy, force or stress say."""
        return self.rate is None and "learn" not in KINDS[self.kind]


@dataclass(frozen=True, slots=True)
class FineTuning:
    """One run that starts from a pre-trained model, or from nothing; `rate` is one that it tries."""

    task: Task
    kind: str
    architecture: str
    seed: int
    rate: float | None = None

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.task.name}-{self.architecture}-{self.kind}-seed{self.seed}{_tries(self.rate)}"

    @property
    def needs(self) -> PreTraining | None:
        """What it starts from."""
        return PreTraining(self.kind, self.architecture) if self.kind in KINDS else None

    @property
    def tried(self) -> float | None:
        """The rate that it tries."""
        return self.rate

    @property
    def is_reported(self) -> bool:
        """Whether what it measures is wanted, and not its model alone."""
        return True


Run = PreTraining | FineTuning


def _tries(rate: float | None) -> str:
    return "" if rate is None else f"-tries-{rate:g}"


def pretraining_tuning(rates: Mapping[str, Sequence[float]]) -> list[PreTraining]:
    """The runs that try rates of pre-training: each kind all of its model."""
    return [
        PreTraining(kind, architecture, rate)
        for architecture, starts in STARTS.items()
        for kind in starts
        if kind in KINDS
        for rate in rates[architecture]
    ]


def tuning(rates: Mapping[str, Sequence[float]]) -> list[FineTuning]:
    """The runs that try rates of fine-tuning: each start all of them, on each task."""
    return [
        FineTuning(task, kind, architecture, SEEDS[0], rate)
        for architecture, tasks in TASKS.items()
        for task in tasks
        for kind in STARTS[architecture]
        for rate in rates[architecture]
    ]


def planned(
    pretraining_rates: Mapping[str, Sequence[float]], rates: Mapping[str, Sequence[float]], best: Sequence[str] = ()
) -> list[Run]:
    """All runs: the production model, on all crystals too, then the transformer; a start learns forces, then tries.

    `best`: the kinds that are tried on all crystals too, known when the table is.
    """
    found: list[Run] = []
    for architecture, tasks in TASKS.items():
        learning = [run for run in pretraining_tuning(pretraining_rates) if run.architecture == architecture]
        trials = [run for run in tuning(rates) if run.architecture == architecture]
        starts = STARTS[architecture]
        for kind in sorted(starts, key=lambda one: FIRST.index(one) if one in FIRST else len(FIRST)):
            found += [run for run in learning if run.kind == kind]
            found += [PreTraining(kind, architecture)] if kind in KINDS else []
            for task in tasks:
                found += [run for run in trials if (run.task, run.kind) == (task, kind)]
                found += [FineTuning(task, kind, architecture, seed) for seed in SEEDS[: task.seeds]]
        if architecture == SIEVE:
            found += [
                FineTuning(WHOLE, kind, SIEVE, seed)
                for seed in SEEDS[: WHOLE.seeds]
                for kind in (NEAREST, SCRATCH, *best)
            ]
    return found
