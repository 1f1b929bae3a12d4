"""What finished runs measured, in tables of Markdown, and the paper's claims about them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from tables import DASH, BySeed, Estimate, gains, shown, table

from derivative.plan import (
    FEW,
    KINDS,
    MODULI,
    NEAREST,
    PHONONS,
    SCRATCH,
    SEEDS,
    SIEVE,
    STARTS,
    TRANSFORMER,
    WHOLE,
    FineTuning,
    PreTraining,
    Task,
    planned,
    tuning,
)
from derivative.running import (
    CHOSEN,
    MEASURED,
    PUBLISHED_FILE,
    best_rate,
    errors_of,
    fold_errors_of,
    read_json,
    tuned,
)
from derivative.settings import StudySettings
from screening.training.recipe import METRICS_FILE

# MAE of a component of force, eV/angstrom, of a SNAP for each element alone, by its predictions for mlearn's test
# crystals in jarvis_leaderboard.
SNAP = {"Ni": 0.062, "Cu": 0.060, "Ge": 0.098, "Si": 0.176, "Li": 0.027, "Mo": 0.184}
# Mean MAE over the official folds, 1/cm, by matbench's leaderboard: CGCNN, a random forest, ALIGNN, the best.
PUBLISHED_PHONONS = "published on these folds: random forest 67.6, CGCNN 57.8, ALIGNN 29.5, the best 28.8"
PRETRAINING_NOTES = """\
- Errors are of the tenth of each source that was held back for the test, once, at the end. A head of noise is not kept:
  its errors are of the validation crystals, by which its epoch was chosen. What learned no energies has none.
- Denoising takes crystals to be at rest. Most frames of these sets are not: they come from molecular dynamics, from
  strained cells and from surfaces, so that what is called back to is no minimum.
- No frame of mattersim has the formula of a crystal of mp36k/val. The other two sets are of elements and alloys, some
  of which are there too, with other labels of other codes."""
PUBLISHED_NOTES = """\
- A potential here is one for all elements of all sources, a SNAP one for each element.
- The set has no training crystals of Cu and Ni: of these a potential knows what mattersim has alone."""
RATES_NOTES = """\
- Each start tries the same rates on each task, with the first seed; validation crystals choose, of folds the mean over
  theirs. The first seed of a table is that run."""
FINETUNING_NOTES = f"""\
- phonons: 1/cm, mean over the official folds, which chose nothing; {PUBLISHED_PHONONS}. moduli: of log10(GPa).
  mp2000 and whole: eV/atom and eV. All but phonons: the half of mp36k/val that chose neither epochs nor rates.
- ± is the standard error over seeds, or over folds. All runs of a start share one pre-training run, so it does not tell
  how much another pre-training would change.
- Two targets in one column group are learned in one run, with equal weights, so one may cost the other something; the
  runs on all crystals learn the six targets of the shipped model, as it is trained, for fewer epochs.
- Every start gives its encoder alone (`init.readout = false`), since a head of noise has no readout to give.
- {NEAREST}: what is shipped, 16 neighbours within 6 angstrom and ties. The others hear all within 5 angstrom, some
  35 an atom, as a smooth energy must."""
CLAIMS_NOTES = """\
- A gain is by how much less error the second has than the first, of the same seed or fold; ± as above.
- The verdict is over the mean gains of the targets: yes or no when their mean is two standard errors from 0, else open.
  Targets that are learned together are not independent, and all runs of a start share one pre-training run.
