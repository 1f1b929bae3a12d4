"""Does learning derivatives first help? The study of Jia et al. (Digital Discovery 2024, d3dd00214d), in one command.

    .venv/bin/python experiments/derivative_study.py runs/derivative                     begin, or go on
    .venv/bin/python experiments/derivative_study.py runs/derivative --budget-hours 2    begin no run after two hours
    .venv/bin/python experiments/derivative_study.py runs/derivative --share 1/2         every second run
    .venv/bin/python experiments/derivative_study.py runs/derivative --list              finished, begun, waiting
    .venv/bin/python experiments/derivative_study.py runs/derivative --report            tables of what is there

Models are pre-trained on the force sets (denoising by a head, by a derivative; labels of energy, of force, of all
three), then fine-tuned on phonons (official folds), moduli, and formation energy and gap from 2,000 crystals; the two
best starts and none on all crystals too. Every run is a folder: a finished one is left alone, an interrupted one
continues; its config.toml alone gives the same run with `screening train-forces` or `train`. `derivative/study.toml`
says how long runs are, `derivative/plan.py` which there are. Half of mp36k/val chooses epochs, the other half measures;
the official test folds of phonons choose nothing. Potentials are measured on mlearn's published test crystals too.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from derivative.plan import Run, planned
from derivative.report import best_two, report_of
from derivative.running import run_all, state_of
from derivative.settings import StudySettings

from screening import config
from screening.cli.progress import training_progress
from screening.errors import InputError, ScreeningError
from screening.training.material import Listener

STUDY = Path(__file__).resolve().parent / "derivative/study.toml"
REPORT_FILE = "report.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; 0 when all is done, 1 when runs are left."""
    chosen = _parser().parse_args(arguments)
    try:
        return _act(chosen)
    except ScreeningError as error:
        print(f"derivative_study: {error}", file=sys.stderr)
        return error.exit_code


def _act(chosen: argparse.Namespace) -> int:
    out: Path = chosen.out
    if chosen.list:
        print("\n".join(f"{n:3} {state_of(run, out):8} {run.name}" for n, run in enumerate(planned(best_two(out)), 1)))
        return 0
    if chosen.report:
        _report(out)
        return 0
    study = config.load(StudySettings, chosen.config, overrides=chosen.set)
    with training_progress(quiet=chosen.quiet) as show:
        done = run_all(
            # The best two are known when the rest is done, by all shares.
            lambda: shared(planned(best_two(out)), chosen.share),
            study,
            out,
            Listener(_say, show),
            budget_s=3600 * chosen.budget_hours,
        )
    if done and not best_two(out):
        _say("the best two starts are known when all shares have done their runs; come back then")
        done = False
    _report(out)
    return 0 if done else 1


def shared(runs: Sequence[Run], share: str) -> Sequence[Run]:
    """Take every n-th run, beginning with the k-th, of a share k/n."""
    part, _, parts = share.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise InputError(f"--share {share}: expected K/N with 1 <= K <= N, such as 1/2 and, beside it, 2/2")
    return runs[int(part) - 1 :: int(parts)]


def _report(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / REPORT_FILE).write_text(report_of(out), encoding="utf-8")
    _say(f"{out / REPORT_FILE}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Pre-train on derivatives, fine-tune, and report.")
    parser.add_argument("out", type=Path, metavar="FOLDER", help="where the runs and the report go")
    parser.add_argument("--config", type=Path, default=STUDY, metavar="FILE.toml", help="what all runs share")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace one of its settings")
    parser.add_argument("--share", default="1/1", metavar="K/N", help="do every N-th run, from the K-th on")
    parser.add_argument("--budget-hours", type=float, default=float("inf"), metavar="H", help="begin no run after this")
    parser.add_argument("--quiet", action="store_true", help="no progress within runs")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="list the runs and do nothing")
    instead.add_argument("--report", action="store_true", help="report on what is finished and run nothing")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
