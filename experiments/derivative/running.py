"""Doing the runs: each in its folder, finished ones left alone, interrupted ones continued."""

import json
import math
import statistics
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from studies import FAILED_FILE, State, attempt, work_through
from tuned import Tuned

from derivative.crystals import PUBLISHED, SIZES, SOURCES, make_crystals
from derivative.plan import (
    KINDS,
    LOST,
    NEAREST,
    SEEDS,
    WHOLE,
    FineTuning,
    PreTraining,
    Run,
    Task,
    planned,
    pretraining_tuning,
    tuning,
)
from derivative.settings import StudySettings
from screening.config import validated
from screening.files.whole import write_whole
from screening.models import checkpoint
from screening.pretrained.shipped import POTENTIAL, RUN_MODEL
from screening.training.config import RunSettings, TrainingConfig
from screening.training.forces_config import ForcesConfig
from screening.training.judge_potential import evaluate_potential
from screening.training.material import Listener
from screening.training.recipe import FOLDS_FILE, METRICS_FILE, claim, train

CRYSTALS = "crystals"
# What the epoch and the rate were chosen by, and what was only measured.
CHOSEN, MEASURED = "validation", "test"
# Errors of a potential on the published test crystals of mlearn.
PUBLISHED_FILE = "mlearn-test.json"
# What says that a run has ended, and how.
OUTCOMES = (METRICS_FILE, FOLDS_FILE, PUBLISHED_FILE, FAILED_FILE)
# Of the official folds: what chose their epochs chooses rates too.
FOLD_METRICS = tuple(f"fold-{fold}/{METRICS_FILE}" for fold in range(5))
KEPT = (*OUTCOMES, *FOLD_METRICS, SIZES)
# How the shipped model is trained, which is how runs on all crystals are.
SHIPPED = Path(__file__).resolve().parent.parent / "shipped/sieve.toml"


def plan_of(study: StudySettings, best: Sequence[str] = ()) -> list[Run]:
    """All runs with these settings; `best` are the starts that learn from all crystals too."""
    return planned(study.pretraining.rates, study.tuning, best)


def tuned(study: StudySettings, out: Path, plan: Sequence[Run] = ()) -> Tuned[Run]:
    """The runs of the study in its folder; those of the plan may need the models of others."""
    return Tuned(
        out=out,
        plan=lambda: plan,
        outcomes=_outcomes,
        errors=lambda run: errors_of(run, out, CHOSEN) if isinstance(run, FineTuning) else learned_errors(run, out),
        tried_for=lambda run: _tried_for(run, study),
        config_of=lambda run: config_of(run, study, out),
        ends=OUTCOMES,
    )


def state_of(run: Run, study: StudySettings, out: Path, plan: Sequence[Run] = ()) -> State:
    """How far a run is."""
    return tuned(study, out, plan).state(run)


def best_rate(run: Run, study: StudySettings, out: Path) -> float | None:
    """The rate that does best on the crystals that choose; None before all have ended, or if all failed."""
    return tuned(study, out).best(_choices(run, study))


def _outcomes(run: Run) -> Sequence[str]:
    if isinstance(run, FineTuning):
        return [FOLDS_FILE, *FOLD_METRICS] if run.task.folds else [METRICS_FILE]
    return [METRICS_FILE, *([PUBLISHED_FILE] if run.is_potential else [])]


def trials_of(run: Run, study: StudySettings) -> Sequence[Run]:
    """The runs that try rates for it: a start on a task with the first seed, or a kind of pre-training."""
    if isinstance(run, PreTraining):
        return [one for one in pretraining_tuning(study.pretraining.rates) if replace(one, rate=None) == run]
    wanted = replace(run, rate=None, seed=SEEDS[0])
    return [one for one in tuning(study.tuning) if replace(one, rate=None) == wanted]


def _choices(run: Run, study: StudySettings) -> Sequence[Run]:
    """Those of its trials whose rate it may take."""
    lost = LOST.get((run.architecture, run.kind), ()) if isinstance(run, PreTraining) else ()
    return [one for one in trials_of(run, study) if one.rate not in lost]


