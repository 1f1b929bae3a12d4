"""Doing the runs: the crystals of each task in files, each run in its folder, finished ones left alone."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from derivative.plan import KINDS, SETTINGS, FineTuning, PreTraining, Run
from screening.config import validated
from screening.crystals.crystal import Crystal
from screening.crystals.read import read
from screening.crystals.write import write
from screening.errors import InputError
from screening.training.config import RunSettings, TrainingConfig
from screening.training.forces_config import ForcesConfig
from screening.training.loop import STATE_FILE
from screening.training.material import Listener
from screening.training.recipe import METRICS_FILE, MODEL_FILE, train

State = Literal["finished", "begun", "waiting"]
CRYSTALS = "crystals"
SOURCES = ("mattersim", "mlearn", "monbtaw")
FEW = 2_000
# Pre-training has as many epochs for every kind; E costs a third of a step with forces and gets no more for it.
PRETRAIN_EPOCHS = 20


def state_of(run: Run, out: Path) -> State:
    """How far a run is in its folder."""
    folder = out / run.name
    done = folder / ("folds.json" if isinstance(run, FineTuning) and run.task.folds else METRICS_FILE)
    if done.exists():
        return "finished"
    return "begun" if (folder / STATE_FILE).exists() or list(folder.glob("fold-*")) else "waiting"


def config_of(run: Run, data: Path, out: Path, epochs: float = 1.0) -> RunSettings:
    """The configuration of a run; `epochs` multiplies the planned number, for a trial."""
    loop = {
        "epochs": max(1, round(epochs * (PRETRAIN_EPOCHS if isinstance(run, PreTraining) else run.task.epochs))),
        "batch_size": 32,
        "max_edges": 100_000,
        "clip_norm": 10.0,
        "ema_decay": 0.999,
        "optimiser": {"name": "adamw", "rate": 2e-3},
    }
    model = {"architecture": run.architecture, "settings": dict(SETTINGS[run.architecture])}
    if isinstance(run, PreTraining):
        files = [str(data / f"forces/{source}.extxyz.gz") for source in SOURCES]
        split = {"by": "random", "validation": 0.1, "test": 0.1}
        values: dict[str, Any] = {
            "data": {"train": files, "split": split},
            "forces": dict(KINDS[run.kind]),
            "model": model,
            "training": loop,
        }
        return validated(ForcesConfig, values, origin=run.name)
    values = {
        "data": _files(run, out),
        "model": model,
        "targets": {name: dict(settings) for name, settings in run.task.targets.items()},
        "training": loop | {"seed": run.seed, "optimiser": {"name": "adamw", "rate": 1e-3}},
    }
    if run.needs is not None:
        values["init"] = {"checkpoint": str(out / run.needs.name / MODEL_FILE)}
    return validated(TrainingConfig, values, origin=run.name)


def _files(run: FineTuning, out: Path) -> dict[str, Any]:
    place = out / CRYSTALS
    train_file = str(place / f"{run.task.train}.extxyz")
    if run.task.folds:
        return {"train": [train_file], "split": {"by": "folds", "validation": 0.1, "seed": run.seed}}
    return {
        "train": [train_file],
        "validation": [str(place / "choose.extxyz")],
        "test": [str(place / "measure.extxyz")],
        "split": {"by": "files"},
    }


def make_crystals(data: Path, out: Path, say: Callable[[str], None]) -> None:
    """Write the crystals of each task, once: few of a large file are then read in a moment.

    The crystals of mp36k/val are halved by turns: one half chooses epochs, the other measures.
    """
    place = out / CRYSTALS
    place.mkdir(parents=True, exist_ok=True)
    train_file, val = data / "mp36k/train.extxyz.gz", data / "mp36k/val.extxyz.gz"
    wanted: dict[str, Callable[[], Iterator[Crystal]]] = {
        "phonons": lambda: _crystals(data / "matbench/phonons.extxyz.gz"),
        "moduli": lambda: (c for c in _crystals(train_file) if "bulk_modulus" in c.labels),
        "mp2000": lambda: _drawn(train_file, FEW),
        "mp-whole": lambda: _crystals(train_file),
        "choose": lambda: (c for n, c in enumerate(_crystals(val)) if n % 2 == 0),
        "measure": lambda: (c for n, c in enumerate(_crystals(val)) if n % 2),
    }
    for name, crystals in wanted.items():
        file = place / f"{name}.extxyz"
        if not file.exists():
            say(f"{file}: {write(crystals(), file, format='extxyz'):,} crystals")


def _crystals(file: Path) -> Iterator[Crystal]:
    if not file.exists():
        raise InputError(f"{file}: there is no such file; name the folder of the data sets with --data")
    return (crystal for crystal in read(file) if isinstance(crystal, Crystal))


def _drawn(file: Path, count: int) -> Iterator[Crystal]:
    rows = np.random.default_rng(0).permutation(sum(1 for _ in _crystals(file)))[:count]
    kept = set(rows.tolist())
    return (crystal for row, crystal in enumerate(_crystals(file)) if row in kept)


def run_all(
    runs: Sequence[Run],
    data: Path,
    out: Path,
    listener: Listener,
    *,
    budget_s: float,
    epochs: float,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Do the runs that are not finished, in order; begin none after the budget. Tell whether all are finished."""
    started = clock()
    waiting = [run for run in runs if state_of(run, out) != "finished"]
    listener.say(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished")
    if waiting:
        make_crystals(data, out, listener.say)
    left = 0
    for run in waiting:
        if clock() - started >= budget_s:
            left += 1
            continue
        before = run.needs if isinstance(run, FineTuning) else None
        if before is not None and state_of(before, out) != "finished":
            listener.say(f"{run.name} waits for {before.name}, which another share does")
            left += 1
            continue
        listener.say(f"{run.name}, {(clock() - started) / 3600:.2f} h so far")
        train(config_of(run, data, out, epochs), out / run.name, listener)
    return left == 0
