"""What finished runs measured, in tables of Markdown, and the paper's claims about them."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from derivative.plan import (
    FEW,
    KINDS,
    MODULI,
    PHONONS,
    SCRATCH,
    SIEVE,
    TRANSFORMER,
    WHOLE,
    FineTuning,
    PreTraining,
    Task,
)
from derivative.running import PUBLISHED_FILE
from screening.training.recipe import FOLDS_FILE, METRICS_FILE

# MAE of a component of force, eV/angstrom, of a SNAP for each element alone, by its predictions for mlearn's test
# crystals in jarvis_leaderboard.
SNAP = {"Ni": 0.062, "Cu": 0.060, "Ge": 0.098, "Si": 0.176, "Li": 0.027, "Mo": 0.184}
PRETRAINING_NOTES = """\
- Errors are of the tenth of each source that was held back for the test, once, at the end. A head of noise is not kept:
  its errors are of the validation crystals, by which its epoch was chosen.
- Denoising takes crystals to be at rest. Most frames of these sets are not: they come from molecular dynamics, from
  strained cells and from surfaces, so that what is called back to is no minimum.
- Frames of relaxations of mp36k crystals that validate or measure are left out; of phonons no ids tell."""
PUBLISHED_NOTES = """\
- A potential here is one for all elements of all sources, a SNAP one for each element.
- The set has no training crystals of Cu and Ni: of these a potential knows what mattersim has alone."""
FINETUNING_NOTES = """\
- ± is the standard error over seeds of the fine-tuning. All runs of a start share one pre-training run, so it does not
  tell how much another pre-training would change.
- Every start gives its encoder alone (`init.readout = false`), since a head of noise has no readout to give.
- A claim is called confirmed or not when the mean is two standard errors from 0. Pairs of one task share crystals and
  pre-training runs, so they are less independent than this takes them to be."""

STARTS = (SCRATCH, *KINDS)
# What the epoch was chosen by (choice), and what was only measured.
CHOSEN, MEASURED = "validation", "test"


def maes(run: FineTuning, out: Path, part: str = MEASURED) -> dict[str, float]:
    """The mean absolute error of each target of a finished run; nothing of another."""
    if run.task.folds:
        if part == CHOSEN:
            return {}
        found = _read(out / run.name / FOLDS_FILE)
        return {name: own["mae"]["mean"] for name, own in found.get("targets", {}).items()}
    found = _read(out / run.name / METRICS_FILE).get(part, {})
    return {name: own["mae"] for name, own in found.get("targets", {}).items()}


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def best_two(out: Path) -> list[str]:
    """The two starts with the least error on the crystals that choose epochs, from few; none until all are known."""
    scores = {}
    for kind in KINDS:
        logs = [
            math.log(value)
            for seed in range(FEW.seeds)
            for value in maes(FineTuning(FEW, kind, SIEVE, seed), out, CHOSEN).values()
        ]
        if len(logs) < FEW.seeds * len(FEW.targets):
            return []
        scores[kind] = statistics.fmean(logs)
    return sorted(scores, key=scores.__getitem__)[:2]


def report_of(out: Path) -> str:
    """Write the report on whatever is finished."""
    parts = ["# Pre-training on derivatives", "## Pre-training", pretraining_table(out), PRETRAINING_NOTES]
    parts += ["## mlearn's published test crystals: force MAE, eV/angstrom", published_table(out), PUBLISHED_NOTES]
    for architecture in (SIEVE, TRANSFORMER):
        parts += [f"## Fine-tuning {architecture}: mean absolute error", finetuning_table(out, architecture)]
    parts += ["## The paper's claims, production model", claims_table(out), FINETUNING_NOTES]
    return "\n\n".join(parts) + "\n"


def pretraining_table(out: Path) -> str:
    """Errors by source, and of which crystals they are."""
    rows = []
    for architecture in (SIEVE, TRANSFORMER):
        for kind in KINDS:
            found = _read(out / PreTraining(kind, architecture).name / METRICS_FILE)
            part = MEASURED if MEASURED in found else CHOSEN
            measured = found.get(part, {})
            for name, own in (measured.get("derivatives") or measured.get("denoising") or {}).items():
                rows.append([architecture, kind, name, part, _number(own.get("mae")), _number(own.get("rmse"))])
    return table(["model", "learned", "error of", "on", "MAE", "RMSE"], rows)


def published_table(out: Path) -> str:
    """A row an element, a column a potential, beside one for each element alone."""
    runs = [PreTraining(kind, model) for model in (SIEVE, TRANSFORMER) for kind in KINDS]
    found = {run: _read(out / run.name / PUBLISHED_FILE).get("element", {}) for run in runs}
    shown = {run: own for run, own in found.items() if own}
    rows = [
        [symbol, f"{snap:.3f}", *(_number(own.get(symbol, {}).get("force", {}).get("mae")) for own in shown.values())]
        for symbol, snap in SNAP.items()
    ]
    return table(["element", "SNAP, published", *(f"{run.architecture} {run.kind}" for run in shown)], rows)


def finetuning_table(out: Path, architecture: str) -> str:
    """A row a start, a column a target: mean over seeds and their standard error."""
    columns = [(task, target) for task in (PHONONS, MODULI, FEW, WHOLE) for target in task.targets]
    rows = [
        [kind, *(_cell(_by_seed(out, task, target, kind, architecture)) for task, target in columns)] for kind in STARTS
    ]
    return table(["start", *(f"{task.name} {target}" for task, target in columns)], rows)


CLAIMS: Mapping[str, tuple[str, str]] = {
    "derivatives beat direct outputs": ("denoise-head", "denoise-derivative"),
    "labels beat denoising": ("denoise-derivative", "EFS"),
    "all three labels beat energy alone": ("E", "EFS"),
    "all three labels beat forces alone": ("F", "EFS"),
    "pre-training on labels beats none": (SCRATCH, "EFS"),
}


def claims_table(out: Path) -> str:
    """By how much the second of each pair has less error than the first, on average over the targets of the table."""
    rows = []
    for claim, (worse, better) in CLAIMS.items():
        gains = [
            100 * (1 - b / a)
            for task in (PHONONS, MODULI, FEW)
            for target in task.targets
            for a, b in _pairs(out, task, target, worse, better)
        ]
        mean = statistics.fmean(gains) if gains else math.nan
        error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
        verdict = "open" if not gains or abs(mean) < 2 * error else "confirmed" if mean > 0 else "not confirmed"
        rows.append([claim, f"{worse} to {better}", f"{mean:.1f} ± {error:.1f} %", str(len(gains)), verdict])
    return table(["claim", "from", "less error", "pairs", "verdict"], rows)


def _pairs(out: Path, task: Task, target: str, one: str, other: str) -> list[tuple[float, float]]:
    first, second = (_by_seed(out, task, target, kind, SIEVE) for kind in (one, other))
    return [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]


def _by_seed(out: Path, task: Task, target: str, kind: str, architecture: str) -> dict[int, float]:
    found = {seed: maes(FineTuning(task, kind, architecture, seed), out).get(target) for seed in range(task.seeds)}
    return {seed: value for seed, value in found.items() if value is not None}


def _cell(values: Mapping[int, float]) -> str:
    if not values:
        return "-"
    numbers = list(values.values())
    mean = f"{statistics.fmean(numbers):.4g}"
    return mean if len(numbers) == 1 else f"{mean} ± {statistics.stdev(numbers) / math.sqrt(len(numbers)):.2g}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