def _tried_for(run: Run, study: StudySettings) -> Sequence[Sequence[Run]]:
    # On all crystals the rate is that of the shipped model.
    if run.rate is not None or (isinstance(run, FineTuning) and run.task == WHOLE):
        return []
    return [_choices(run, study)]


def errors_of(run: FineTuning, out: Path, part: str) -> dict[str, float]:
    """The mean absolute error of each target, of logarithms where these are learned; empty before a run is finished.

    Of a run in folds it is the mean over these.
    """
    each = [_errors_in(out / run.name / file, run.task, part) for file in _metrics_files(run.task)]
    return {name: statistics.fmean(own[name] for own in each) for name in each[0] if all(name in own for own in each)}


def learned_errors(run: PreTraining, out: Path) -> dict[str, float]:
    """The mean absolute error of each term that it learns, on all crystals that choose; empty before it is finished."""
    found = read_json(out / run.name / METRICS_FILE).get(CHOSEN, {})
    weights = KINDS[run.kind]
    own = found.get("derivatives") or found.get("denoising") or {}
    return {term: errors["mae"] for term, errors in own.items() if " of " not in term and weights.get(term, 1.0)}


def fold_errors_of(run: FineTuning, study: StudySettings, out: Path) -> list[tuple[float, dict[str, float]]]:
    """Of each official fold, the rate that did best on its own validation crystals, and its errors on its test.

    Empty before all rates have ended.
    """
    runs, trials = tuned(study, out), trials_of(run, study)
    if not all(runs.is_measured(one) or runs.has_failed(one) for one in trials):
        return []
    ended = [one for one in trials if isinstance(one, FineTuning) and runs.is_measured(one)]
    found = []
    for file in _metrics_files(run.task) if ended else ():
        chosen = [math.prod(_errors_in(out / one.name / file, run.task, CHOSEN).values()) for one in ended]
        best = ended[chosen.index(min(chosen))]
        assert best.rate is not None
        found.append((best.rate, _errors_in(out / best.name / file, run.task, MEASURED)))
    return found


def _metrics_files(task: Task) -> Sequence[str]:
    return FOLD_METRICS if task.folds else (METRICS_FILE,)


def _errors_in(file: Path, task: Task, part: str) -> dict[str, float]:
    found = read_json(file).get(part, {}).get("targets", {})
    return {name: found[name][_metric(task, name)] for name in task.targets if name in found}


def _metric(task: Task, target: str) -> str:
    return "mae_log10" if task.targets[target].get("scale") == "log10" else "mae"


