"""Doing the runs: each in its folder, finished ones left alone, an interrupted one continued."""

import json
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from studies import State, work_through

from multitask.plan import GAP, Run, config_of
from screening import config as toml
from screening.errors import InputError
from screening.files.whole import write_whole
from screening.models import checkpoint
from screening.pretrained.shipped import RUN_MODEL
from screening.training.assess import in_units, normalised_outputs
from screening.training.config import TrainingConfig
from screening.training.loop import STATE_FILE
from screening.training.material import Listener, Material
from screening.training.metrics import auc
from screening.training.recipe import CONFIG_FILE, METRICS_FILE, fitted, prepare, splits_of, train

# How well a predicted gap tells metals from the rest: how often it is larger for a crystal with a gap than for a metal.
GAP_AUC_FILE = "gap-auc.json"


def state_of(run: Run, study: TrainingConfig, out: Path) -> State:
    """How far a run is in its folder; a folder with other settings is refused."""
    folder = out / run.name
    kept = folder / CONFIG_FILE
    if kept.exists() and kept.read_text(encoding="utf-8") != toml.to_toml(config_of(run, study)):
        raise InputError(f"{folder} holds a run with other settings; give those it was begun with, or another folder")
    if all((folder / name).exists() for name in (METRICS_FILE, *([GAP_AUC_FILE] if GAP in run.targets else []))):
        return "finished"
    return "begun" if (folder / STATE_FILE).exists() or (folder / METRICS_FILE).exists() else "waiting"


def run_all(
    runs: Sequence[Run],
    study: TrainingConfig,
    out: Path,
    listener: Listener,
    *,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Do the runs that are not finished, in order; begin none after the budget. Tell whether all are finished."""
    material = cache(lambda: prepare(study, listener))
    return work_through(
        lambda: runs,
        lambda run: state_of(run, study, out),
        lambda run: do(run, study, out, listener, material()),
        out,
        listener,
        budget_s=budget_s,
        clock=clock,
    )


def do(run: Run, study: TrainingConfig, out: Path, listener: Listener, material: Material) -> None:
    """Train, or go on; then see how well a predicted gap tells metals."""
    config, folder = config_of(run, study), out / run.name
    train(config, folder, listener, material=material)
    if GAP in run.targets:
        text = json.dumps(_gap_auc(config, folder, material))
        write_whole(folder / GAP_AUC_FILE, [text.encode(), b"\n"])


def _gap_auc(config: TrainingConfig, folder: Path, material: Material) -> dict[str, float]:
    own = fitted(config, material)
    (split,) = splits_of(config, own)
    model, _ = checkpoint.load(folder / RUN_MODEL, device=config.training.device)
    column = list(config.targets).index(GAP)
    found = {}
    for part, rows in (("validation", split.validation), ("test", split.test)):
        labels = own.graphs.labels[rows, column]
        predicted = in_units(model, normalised_outputs(model, own.graphs, rows, config.training))[GAP]
        present = ~np.isnan(labels)
        found[part] = auc(predicted[present], (labels[present] > 0.0).astype(float))
    return found
