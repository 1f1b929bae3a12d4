"""Doing the study: each encoder and each run in its folder, finished ones left alone, an interrupted one continued."""

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from studies import FAILED_FILE, State, attempt, work_through
from tuned import Tuned

from crysgnn.crystals import UNLABELLED, make_files, pool_files
from crysgnn.plan import ASPECTS, TUNED, Encoder, Mode, Run, every, tuning
from crysgnn.settings import ArchitectureSettings, StudySettings
from screening.config import validated
from screening.training.config import RunSettings, TrainingConfig
from screening.training.distillation_config import DistillationConfig
from screening.training.material import Listener
from screening.training.pretraining_config import PretrainingConfig
from screening.training.recipe import FOLDS_FILE, METRICS_FILE, train

CRYSTALS = "crystals"
# What says that a run has ended, and how.
OUTCOMES = (METRICS_FILE, FOLDS_FILE, FAILED_FILE)
# What it measured: by which validation crystals the epoch of each official fold was chosen too.
MEASURED = (*OUTCOMES, *(f"fold-{fold}/{METRICS_FILE}" for fold in range(5)))


def tuned(study: StudySettings, out: Path) -> Tuned[Encoder | Run]:
    """The runs of the study in its folder."""
    return Tuned(
        out=out,
        plan=cache(lambda: every(study)),
        outcomes=_outcomes,
        errors=lambda one: metrics_of(one, out),
        tried_for=lambda one: _tried_for(one, study),
        config_of=lambda one: config_of(one, study, out),
        ends=OUTCOMES,
    )


def state_of(one: Encoder | Run, study: StudySettings, out: Path) -> State:
    """How far one is."""
    return tuned(study, out).state(one)