- Weights of energy, force and stress are 1, 1 and 10 and were not tuned: others may order the labels otherwise."""

TABLE: Sequence[Task] = (PHONONS, MODULI, FEW)


def best_two(study: StudySettings, out: Path) -> list[str]:
    """The two starts with the least error on the crystals that choose, from few; none until all have ended."""
    scores, found = {}, tuned(study, out)
    for kind in KINDS:
        runs = [FineTuning(FEW, kind, SIEVE, seed) for seed in SEEDS[: FEW.seeds]]
        if not all(found.is_measured(run) or found.has_failed(run) for run in runs):
            return []
        errors = [math.log(error) for run in runs for error in errors_of(run, out, CHOSEN).values()]
        if len(errors) == FEW.seeds * len(FEW.targets):
            scores[kind] = statistics.fmean(errors)
    return sorted(scores, key=scores.__getitem__)[:2]


def report_of(study: StudySettings, out: Path) -> str:
    """Write the report on whatever is finished."""
    plan, found = planned(study.tuning, best_two(study, out)), tuned(study, out)
    failed = [run.name for run in plan if found.has_failed(run)]
    done = f"{sum(map(found.is_measured, plan))} of {len(plan)} runs are finished."
    parts = ["# Pre-training on derivatives", " ".join([done, *([f"Failed: {', '.join(failed)}."] if failed else [])])]
    parts += ["## Pre-training", pretraining_table(out), PRETRAINING_NOTES]
    parts += ["## mlearn's published test crystals: force MAE, eV/angstrom", published_table(out), PUBLISHED_NOTES]
    parts += ["## Rates", rates_table(study, out), RATES_NOTES]
    for architecture in (SIEVE, TRANSFORMER):
        parts += [f"## Fine-tuning {architecture}: mean absolute error", finetuning_table(out, architecture)]
    parts += [FINETUNING_NOTES, "## The paper's claims"]
    for architecture in (SIEVE, TRANSFORMER):
        parts += [f"{architecture}:", claims_table(out, architecture)]
    return "\n\n".join([*parts, CLAIMS_NOTES]) + "\n"


def pretraining_table(out: Path) -> str:
    """Errors by source, and of which crystals they are."""
    rows = []
    for architecture, starts in STARTS.items():
        for kind in filter(KINDS.__contains__, starts):
            found = read_json(out / PreTraining(kind, architecture).name / METRICS_FILE)
            part = MEASURED if MEASURED in found else CHOSEN
            measured = found.get(part, {})
            for name, own in (measured.get("derivatives") or measured.get("denoising") or {}).items():
                if name.startswith("energy") and not KINDS[kind].get("energy", 1.0):
                    continue
                rows.append([architecture, kind, name, part, _number(own.get("mae")), _number(own.get("rmse"))])
    return table(["model", "learned", "error of", "on", "MAE", "RMSE"], rows)


def published_table(out: Path) -> str:
    """A row an element, a column a potential, beside one for each element alone."""
    runs = [PreTraining(kind, model) for model, starts in STARTS.items() for kind in starts if kind in KINDS]
    found = {run: read_json(out / run.name / PUBLISHED_FILE).get("element", {}) for run in runs}
    known = {run: own for run, own in found.items() if own}
    rows = [
        [symbol, f"{snap:.3f}", *(_number(own.get(symbol, {}).get("force", {}).get("mae")) for own in known.values())]
        for symbol, snap in SNAP.items()
    ]
    return table(["element", "SNAP, published", *(f"{run.architecture} {run.kind}" for run in known)], rows)


def rates_table(study: StudySettings, out: Path) -> str:
    """What tuning chose."""
    rows = []
    for run in tuning(study.tuning):
        if run.rate == study.tuning[run.architecture][0]:
            rates = ", ".join(f"{rate:g}" for rate in study.tuning[run.architecture])
            rows.append([run.architecture, run.kind, run.task.name, rates, f"{best_rate(run, study, out) or '-'}"])
    return table(["model", "start", "tried on", "rates", "chosen"], rows)


def finetuning_table(out: Path, architecture: str) -> str:
    """A row a start, a column a target: mean over seeds, or folds, and their standard error."""
    tasks = (*TABLE, WHOLE) if architecture == SIEVE else (PHONONS, MODULI)
    columns = [(task, target) for task in tasks for target in task.targets]
    rows = [
        [kind, *(shown(Estimate.of(_each(out, task, target, kind, architecture))) for task, target in columns)]
        for kind in STARTS[architecture]
    ]
    return table(["start", *(f"{task.name} {target}" for task, target in columns)], rows)


CLAIMS: Mapping[str, tuple[str, str]] = {
    "derivatives beat direct outputs": ("denoise-head", "denoise-derivative"),
    "labels beat denoising": ("denoise-derivative", "EFS"),
    "all three labels beat energy alone": ("E", "EFS"),
    "all three labels beat forces alone": ("F", "EFS"),
    "denoising beats none": (SCRATCH, "denoise-derivative"),
    "labels beat none": (SCRATCH, "EFS"),
    "labels beat what is shipped": (NEAREST, "EFS"),
}


def claims_table(out: Path, architecture: str) -> str:
    """By how much the second of each pair has less error than the first, by target, and on average over these."""
    tasks = TABLE if architecture == SIEVE else (PHONONS, MODULI)
    columns = [(task, target) for task in tasks for target in task.targets]
    rows = []
    for claim, (worse, better) in CLAIMS.items():
        if not {worse, better} <= set(STARTS[architecture]):
            continue
        found = [_gain(out, task, target, worse, better, architecture) for task, target in columns]
        mean = Estimate.of({place: own.mean for place, own in enumerate(found) if own is not None})
        verdict = _verdict(mean) if mean is not None and mean.seeds == len(columns) else "open"
        rows.append([claim, f"{worse} to {better}", *map(_percent, [*found, mean]), verdict])
    return table(["claim", "from", *(f"{task.name} {target}" for task, target in columns), "mean", "verdict"], rows)


def _gain(out: Path, task: Task, target: str, worse: str, better: str, architecture: str) -> Estimate | None:
    return Estimate.of(gains(*(_each(out, task, target, kind, architecture) for kind in (worse, better))))


def _each(out: Path, task: Task, target: str, kind: str, architecture: str) -> BySeed:
    """The errors that are measured, by seed or by fold."""
    if task.folds:
        return dict(enumerate(fold_errors_of(FineTuning(task, kind, architecture, SEEDS[0]), out).get(target, [])))
    found = {
        seed: errors_of(FineTuning(task, kind, architecture, seed), out, MEASURED).get(target)
        for seed in SEEDS[: task.seeds]
    }
    return {seed: value for seed, value in found.items() if value is not None}


def _verdict(mean: Estimate) -> str:
    if mean.error is None or abs(mean.mean) < 2 * mean.error:
        return "open"
    return "yes" if mean.mean > 0 else "no"


def _percent(estimate: Estimate | None) -> str:
    return shown(estimate, "{:+.1f}", "{:.1f}", "%")


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.4f}"
