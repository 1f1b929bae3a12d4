"""Which encoders and runs the study is made of, and in which order: plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from crysgnn.settings import StudySettings

Mode = Literal["vanilla", "fine-tuned", "distilled", "taught"]
Part = Literal["subset", "whole", "fifth", "moduli", "phonons"]

# What is compared everywhere; runs are taught by predictions on a fifth of the labels alone.
MODES: tuple[Mode, ...] = ("vanilla", "fine-tuned", "distilled")
FORMATION, GAP, BULK, SHEAR = "formation_energy_per_atom", "band_gap", "bulk_modulus", "shear_modulus"
PHONONS = "last_phdos_peak"
SHORT = {FORMATION: "formation", GAP: "gap", BULK: "bulk", SHEAR: "shear", PHONONS: "phonons"}
TARGETS: dict[Part, tuple[tuple[str, ...], ...]] = {
    "subset": ((FORMATION, GAP),),
    "whole": ((FORMATION, GAP),),
    "fifth": ((FORMATION, GAP),),
    "moduli": ((BULK, SHEAR),),
    "phonons": ((PHONONS,),),
}
ASPECTS = ("nodes", "connectivity", "space_group", "contrast")
# Compared on more than the subset: the paper's student, and this project's own model.
LARGE = ("cgcnn", "sieve")
LARGE_PARTS: tuple[Part, ...] = ("phonons", "moduli", "fifth", "whole")
# Parts with runs of half an hour of a core, and an architecture that is ten times slower than CGCNN.
LONG = ("fifth", "whole")
SLOWEST = "alignn"
# Factors of the rate that are tried on parts too which have fewer or more crystals than that on which rates are tuned,
# so that a gain is told from a rate that does not fit: `sieve` is tuned far from its usual rate. On all crystals it is
# compared at the usual one by the recipe of the shipped model, experiments/shipped/sieve.toml.
CONTROLS: Mapping[tuple[Part, str], tuple[float, ...]] = {
    ("phonons", "sieve"): (1.0, 2.0, 4.0),
    ("moduli", "sieve"): (1.0, 2.0, 4.0),
    ("whole", "cgcnn"): (0.5, 2.0),
}
# Whose predictions teach.
TEACHING = "sieve"
# Whose rates and weights are tuned: all but the slowest, which learns at the rate of its settings, and takes the first
# one's alpha and rate of the encoder.
TUNED = (*LARGE, "crysxpp", "gatgnn")


@dataclass(frozen=True, slots=True)
class Encoder:
    """A pre-training run: of an architecture (`teacher` is a deeper CGCNN), on a pool of crystals, of some aspects."""

    architecture: str
    pool: str
    aspects: tuple[str, ...] = ASPECTS
    masked: bool = True

    @property
    def name(self) -> str:
        """Name of its folder."""
        what = "all" if self.aspects == ASPECTS else "+".join(self.aspects)
        return f"encoder-{self.architecture}-{self.pool}-{what}{'' if self.masked else '-unmasked'}"

    @property
    def needs(self) -> None:
        """Nothing: it starts from random weights."""

    @property
    def tried(self) -> None:
        """Nothing: it learns as the settings say."""

    @property
    def is_reported(self) -> bool:
        """Whether what it measures is wanted, and not its model alone."""
        return False


@dataclass(frozen=True, slots=True)
class Run:
    """A training run. `tried` is what a tuning run tries: a factor of the rate, of the encoder's rate, or alpha.

    `factor` is of the rate, instead of the one that tuning found.
    """

    part: Part
    architecture: str
    mode: Mode
    targets: tuple[str, ...]
    seed: int
    encoder: Encoder | None = None
    tried: float | None = None
    factor: float | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        of = "+".join(SHORT[target] for target in self.targets)
        by = "" if self.encoder is None else f"-{self.encoder.name.removeprefix('encoder-')}"
        tried = "" if self.tried is None else f"-tries-{self.tried:g}"
        factor = "" if self.factor is None else f"-rate{self.factor:g}"
        return f"{self.part}-{self.architecture}-{self.mode}{by}-{of}-seed{self.seed}{tried}{factor}"

    @property
    def needs(self) -> "Encoder | Run | None":
        """What it starts from, or learns from: of predictions the run that learned the same fifth of the labels."""
        if self.mode == "taught":
            return Run(self.part, TEACHING, "vanilla", self.targets, self.seed)
        return self.encoder

    @property
    def is_reported(self) -> bool:
        """Whether what it measures is wanted, and not its model alone."""
        return True


def encoders(study: StudySettings) -> list[Encoder]:
    """All encoders, those that most runs need first."""
    return [*(Encoder(name, study.pool) for name in ("teacher", *study.architectures)), *ablated(study)]


def ablated(study: StudySettings) -> list[Encoder]:
    """The teachers of the ablation: of one aspect each, unmasked, of other pools."""
    alone = [Encoder("teacher", study.pool, (aspect,)) for aspect in ASPECTS]
    unmasked = [Encoder("teacher", study.pool, masked=False)]
    pools = [Encoder("teacher", pool) for pool in study.crystals.pools if pool != study.pool]
    return [*alone, *unmasked, *pools]


def tuning(study: StudySettings) -> list[Run]:
    """What is tried: on the subset, one seed."""
    tried = {
        "vanilla": study.tuning.rates,
        "fine-tuned": study.tuning.encoder_rates,
        "distilled": study.tuning.alphas,
    }
    return [
        Run("subset", name, mode, targets, study.seeds[0], encoder_of(name, mode, study), value)
        for mode in MODES
        for name in TUNED
        for targets in TARGETS["subset"]
        for value in tried[mode]
    ]


def controls(study: StudySettings) -> list[Run]:
    """The runs at other rates, one seed."""
    return [
        Run(part, name, mode, targets, study.whole_seeds[0], encoder_of(name, mode, study), factor=factor)
        for (part, name), factors in CONTROLS.items()
        for targets in TARGETS[part]
        for factor in factors
        for mode in MODES
    ]


def taught(study: StudySettings) -> list[Run]:
    """The runs that have a fifth of the labels, and beside them predictions of all training crystals."""
    return [
        Run("fifth", name, "taught", targets, seed)
        for seed in study.seeds
        for name in LARGE
        for targets in TARGETS["fifth"]
    ]


def runs(study: StudySettings) -> list[Run]:
    """What the three modes are compared by: the subset, the ablation, then the larger parts, a seed before the next."""
    subset = [
        Run("subset", name, mode, targets, seed, encoder_of(name, mode, study))
        for seed in study.seeds
        for name in study.architectures
        for targets in TARGETS["subset"]
        for mode in MODES
    ]
    ablation = [
        Run("subset", "cgcnn", "distilled", targets, seed, encoder)
        for encoder in ablated(study)
        for seed in study.seeds
        for targets in TARGETS["subset"]
    ]
    large = [
        Run(part, name, mode, targets, seed, encoder_of(name, mode, study))
        for part in LARGE_PARTS
        for seed in study.whole_seeds
        for name in LARGE
        for targets in TARGETS[part]
        for mode in MODES
    ]
    return [*subset, *ablation, *large]


def encoder_of(architecture: str, mode: Mode, study: StudySettings) -> Encoder | None:
    """The encoder that a run starts from, or learns from."""
    if mode in ("vanilla", "taught"):
        return None
    return Encoder("teacher" if mode == "distilled" else architecture, study.pool)


def every(study: StudySettings) -> Sequence[Encoder | Run]:
    """All of the study, in order: small tables first, an encoder of the ablation right before its runs."""
    alone = ablated(study)
    planned = runs(study)
    plan: list[Encoder | Run] = [*(one for one in encoders(study) if one not in alone), *tuning(study)]
    plan += [run for run in planned if run.part == "subset" and run.encoder not in alone]
    for encoder in alone:
        plan += [encoder, *(run for run in planned if run.encoder == encoder)]
    plan += [*(run for run in planned if run.part != "subset"), *taught(study), *controls(study)]
    # The sort is stable: what keeps the order within each of the three.
    return sorted(plan, key=lambda one: (_is_long(one), one.architecture == SLOWEST))


def _is_long(one: Encoder | Run) -> bool:
    return isinstance(one, Run) and one.part in LONG
