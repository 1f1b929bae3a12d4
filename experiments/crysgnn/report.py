"""The study in words: tables in Markdown of whatever is finished."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from tables import DASH, BySeed, Estimate, gain, shown, table

from crysgnn.plan import (
    CONTROLS,
    LARGE,
    MODES,
    SHORT,
    TARGETS,
    TEACHING,
    TUNED,
    Encoder,
    Mode,
    Part,
    Run,
    controls,
    encoder_of,
    encoders,
    every,
    runs,
    taught,
)
from crysgnn.running import best_tried, chosen_by, metrics_of, tuned
from crysgnn.settings import StudySettings

UNITS = {"formation": "eV/atom", "gap": "eV", "bulk": "GPa", "shear": "GPa", "phonons": "cm⁻¹"}
PARTS: Mapping[Part, str] = {
    "subset": "5,000 crystals of at most 20 atoms",
    "fifth": "20 % of the training crystals",
    "whole": "all training crystals",
    "moduli": "crystals with moduli, learned as logarithms",
    "phonons": "matbench phonons, mean over the official test folds",
}


def report_of(study: StudySettings, out: Path) -> str:
    """Write the report."""
    found = {run: metrics_of(run, out) for run in [*runs(study), *taught(study)]}
    done = sum(bool(metrics) for metrics in found.values())
    state = tuned(study, out).state
    failed = [one.name for one in every(study) if state(one) == "failed"]
    head = (
        f"{done} of {len(found)} runs are finished{f', {len(failed)} failed' if failed else ''}. Numbers are mean "
        "absolute errors, means over seeds ± their standard error; gains are over the vanilla run of the same seed. "
        "Validation crystals, by which runs are compared here too, chose the epochs of all kinds of runs, and what "
        f"tuning tried for {_listed(TUNED)}; folds of phonons chose nothing."
    )
    sections = ["# Vanilla, fine-tuned, distilled", head]
    sections += [f"Failed: {', '.join(failed)}."] if failed else []
    sections += ["## What tuning chose", _tuned(study, out)]
    for part, title in PARTS.items():
        sections += [f"## {title[0].upper()}{title[1:]}", _part(part, study, found)]
        untuned = [name for name in study.architectures if name not in TUNED] if part == "subset" else []
        if untuned:
            sections.append(
                f"Nothing was tuned for {_listed(untuned)}, whose runs learn at the rate in study.toml and take the "
                f"encoder's rate and alpha of {TUNED[0]}: the vanilla run had one try, where those of "
                f"{_listed(TUNED)} had {len(study.tuning.rates)}, and a gain over it says less."
            )
    title = f"A fifth of the labels, and what {TEACHING}, which learned the same, predicts of all training crystals"
    sections += [f"## {title}", _taught(found)]
    sections += ["## Other rates, one seed", _controlled(study, out)]
    return "\n\n".join([*sections, "## Ablation: distilled CGCNN on the subset", _ablation(study, found)]) + "\n"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _tuned(study: StudySettings, out: Path) -> str:
    rows = []
    for name in TUNED:
        values = [best_tried(name, mode, study, out) for mode in MODES]
        rows.append([name, *(DASH if value is None else f"{value:g}" for value in values)])
    return table(["architecture", "factor of the rate", "rate of the encoder", "alpha"], rows)


def _part(part: Part, study: StudySettings, found: Mapping[Run, Mapping[str, float]]) -> str:
    names = study.architectures if part == "subset" else LARGE
    rows = []
    for name in names:
        for target in (target for together in TARGETS[part] for target in together):
            vanilla = _by_seed(part, name, "vanilla", target, encoder_of(name, "vanilla", study), found)
            row = [name, f"{SHORT[target]} ({UNITS[SHORT[target]]})", shown(Estimate.of(vanilla))]
            for mode in MODES[1:]:
                own = _by_seed(part, name, mode, target, encoder_of(name, mode, study), found)
                row += [shown(Estimate.of(own)), gain(vanilla, own)]
            rows.append(row)
    return table(["architecture", "target", "vanilla", "fine-tuned", "gain", "distilled", "gain"], rows)


def _taught(found: Mapping[Run, Mapping[str, float]]) -> str:
    rows = []
    for name in LARGE:
        for target in (target for together in TARGETS["fifth"] for target in together):
            own = _by_seed("fifth", name, "taught", target, None, found)
            vanilla = _by_seed("fifth", name, "vanilla", target, None, found)
            alone = {seed: error for seed, error in vanilla.items() if seed in own}
            whole = _by_seed("whole", name, "vanilla", target, None, found)
            row = [name, f"{SHORT[target]} ({UNITS[SHORT[target]]})", shown(Estimate.of(alone))]
            rows.append([*row, shown(Estimate.of(own)), gain(alone, own), shown(Estimate.of(whole))])
    return table(["student", "target", "vanilla", "taught", "gain", "vanilla on all labels"], rows)


def _controlled(study: StudySettings, out: Path) -> str:
    """Errors by factor of the rate; in bold of the one that validates best, by the product of a run's errors."""
    every_rate = [run for run in [*runs(study), *controls(study)] if run.seed == study.whole_seeds[0]]
    best = {name: best_tried(name, "vanilla", study, out) for _, name in CONTROLS}

    def by_factor(part: Part, name: str, mode: Mode) -> dict[float, Run]:
        alike = [run for run in every_rate if (run.part, run.architecture, run.mode) == (part, name, mode)]
        factors = (best[name] if run.factor is None else run.factor for run in alike)
        return {factor: run for factor, run in zip(factors, alike, strict=True) if factor is not None}

    factors = sorted({factor for place in CONTROLS for mode in MODES for factor in by_factor(*place, mode)})
    rows = []
    for part, name in CONTROLS:
        for target in (target for together in TARGETS[part] for target in together):
            for mode in MODES:
                own = by_factor(part, name, mode)
                scores = {factor: chosen_by(run, out) for factor, run in own.items()}
                known = {factor: score for factor, score in scores.items() if not math.isnan(score)}
                row = [name, f"{SHORT[target]} ({UNITS[SHORT[target]]})", mode]
                for factor in factors:
                    error = metrics_of(own[factor], out).get(target) if factor in own else None
                    marks = "**" if known and factor == min(known, key=known.__getitem__) else ""
                    row.append(DASH if error is None else f"{marks}{error:.4g}{marks}")
                rows.append(row)
    return table(["architecture", "target", "", *(f"{factor:g} times the rate" for factor in factors)], rows)


def _ablation(study: StudySettings, found: Mapping[Run, Mapping[str, float]]) -> str:
    rows = []
    teachers: list[Encoder | None] = [None, *(e for e in encoders(study) if e.architecture == "teacher")]
    for teacher in teachers:
        mode: Mode = "vanilla" if teacher is None else "distilled"
        row = ["nobody (vanilla)" if teacher is None else teacher.name.removeprefix("encoder-teacher-")]
        for target in (target for together in TARGETS["subset"] for target in together):
            vanilla = _by_seed("subset", "cgcnn", "vanilla", target, None, found)
            own = _by_seed("subset", "cgcnn", mode, target, teacher, found)
            row += [shown(Estimate.of(own)), DASH if teacher is None else gain(vanilla, own)]
        rows.append(row)
    return table(["teacher", "formation (eV/atom)", "gain", "gap (eV)", "gain"], rows)


def _by_seed(
    part: Part,
    name: str,
    mode: Mode,
    target: str,
    encoder: Encoder | None,
    found: Mapping[Run, Mapping[str, float]],
) -> BySeed:
    return {
        run.seed: metrics[target]
        for run, metrics in found.items()
        if (run.part, run.architecture, run.mode, run.encoder) == (part, name, mode, encoder) and target in metrics
    }
