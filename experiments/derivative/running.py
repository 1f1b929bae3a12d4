"""Doing the runs: each in its folder, finished ones left alone, interrupted ones continued."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from studies import State, work_through

from derivative.crystals import PUBLISHED, SOURCES, make_crystals
from derivative.plan import KINDS, MODULI, SETTINGS, FineTuning, PreTraining, Run
from derivative.settings import StudySettings
from screening.config import validated
from screening.models import checkpoint
from screening.training.config import RunSettings, TrainingConfig
from screening.training.forces_config import ForcesConfig
from screening.training.judge_potential import evaluate_potential
from screening.training.loop import STATE_FILE
from screening.training.material import Listener
from screening.training.recipe import FOLDS_FILE, METRICS_FILE, MODEL_FILE, claim, train
from screening.training.resume import write_whole

CRYSTALS = "crystals"
# Errors of a potential on the published test crystals of mlearn.
PUBLISHED_FILE = "mlearn-test.json"


def state_of(run: Run, out: Path, plan: Sequence[Run] = ()) -> State:
    """How far a run is in its folder; blocked while the model that it starts from is not there.

    Of pre-training the record has what was measured and no model, which is made again if a run of the plan needs it.
    """
    folder = out / run.name
    if _is_measured(run, out) and (isinstance(run, FineTuning) or not _is_missed(run, out, plan)):
        return "finished"
    if isinstance(run, FineTuning) and run.needs is not None and not _is_whole(run.needs, out):
        return "blocked"
    begun = list(folder.glob(f"**/{STATE_FILE}")) or list(folder.glob("fold-*")) or (folder / METRICS_FILE).exists()
    return "begun" if begun else "waiting"


def _is_measured(run: Run, out: Path) -> bool:
    return all((out / run.name / name).exists() for name in _outcomes(run))


def _is_whole(run: PreTraining, out: Path) -> bool:
    return _is_measured(run, out) and (out / run.name / MODEL_FILE).exists()


def _is_missed(run: PreTraining, out: Path, plan: Sequence[Run]) -> bool:
    left = (one for one in plan if isinstance(one, FineTuning) and one.needs == run and not _is_measured(one, out))
    return any(left) and not _is_whole(run, out)


def _outcomes(run: Run) -> Sequence[str]:
    if isinstance(run, FineTuning):
        return [FOLDS_FILE if run.task.folds else METRICS_FILE]
    return [METRICS_FILE, *([PUBLISHED_FILE] if run.has_labels else [])]


def config_of(run: Run, study: StudySettings, out: Path) -> RunSettings:
    """The configuration of a run: `screening train-forces` or `train` with it gives the same."""
    loop = {
        "batch_size": 32,
        "max_edges": 100_000,
        "clip_norm": 10.0,
        "ema_decay": 0.999,
        "threads": study.threads,
        "device": study.device,
    }
    model = {"architecture": run.architecture, "settings": dict(SETTINGS[run.architecture])}
    place = out / CRYSTALS
    if isinstance(run, PreTraining):
        files = [str(place / f"{source}.extxyz") for source in SOURCES]
        own = {"epochs": study.epochs.pretraining, "optimiser": {"name": "adamw", "rate": 2e-3}}
        values: dict[str, Any] = {
            "data": {"train": files, "split": {"by": "random", "validation": 0.1, "test": 0.1}},
            "forces": dict(KINDS[run.kind]),
            "model": model,
            "training": loop | own,
        }
        return validated(ForcesConfig, values, origin=run.name)
    own = {
        "epochs": getattr(study.epochs, run.task.name),
        "seed": run.seed,
        "optimiser": {"name": "adamw", "rate": 1e-3},
    }
    values = {
        "data": _files(run, place),
        "model": model,
        "targets": {name: dict(settings) for name, settings in run.task.targets.items()},
        "training": loop | own,
    }
    if run.needs is not None:
        # A head of noise leaves no readout, so that for a fair comparison no start gives more than its encoder.
        values["init"] = {"checkpoint": str(out / run.needs.name / MODEL_FILE), "readout": False}
    return validated(TrainingConfig, values, origin=run.name)


def _files(run: FineTuning, place: Path) -> dict[str, Any]:
    train_file = str(place / f"{run.task.name}.extxyz")
    if run.task.folds:
        return {"train": [train_file], "split": {"by": "folds", "validation": 0.1, "seed": run.seed}}
    # Few crystals have moduli; the others would cost validation and say nothing.
    prefix = "moduli-" if run.task == MODULI else ""
    return {
        "train": [train_file],
        "validation": [str(place / f"{prefix}choose.extxyz")],
        "test": [str(place / f"{prefix}measure.extxyz")],
        "split": {"by": "files"},
    }


def run_all(
    plan: Callable[[], Sequence[Run]],
    study: StudySettings,
    out: Path,
    listener: Listener,
    *,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Do what is not finished, in order; begin nothing after the budget. Tell whether all is finished.

    The plan is asked before every run, for it grows when the best starts are known. A finished run of other settings
    is refused, as one that is not finished would be.
    """
    for run in plan():
        if _is_measured(run, out):
            claim(out / run.name, config_of(run, study, out))

    def do_one(run: Run) -> None:
        make_crystals(study.data, out / CRYSTALS, listener.say)
        do(run, study, out, listener)

    def state(run: Run) -> State:
        return state_of(run, out, plan())

    return work_through(plan, state, do_one, out, listener, budget_s=budget_s, clock=clock)


def do(run: Run, study: StudySettings, out: Path, listener: Listener) -> None:
    """Train, or go on; then measure a potential where others have published errors."""
    folder = out / run.name
    train(config_of(run, study, out), folder, listener)
    if isinstance(run, PreTraining) and run.has_labels:
        model, card = checkpoint.load(folder / MODEL_FILE, device=study.device)
        found = evaluate_potential(
            model,
            card,
            [out / CRYSTALS / f"{PUBLISHED}.extxyz"],
            # What learned no energies has references of no source.
            source="mlearn.extxyz" if card.references else None,
            workers=1,
            device=study.device,
            say=listener.say,
            watch=listener.check,
        )
        write_whole(folder / PUBLISHED_FILE, json.dumps(found, indent=2).encode() + b"\n")
