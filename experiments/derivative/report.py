"""What finished runs measured, in tables of Markdown, and the paper's claims about them."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import record
from tables import DASH, BySeed, Estimate, gains, shown, table

from derivative.crystals import SIZES
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
    TASKS,
    TRANSFORMER,
    WHOLE,
    FineTuning,
    PreTraining,
    Run,
    Task,
)
from derivative.running import (
    CHOSEN,
    CRYSTALS,
    MEASURED,
    PUBLISHED_FILE,
    best_rate,
    errors_of,
    fold_errors_of,
    learned_errors,
    plan_of,
    read_json,
    trials_of,
    tuned,
)
from derivative.settings import StudySettings
from screening.pretrained.shipped import POTENTIAL
from screening.training.forces_config import ForcesSettings
from screening.training.objectives.denoising import NOISE
from screening.training.recipe import FOLDS_FILE, METRICS_FILE

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
- Tenths are drawn frame by frame, so that most have a neighbour in time, or of another strain, among those that are
  learned: errors for crystals of other kinds are larger.
- "Of none" is the mean size of what is predicted, the error of who says 0 (of noise: of one who does not know which way
  atoms went). Energies are above references that are fitted anyway.
- No frame of mattersim has the formula of a crystal of mp36k/val or of the phonons, and none of monbtaw is in mlearn.
  The latter two sets are of elements and alloys, some of which are among the crystals that measure too."""
PUBLISHED_NOTES = """\
- A potential here is one for all elements of all sources, a SNAP one for each element.
- The set has no training crystals of Cu and Ni: of these a potential knows what mattersim has alone."""
RATES_NOTES = """\
- Errors are of the crystals that choose, by rate; of several targets or terms their geometric mean. Each kind of
  pre-training tries for few epochs. Each start tries all rates on each task with the first seed, which is the first of
  the tables; of phonons every fold has the rate that its own validation crystals choose.
- With 0.01 and 0.005 all epochs of F came to nothing: its training error of force rose from 0.40 to 29.5 eV/Å in the
  seventh and to 2.2 in the 13th, and from then on was that of no force at all. So F takes the third."""
FINETUNING_NOTES = f"""\
- phonons: 1/cm, mean over the official folds; {PUBLISHED_PHONONS}.
- moduli: of log10(GPa), on the 259 crystals of mp36k/val that have them; a tenth of those of mp36k/train chose. mp2000:
  eV/atom and eV, on all of mp36k/val; 500 other crystals of mp36k/train chose. whole: the same, on the half of
  mp36k/val that did not choose.
- ± is the standard error over seeds, or over folds. All runs of a start share one pre-training run, so it does not tell
  how much another pre-training would change.
- Two targets in one column group are learned in one run, with equal weights, so one may cost the other something; the
  runs on all crystals learn the six targets of the shipped model, as it is trained, for a third of its epochs.
- Every start gives its encoder alone (`init.readout = false`), since a head of noise has no readout to give.
- {POTENTIAL}: the shipped potential, which began as EFS and learned what CHGNet says of 17,362 crystals. CHGNet has
  learned energies of the Materials Project, so crystals of mp2000 that measure are not quite new to it; labels of
  phonons and moduli it never saw. It has no part in the choice of the two starts that learn from all crystals.
- {NEAREST}: what was shipped before, 16 neighbours within 6 angstrom and ties. The others hear all within 5
  angstrom, some 35 an atom, as a smooth energy must.
- "CrysGNN study" are runs of `sieve` with 16 neighbours in experiments/crysgnn_study.py: the same crystals learned but
  for the tenth, the same measured; those of moduli chose epochs too."""
