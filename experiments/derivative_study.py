"""Does learning derivatives first help? The study of Jia et al. (Digital Discovery 2024, d3dd00214d), in one command.

    .venv/bin/python experiments/derivative_study.py runs/derivative                     begin, or go on
    .venv/bin/python experiments/derivative_study.py runs/derivative --budget-hours 2    begin no run after two hours
    .venv/bin/python experiments/derivative_study.py runs/derivative --list              finished, begun, waiting
    .venv/bin/python experiments/derivative_study.py runs/derivative --report            tables of what is there
    .venv/bin/python experiments/derivative_study.py runs/derivative --keep              put it into measured.json

Models are pre-trained on the force sets (denoising by a head, by a derivative; labels of energy, of force, of all
three), then fine-tuned on phonons (official folds), moduli, and formation energy and gap from 2,000 crystals, and so is
the shipped potential; the two best starts and none learn all crystals too, as the shipped model does. Each kind of
pre-training tries the same rates, and so does each start on each task. Every run is a folder: a finished one is left
alone, an interrupted one continues; its config.toml alone gives the same run with `screening train-forces` or `train`.
In `derivative/`, `study.toml` says how runs are trained, `plan.py` which there are, `crystals.py` which crystals learn,
choose and measure. An official fold of phonons chooses nothing that is tested on it. Potentials are measured on
mlearn's published test crystals too.

Give the command once per core, or on several machines that share the folder: each takes runs that nobody else does.
What derivative/measured.json holds is not repeated, unless it is of another study.toml, or with --afresh.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import record
import studies
from derivative.report import best_two, report_of
from derivative.running import CRYSTALS, KEPT, plan_of, run_all, state_of
from derivative.settings import StudySettings

from screening import config
from screening.cli.training_progress import training_progress
from screening.training.material import Listener

STUDY = Path(__file__).resolve().parent / "derivative/study.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; 0 when all is done, 1 when runs are left."""
    return studies.command("derivative_study", _act, _parser().parse_args(arguments))


def _act(chosen: argparse.Namespace) -> bool:
    # Configurations name files in it, and must do so alike whoever begins a run.
    out: Path = chosen.out.resolve()
    study = config.load(StudySettings, chosen.config, overrides=chosen.set)
    if chosen.keep:
        names = [run.name for run in plan_of(study, best_two(study, out))]
        kept = record.pack(chosen.record, study, out, [CRYSTALS, *names], KEPT)
        studies.say(f"{chosen.record}: {kept} entries")
        return True
    if not chosen.afresh:
        record.unpack(chosen.record, study, out)
    if chosen.list:
        plan = plan_of(study, best_two(study, out))
        print("\n".join(f"{n:3} {state_of(run, study, out, plan):8} {run.name}" for n, run in enumerate(plan, 1)))
        return True
    if chosen.report:
        _report(study, out)
        return True
    with training_progress(quiet=chosen.quiet) as show:
        done = run_all(
            # The best two are known when the rest is done, by whoever does it.
            lambda: plan_of(study, best_two(study, out)),
            study,
            out,
            Listener(studies.say, show),
            budget_s=3600 * chosen.budget_hours,
        )
    _report(study, out)
    return done


def _report(study: StudySettings, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / studies.REPORT_FILE).write_text(report_of(study, out), encoding="utf-8")
    studies.say(f"{out / studies.REPORT_FILE}")


def _parser() -> argparse.ArgumentParser:
    parser, instead = studies.parser("Pre-train on derivatives, fine-tune, and report.", STUDY)
    record.options(parser, instead, STUDY)
    return parser


if __name__ == "__main__":
    sys.exit(main())