def run_all(
    plan: Sequence[Encoder | Run],
    study: StudySettings,
    out: Path,
    listener: Listener,
    *,
    subset: set[str],
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Do what is not finished; tell whether all has ended. A run that diverges is noted, and the others go on."""
    runs = tuned(study, out)

    def learn(config: RunSettings, folder: Path) -> None:
        train(config, folder, listener)

    def do(one: Encoder | Run) -> None:
        make_files(study, out / CRYSTALS, listener.say, subset=subset)
        attempt(lambda: runs.do(one, learn, listener), out / one.name, listener)

    return work_through(lambda: plan, runs.state, do, out, listener, budget_s=budget_s, clock=clock)


def config_of(one: Encoder | Run, study: StudySettings, out: Path) -> RunSettings:
    """The configuration of a run: `screening pretrain`, `train` or `distil` with it gives the same."""
    if isinstance(one, Encoder):
        return _pretraining(one, study, out)
    table = _training(one, study, out)
    if one.mode == "distilled":
        assert one.encoder is not None, "somebody teaches"
        alpha = _chosen(one, study, out)
        table["distillation"] = {"teacher": str(out / one.encoder.name), "alpha": alpha}
        table["cache"] = str(out / CRYSTALS / "teachers")
        return validated(DistillationConfig, table, origin=one.name)
    if one.mode == "taught":
        assert one.needs is not None, "somebody teaches"
        crystals = str(out / CRYSTALS / UNLABELLED)
        table["predictions"] = {"teachers": [str(out / one.needs.name)], "crystals": [crystals]}
        table["cache"] = str(out / CRYSTALS / "teachers")
        # It sees all training crystals, as many times as a run that has their labels.
        table["training"]["epochs"] = study.lengths.whole
        return validated(DistillationConfig, table, origin=one.name)
    if one.mode == "fine-tuned":
        assert one.encoder is not None, "it starts from somewhere"
        table["init"] = {"checkpoint": str(out / one.encoder.name), "rate": _chosen(one, study, out)}
    return validated(TrainingConfig, table, origin=one.name)


def architecture_of(name: str, study: StudySettings) -> tuple[str, ArchitectureSettings]:
    """The registered name of an architecture of the study, and how it is built and trained."""
    return ("cgcnn", study.teacher) if name == "teacher" else (name, study.architectures[name])


def metrics_of(one: Encoder | Run, out: Path) -> dict[str, float]:
    """The MAE of each target on validation crystals (phonons: on the test folds); empty before a run is finished."""
    if isinstance(one, Encoder):
        return {}
    folder = out / one.name
    if one.part == "phonons":
        if not (folder / FOLDS_FILE).exists():
            return {}
        found = json.loads((folder / FOLDS_FILE).read_text(encoding="utf-8"))["targets"]
        return {target: found[target]["mae"]["mean"] for target in one.targets}
    return _validation_of(folder, one.targets)


def chosen_by(one: Run, out: Path) -> float:
    """What runs of one kind are chosen by: the product of all errors of validation, of folds their mean; or NaN."""
    folders = sorted((out / one.name).glob("fold-*")) or [out / one.name]
    each = [_validation_of(folder, one.targets) for folder in folders]
    return math.prod(statistics.fmean(found.get(target, math.nan) for found in each) for target in one.targets)


def _validation_of(folder: Path, targets: Sequence[str]) -> dict[str, float]:
    if not (folder / METRICS_FILE).exists():
        return {}
    found = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))["validation"]["targets"]
    return {target: found[target]["mae"] for target in targets}


def best_tried(architecture: str, mode: Mode, study: StudySettings, out: Path) -> float | None:
    """Which of the values that were tried validates best; None before all have ended, or if all have failed."""
    return tuned(study, out).best(_trials(architecture, mode, study))


def _outcomes(one: Encoder | Run) -> Sequence[str]:
    return [FOLDS_FILE if isinstance(one, Run) and one.part == "phonons" else METRICS_FILE]


def _trials(architecture: str, mode: Mode, study: StudySettings) -> Sequence[Run]:
    return [run for run in tuning(study) if (run.architecture, run.mode) == (architecture, mode)]


def _tried_for(one: Encoder | Run, study: StudySettings) -> Sequence[Sequence[Run]]:
    if isinstance(one, Encoder):
        return []
    # What is tuned for the other modes takes the rate that was found for the vanilla one.
    modes: list[Mode] = ["vanilla", one.mode] if one.mode in ("fine-tuned", "distilled") else ["vanilla"]
    if one.tried is not None:
        modes = modes[:-1]
    return [_trials(_tuned_as(one.architecture), mode, study) for mode in modes]


def _tuned_as(architecture: str) -> str:
    return architecture if architecture in TUNED else TUNED[0]


def _chosen(run: Run, study: StudySettings, out: Path) -> float:
    """What a run of its mode uses: what it tries, or what was found best."""
    found = run.tried if run.tried is not None else best_tried(_tuned_as(run.architecture), run.mode, study, out)
    assert found is not None, "a run begins when this is known"
    return found


def _rate(run: Run, study: StudySettings, out: Path) -> float:
    own = replace(run, mode="vanilla", encoder=None, tried=run.tried if run.mode == "vanilla" else None)
    # Only what is tuned has a factor; of the others, the rate in the settings is the one to use.
    if run.architecture not in TUNED:
        return study.architectures[run.architecture].rate
    factor = _chosen(own, study, out) if run.factor is None else run.factor
    return study.architectures[run.architecture].rate * factor


def _pretraining(one: Encoder, study: StudySettings, out: Path) -> PretrainingConfig:
    name, built = architecture_of(one.architecture, study)
    files, fraction = pool_files(study, one.pool, out / CRYSTALS)
    size = study.crystals.pools[one.pool]
    weight = 1.0 / len(one.aspects)
    objectives: dict[str, Any] = {aspect: {"weight": weight if aspect in one.aspects else 0.0} for aspect in ASPECTS}
    objectives["nodes"]["masked"] = 0.15 if one.masked else 0.0
    table = {
        "data": {
            "train": list(map(str, files)),
            "split": {"validation": 0.02},
            "fraction": fraction,
            "workers": study.crystals.workers,
        },
        "model": {"architecture": name, "settings": built.settings},
        "objectives": objectives,
        "training": _loop(built, study, seed=0)
        | {"epochs": max(1, round(study.lengths.pretraining_crystals / size)), "batch_size": 128},
    }
    return validated(PretrainingConfig, table, origin=one.name)


def _training(run: Run, study: StudySettings, out: Path) -> dict[str, Any]:
    name, built = architecture_of(run.architecture, study)
    log10 = {"scale": "log10"} if run.part == "moduli" else {}
    loop = _loop(built, study, seed=run.seed)
    loop["optimiser"] = loop["optimiser"] | {"rate": _rate(run, study, out)}
    return {
        "data": _data(run, study, out / CRYSTALS),
        "targets": {target: {"loss": "l1"} | log10 for target in run.targets},
        "model": {"architecture": name, "settings": built.settings},
        "training": loop | {"epochs": getattr(study.lengths, run.part), "ema_decay": 0.995},
    }


def _data(run: Run, study: StudySettings, crystals: Path) -> dict[str, Any]:
    by_files = {"split": {"by": "files", "seed": run.seed}, "workers": study.crystals.workers}
    given = study.crystals
    match run.part:
        case "subset":
            files = {"train": [crystals / "subset.extxyz"], "validation": [crystals / "subset-val.extxyz"]}
        case "moduli":
            files = {"train": [crystals / "moduli.extxyz"], "validation": [crystals / "moduli-val.extxyz"]}
        case "phonons":
            split = {"by": "folds", "validation": 0.1, "seed": run.seed}
            return {"train": [str(given.phonons)], "split": split}
        case "whole" | "fifth":
            files = {"train": [given.train], "validation": [given.validation]}
    fraction = {"fraction": 0.2} if run.part == "fifth" else {}
    return {name: list(map(str, paths)) for name, paths in files.items()} | by_files | fraction


def _loop(built: ArchitectureSettings, study: StudySettings, *, seed: int) -> dict[str, Any]:
    return {
        "batch_size": built.batch_size,
        "clip_norm": 10.0,
        "threads": study.threads,
        "device": study.device,
        "seed": seed,
        "optimiser": {"rate": built.rate, "weight_decay": built.weight_decay},
        "schedule": {"name": "one_cycle", "warmup": 0.1},
    }
