"""Does learning several properties together help? The study of MT-CGCNN (arXiv:1811.05660), in one command.

    .venv/bin/python experiments/multitask_study.py runs/multitask                    begin, or go on
    .venv/bin/python experiments/multitask_study.py runs/multitask --budget-hours 2   begin no run after two hours
    .venv/bin/python experiments/multitask_study.py runs/multitask --list             what is finished, begun, waiting
    .venv/bin/python experiments/multitask_study.py runs/multitask --report           tables and figure of what is there

Give the command once per core, or on several machines that share the folder: each takes runs that nobody else does.

Every run is a folder: a finished one is left alone, an interrupted one continues where it was. Its config.toml alone
gives the same run: `screening train FOLDER/config.toml`. Runs of one seed share their crystals and held-out formulas,
so that they are compared one by one. `multitask/study.toml` says what all runs share, `multitask/plan.py` which there
are.

One training gives both validations: a tenth of the training file, of formulas that are not trained on, is measured
beside the file of random validation crystals. Training once for each would cost twice as much. So 100 % are the other
nine tenths, some 23,800 crystals. The random validation chooses the epoch; the held-out formulas choose nothing.

How long it takes on two cores with 30 epochs on the whole training set:

    a seed    10 whole runs, and 3 each of 50, 25 and 10 %, whose epochs grow as 1 / sqrt(part), so that each is
              0.71, 0.50 and 0.32 of a whole one: 14.6 whole runs, and the epochs of 29.7
    training  3 seeds x 14.6 runs x 30 epochs x 23,800 crystals / 1,600 crystals/s     = 19,500 s
    choosing  3 seeds x 29.7 runs x 30 epochs x 2,938 crystals / 6,500 crystals/s      =  1,200 s
    the rest  57 runs x 5 s to read the model back, measure and draw                    =    300 s

21,000 s, 5.8 hours. Heads are a small part of a step: several targets cost about as much as one.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import studies
from multitask.figure import draw
from multitask.outcomes import Outcomes
from multitask.plan import Run, planned
from multitask.report import report_of
from multitask.running import run_all, state_of

from screening import config
from screening.cli.training_progress import training_progress
from screening.training.config import TrainingConfig
from screening.training.material import Listener

STUDY = Path(__file__).resolve().parent / "multitask/study.toml"
FIGURE_FILE = "multitask.png"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; 0 when all is done, 1 when runs are left."""
    return studies.command("multitask_study", _act, _parser().parse_args(arguments))


def _act(chosen: argparse.Namespace) -> bool:
    study = config.load(TrainingConfig, chosen.config, overrides=_overrides(chosen))
    runs = planned()
    if chosen.list:
        print("\n".join(listed(runs, study, chosen.out)))
        return True
    if chosen.report:
        _report(runs, chosen.out)
        return True
    with training_progress(quiet=chosen.quiet) as show:
        done = run_all(
            runs,
            study,
            chosen.out,
            Listener(studies.say, show),
            budget_s=3600 * chosen.budget_hours,
        )
    _report(runs, chosen.out)
    return done


def listed(runs: Sequence[Run], study: TrainingConfig, out: Path) -> list[str]:
    """A line per run: its place, state, name, epochs and share of the whole work."""
    whole = sum(run.work for run in runs)
    return [
        f"{number:3} {state_of(run, study, out):8} {run.name:32} {round(study.training.epochs * run.length):4} epochs"
        f" {run.work / whole:6.1%}"
        for number, run in enumerate(runs, 1)
    ]


def _report(runs: Sequence[Run], out: Path) -> None:
    outcomes = Outcomes.read(runs, out)
    out.mkdir(parents=True, exist_ok=True)
    (out / studies.REPORT_FILE).write_text(report_of(outcomes, runs=len(runs)), encoding="utf-8")
    draw(outcomes, out / FIGURE_FILE)
    studies.say(f"{out / studies.REPORT_FILE} and {out / FIGURE_FILE}")


def _overrides(chosen: argparse.Namespace) -> list[str]:
    short = {"epochs": chosen.epochs, "threads": chosen.threads}
    return [*chosen.set, *(f"training.{key}={value}" for key, value in short.items() if value is not None)]


def _parser() -> argparse.ArgumentParser:
    parser, _ = studies.parser("Train the runs of the multi-task study and report on them.", STUDY)
    parser.add_argument("--epochs", type=int, help="epochs on the whole training set; smaller parts have more")
    parser.add_argument("--threads", type=int, help="threads of a run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
