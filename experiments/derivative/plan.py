"""Which runs the study is made of, and in which order: plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SIEVE, TRANSFORMER = "sieve", "equivariant_transformer"
SCRATCH = "scratch"
# What pre-training learns, as overrides of [forces].
KINDS: Mapping[str, Mapping[str, Any]] = {
    "denoise-head": {"learn": "denoising_by_head"},
    "denoise-derivative": {"learn": "denoising"},
    "E": {"force": 0.0, "stress": 0.0},
    "F": {"energy": 0.0, "stress": 0.0},
    "EFS": {},
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    SIEVE: {"cutoff": 5.0, "max_neighbors": "all"},
    TRANSFORMER: {"cutoff": 5.0},
}
SEEDS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Task:
    """What is fine-tuned on the crystals of its name, `seeds` times from each start; whether official folds test it."""

    name: str
    targets: Mapping[str, Mapping[str, Any]] = field(hash=False)
    seeds: int = 3
    folds: bool = False


LOG: Mapping[str, Any] = {"scale": "log10", "loss": "l1"}
L1: Mapping[str, Any] = {"loss": "l1"}
PHONONS = Task("phonons", {"last_phdos_peak": L1}, seeds=1, folds=True)
MODULI = Task("moduli", {"bulk_modulus": LOG, "shear_modulus": LOG})
FEW = Task("mp2000", {"formation_energy_per_atom": L1, "band_gap": L1})
WHOLE = Task("whole", {"formation_energy_per_atom": L1, "band_gap": L1}, seeds=1)


@dataclass(frozen=True, slots=True)
class PreTraining:
    """One pre-training run."""

    kind: str
    architecture: str

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"pretrain-{self.architecture}-{self.kind}"

    @property
    def has_labels(self) -> bool:
        """Whether it learns from labels of energy, force or stress, so that it is a potential."""
        return "learn" not in KINDS[self.kind]


@dataclass(frozen=True, slots=True)
class FineTuning:
    """One run that starts from a pre-trained model, or from nothing."""

    task: Task
    kind: str
    architecture: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.task.name}-{self.architecture}-{self.kind}-seed{self.seed}"

    @property
    def needs(self) -> PreTraining | None:
        """What it starts from."""
        return None if self.kind == SCRATCH else PreTraining(self.kind, self.architecture)


Run = PreTraining | FineTuning


def planned(best: Sequence[str] = ()) -> list[Run]:
    """All runs: pre-training, then the production model's table, then the transformer's, then all crystals.

    `best`: the kinds that are tried on all crystals too, known when the table is.
    """
    starts = (SCRATCH, *KINDS)
    table = [
        FineTuning(task, kind, SIEVE, seed)
        for task in (PHONONS, MODULI, FEW)
        for seed in SEEDS[: task.seeds]
        for kind in starts
    ]
    few = [
        FineTuning(task, kind, TRANSFORMER, seed)
        for task in (PHONONS, MODULI)
        for seed in SEEDS[: task.seeds]
        for kind in (SCRATCH, "denoise-derivative", "EFS")
    ]
    whole = [FineTuning(WHOLE, kind, SIEVE, 0) for kind in (SCRATCH, *best)]
    return [
        *(PreTraining(kind, SIEVE) for kind in KINDS),
        *table,
        *(PreTraining(kind, TRANSFORMER) for kind in ("denoise-derivative", "EFS")),
        *few,
        *whole,
    ]