def read_json(file: Path) -> dict[str, Any]:
    """What a file holds; nothing if there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def config_of(run: Run, study: StudySettings, out: Path) -> RunSettings:
    """The configuration of a run: `screening train-forces` or `train` with it gives the same."""
    return _pretraining(run, study, out) if isinstance(run, PreTraining) else _finetuning(run, study, out)


def _pretraining(run: PreTraining, study: StudySettings, out: Path) -> ForcesConfig:
    own = study.pretraining
    values = {
        "data": {
            "train": [str(out / CRYSTALS / f"{source}.extxyz") for source in SOURCES],
            "split": {"by": "random", "validation": 0.1, "test": 0.1},
        },
        "forces": dict(KINDS[run.kind]),
        "model": {"architecture": run.architecture, "settings": study.models[run.architecture]},
        "training": _loop(study)
        | {
            "epochs": own.epochs if run.rate is None else own.trial_epochs,
            "batch_size": own.batch_size,
            "ema_decay": own.ema_decay,
            "optimiser": {"rate": _rate(run, study, out)},
        },
    }
    return validated(ForcesConfig, values, origin=run.name)


def _finetuning(run: FineTuning, study: StudySettings, out: Path) -> TrainingConfig:
    own, whole = study.finetuning, run.task == WHOLE
    shipped = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    loop = (
        shipped["training"]
        if whole
        else {
            "batch_size": own.batch_size,
            "ema_decay": own.ema_decay,
            "optimiser": {"rate": _rate(run, study, out), "weight_decay": own.weight_decay},
            "schedule": {"name": "one_cycle", "warmup": own.warmup},
        }
    )
    settings = study.models["nearest" if run.kind == NEAREST else run.architecture]
    values = {
        "data": _files(run, out / CRYSTALS),
        "model": {"architecture": run.architecture, "settings": settings},
        "targets": shipped["targets"] if whole else {name: dict(how) for name, how in run.task.targets.items()},
        "training": loop | _loop(study) | {"epochs": getattr(own.epochs, run.task.name), "seed": run.seed},
    }
    start = POTENTIAL if run.kind == POTENTIAL else run.needs and str((out / run.needs.name / RUN_MODEL).resolve())
    if start is not None:
        # A head of noise leaves no readout, so that for a fair comparison no start gives more than its encoder.
        values["init"] = {"checkpoint": start, "readout": False}
    return validated(TrainingConfig, values, origin=run.name)


def _rate(run: Run, study: StudySettings, out: Path) -> float:
    found = run.rate if run.rate is not None else best_rate(run, study, out)
    assert found is not None, "a run begins when this is known"
    return found


def _loop(study: StudySettings) -> dict[str, Any]:
    return {"max_edges": 100_000, "clip_norm": 10.0, "threads": study.threads, "device": study.device}


def _files(run: FineTuning, place: Path) -> dict[str, Any]:
    train, choose, measure = (str(place / f"{run.task.name}{part}.extxyz") for part in ("", "-choose", "-measure"))
    if run.task.folds:
        return {"train": [train], "split": {"by": "folds", "validation": 0.1, "seed": run.seed}}
    return {"train": [train], "validation": [choose], "test": [measure], "split": {"by": "files"}}


def run_all(
    plan: Callable[[], Sequence[Run]],
    study: StudySettings,
    out: Path,
    listener: Listener,
    *,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Do what is not finished, in order; begin nothing after the budget. Tell whether all has ended.

    The plan is asked before every run, for it grows when the best starts are known. A finished run of other settings
    is refused, as one that is not finished would be. A run that diverges is noted, and the others go on.
    """
    runs = tuned(study, out)
    for run in plan():
        if runs.is_measured(run) and runs.knows_values(run):
            claim(out / run.name, config_of(run, study, out))

    def do_one(run: Run) -> None:
        make_crystals(study.data, out / CRYSTALS, listener.say)
        attempt(lambda: do(run, study, out, listener), out / run.name, listener)

    def state(run: Run) -> State:
        # The plan, which is dear, is nothing to the others.
        return state_of(run, study, out, plan() if isinstance(run, PreTraining) else ())

    return work_through(plan, state, do_one, out, listener, budget_s=budget_s, clock=clock)


def do(run: Run, study: StudySettings, out: Path, listener: Listener) -> None:
    """Train, or go on; then measure a potential where others have published errors."""

    def learn(config: RunSettings, folder: Path) -> None:
        train(config, folder, listener)
        if isinstance(run, PreTraining) and run.is_potential:
            _measure_published(folder, study, out, listener)

    tuned(study, out).do(run, learn, listener)


def _measure_published(folder: Path, study: StudySettings, out: Path, listener: Listener) -> None:
    model, card = checkpoint.load(folder / RUN_MODEL, device=study.device)
    found = evaluate_potential(
        model,
        card,
        [out / CRYSTALS / f"{PUBLISHED}.extxyz"],
        # What learned no energies has references of no source.
        source="mlearn.extxyz" if card.references else None,
        workers=1,
        device=study.device,
        say=listener.say,
        check=listener.check,
    )
    # By file they go by where that lies.
    by_element = {"element": found["element"]}
    write_whole(folder / PUBLISHED_FILE, [json.dumps(by_element, indent=2).encode(), b"\n"])