CLAIMS_NOTES = """\
- A gain is by how much less error the second has than the first, of the same seed or fold; ± as above. In bold: the
  one-sided 95 % bound of that target alone (Student's t) excludes 0.
- The verdict is over the mean gains of the targets, by the same bound: yes or no, else open. Targets that are learned
  together are not independent, and all runs of a start share one pre-training run.
- A head of noise learns with moments of each batch, as fine-tuning does; a derivative cannot, for it would hear of
  other crystals, and its moments are those of the beginning. That is part of what the first claim compares.
- Weights of energy, force and stress are 1, 1 and 10 and were not tuned: others may order the labels otherwise."""
# Runs of `sieve` in the study of pre-training on structures, by what their names say.
BESIDE = {"vanilla": "vanilla", "fine-tuned": "fine-tuned-sieve-60k-all", "distilled": "distilled-teacher-60k-all"}
BESIDE_RECORD = Path(__file__).resolve().parent.parent / "crysgnn" / record.FILE

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
    plan, found = plan_of(study, best_two(study, out)), tuned(study, out)
    failed = [run.name for run in plan if found.has_failed(run)]
    done = f"{sum(map(found.is_measured, plan))} of {len(plan)} runs are finished."
    parts = ["# Pre-training on derivatives", " ".join([done, *([f"Failed: {', '.join(failed)}."] if failed else [])])]
    parts += ["## Pre-training", pretraining_table(out), PRETRAINING_NOTES]
    parts += ["## mlearn's published test crystals: force MAE, eV/angstrom", published_table(out), PUBLISHED_NOTES]
    parts += ["## Rates", rates_table(study, out), RATES_NOTES]
    for architecture in (SIEVE, TRANSFORMER):
        parts += [f"## Fine-tuning {architecture}: mean absolute error", finetuning_table(study, out, architecture)]
    parts += [FINETUNING_NOTES, "## The paper's claims"]
    for architecture in (SIEVE, TRANSFORMER):
        parts += [f"{architecture}:", claims_table(study, out, architecture)]
    return "\n\n".join([*parts, CLAIMS_NOTES]) + "\n"


def pretraining_table(out: Path) -> str:
    """Errors by source, and of which crystals they are."""
    sizes = read_json(out / CRYSTALS / SIZES)
    rows = []
    for architecture, starts in STARTS.items():
        for kind in filter(KINDS.__contains__, starts):
            found = read_json(out / PreTraining(kind, architecture).name / METRICS_FILE)
            part = MEASURED if MEASURED in found else CHOSEN
            measured = found.get(part, {})
            for name, own in (measured.get("derivatives") or measured.get("denoising") or {}).items():
                if name.startswith("energy") and not KINDS[kind].get("energy", 1.0):
                    continue
                errors = (_number(number) for number in (own.get("mae"), own.get("rmse"), _of_none(name, sizes)))
                rows.append([architecture, kind, name, part, *errors])
    return table(["model", "learned", "error of", "on", "MAE", "RMSE", "MAE of none"], rows)


def _of_none(name: str, sizes: Mapping[str, Mapping[str, Mapping[str, float]]]) -> float | None:
    """The error of who predicts 0, of what is measured source by source."""
    term, _, source = name.partition(" of ")
    if term == NOISE:
        return ForcesSettings().sigma * math.sqrt(2 / math.pi)
    return sizes.get(Path(source).stem, {}).get(term, {}).get("mean")


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
    """What tuning found and chose."""
    wanted: list[tuple[str, str, str, Run]] = []
    for architecture, starts in STARTS.items():
        kinds = filter(KINDS.__contains__, starts)
        wanted += [(architecture, kind, "pre-training", PreTraining(kind, architecture)) for kind in kinds]
        for task in TASKS[architecture]:
            runs = ((kind, FineTuning(task, kind, architecture, SEEDS[0])) for kind in starts)
            wanted += [(architecture, kind, task.name, run) for kind, run in runs]
    rows = []
    for architecture, kind, what, run in wanted:
        tried = {f"{one.rate:g}": _chosen_by(one, out) for one in trials_of(run, study)}
        errors = ", ".join(f"{rate}: {DASH if error is None else f'{error:.4g}'}" for rate, error in tried.items())
        rows.append([architecture, kind, what, errors, _chosen(run, study, out)])
    return table(["model", "start", "tried on", "rate: error", "chosen"], rows)


def _chosen_by(run: Run, out: Path) -> float | None:
    errors = errors_of(run, out, CHOSEN) if isinstance(run, FineTuning) else learned_errors(run, out)
    return statistics.geometric_mean(errors.values()) if errors else None


def _chosen(run: Run, study: StudySettings, out: Path) -> str:
    if isinstance(run, FineTuning) and run.task.folds:
        return ", ".join(f"{rate:g}" for rate, _ in fold_errors_of(run, study, out)) or DASH
    rate = best_rate(run, study, out)
    return DASH if rate is None else f"{rate:g}"


def finetuning_table(study: StudySettings, out: Path, architecture: str) -> str:
    """A row a start, a column a target: mean over seeds, or folds, and their standard error."""
    tasks = (*TABLE, WHOLE) if architecture == SIEVE else (PHONONS, MODULI)
    columns = [(task, target) for task in tasks for target in task.targets]
    rows = [
        [kind, *(shown(Estimate.of(_each(study, out, task, target, kind, architecture))) for task, target in columns)]
        for kind in STARTS[architecture]
    ]
    if architecture == SIEVE:
        for name, run in BESIDE.items():
            rows.append([f"CrysGNN study: {name}", *(shown(_beside(run, task, target)) for task, target in columns)])
    return table(["start", *(f"{task.name} {target}" for task, target in columns)], rows)


def _beside(name: str, task: Task, target: str) -> Estimate | None:
    """What the other study measured on the same crystals: mean over seeds of each fold, or over seeds."""
    runs: Mapping[str, Any] = json.loads(BESIDE_RECORD.read_text(encoding="utf-8"))["runs"]
    if task == PHONONS:
        found = [runs.get(f"phonons-sieve-{name}-phonons-seed{seed}", {}).get(FOLDS_FILE) for seed in SEEDS]
        folds = [own["targets"][target]["mae"]["each"] for own in found if own]
        return Estimate.of({fold: statistics.fmean(each) for fold, each in enumerate(zip(*folds, strict=True))})
    if task == MODULI:
        every = {seed: runs.get(f"moduli-sieve-{name}-bulk+shear-seed{seed}", {}).get(METRICS_FILE) for seed in SEEDS}
        return Estimate.of({seed: own[CHOSEN]["targets"][target]["mae_log10"] for seed, own in every.items() if own})
    return None


CLAIMS: Mapping[str, tuple[str, str]] = {
    "derivatives beat direct outputs": ("denoise-head", "denoise-derivative"),
    "labels beat denoising": ("denoise-derivative", "EFS"),
    "all three labels beat energy alone": ("E", "EFS"),
    "all three labels beat forces alone": ("F", "EFS"),
    "denoising beats none": (SCRATCH, "denoise-derivative"),
    "labels beat none": (SCRATCH, "EFS"),
    "labels beat the nearest neighbours": (NEAREST, "EFS"),
    "CHGNet's labels beat none": (SCRATCH, POTENTIAL),
    "CHGNet's labels beat those of the force sets": ("EFS", POTENTIAL),
}


# Both must hold for a third.
BOTH = ("all three labels beat energy alone", "all three labels beat forces alone")


def claims_table(study: StudySettings, out: Path, architecture: str) -> str:
    """By how much the second of each pair has less error than the first, by target, and on average over these."""
    tasks = TABLE if architecture == SIEVE else (PHONONS, MODULI)
    columns = [(task, target) for task in tasks for target in task.targets]

    def gain(task: Task, target: str, pair: tuple[str, str]) -> Estimate | None:
        return Estimate.of(gains(*(_each(study, out, task, target, kind, architecture) for kind in pair)))

    rows, verdicts = [], {}
    for claim, pair in CLAIMS.items():
        if not set(pair) <= set(STARTS[architecture]):
            continue
        found = [gain(task, target, pair) for task, target in columns]
        mean = Estimate.of({place: own.mean for place, own in enumerate(found) if own is not None})
        verdicts[claim] = _verdict(mean) if mean is not None and mean.seeds == len(columns) else "open"
        rows.append([claim, " to ".join(pair), *map(_percent, [*found, mean]), verdicts[claim]])
    if set(BOTH) <= verdicts.keys():
        each = {verdicts[claim] for claim in BOTH}
        verdict = "yes" if each == {"yes"} else "no" if "no" in each else "open"
        rows.append(["all three labels are best", "both", *[DASH] * (len(columns) + 1), verdict])
    return table(["claim", "from", *(f"{task.name} {target}" for task, target in columns), "mean", "verdict"], rows)


def _each(study: StudySettings, out: Path, task: Task, target: str, kind: str, architecture: str) -> BySeed:
    """The errors that are measured, by seed or by fold."""
    if task.folds:
        found = fold_errors_of(FineTuning(task, kind, architecture, SEEDS[0]), study, out)
        return {fold: errors[target] for fold, (_, errors) in enumerate(found) if target in errors}
    seeds = {
        seed: errors_of(FineTuning(task, kind, architecture, seed), out, MEASURED).get(target)
        for seed in SEEDS[: task.seeds]
    }
    return {seed: value for seed, value in seeds.items() if value is not None}


def _verdict(mean: Estimate) -> str:
    if not _is_sure(mean):
        return "open"
    return "yes" if mean.mean > 0 else "no"


def _is_sure(found: Estimate) -> bool:
    return abs(found.mean) > found.margin


def _percent(estimate: Estimate | None) -> str:
    words = shown(estimate, "{:+.1f}", "{:.1f}", "%")
    return f"**{words}**" if estimate is not None and _is_sure(estimate) else words


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.4f}"
