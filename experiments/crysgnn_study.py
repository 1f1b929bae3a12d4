"""Does pre-training on structures help? The study of CrysGNN (arXiv:2301.05852), in one command.

    .venv/bin/python experiments/crysgnn_study.py runs/crysgnn                     begin, or go on
    .venv/bin/python experiments/crysgnn_study.py runs/crysgnn --budget-hours 2    begin no run after two hours
    .venv/bin/python experiments/crysgnn_study.py runs/crysgnn --list              what is finished, begun, failed
    .venv/bin/python experiments/crysgnn_study.py runs/crysgnn --report            tables of what is there
    .venv/bin/python experiments/crysgnn_study.py runs/crysgnn --keep              put it into crysgnn/measured.json
    .venv/bin/python experiments/crysgnn_study.py runs/crysgnn --draw-subset FILE  how crysgnn/subset.txt was made

Give the command once per core, or on several machines that share the folder: each takes runs that nobody else does.
What crysgnn/measured.json holds is not repeated, unless it is of another study.toml, or with --afresh.

Every run is a folder: a finished one is left alone, an interrupted one continues where it was; one that diverged has
the reason in failed.txt, counts as worse than whatever else was tried, and begins again when its folder is deleted. The
config.toml in a folder alone gives the same run with `screening pretrain`, `train` or `distil`. `crysgnn/study.toml`
says what runs share, `crysgnn/plan.py` which there are: encoders first, then tuning of all but the slowest (vanilla
runs try the rate; the others take what was best, and try what they add), then each architecture x {vanilla, fine-tuned,
distilled}, the ablation of the teacher, the larger parts, and last what a fifth of the labels and the predictions of a
run that learned these give. A run that needs an encoder or a choice that is not there
yet is blocked, and others come first.

Pre-training reads the training file, the unlabelled files and enumerated crystals; never the validation file. The
validation file chooses epochs, rates and weights; the folds of phonons choose nothing.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import record
import studies
from crysgnn.crystals import SUBSET, draw_subset, read_subset, write_subset
from crysgnn.plan import Encoder, Run, every
from crysgnn.report import report_of
from crysgnn.running import MEASURED, run_all, tuned
from crysgnn.settings import StudySettings

from screening import config
from screening.cli.training_progress import training_progress
from screening.errors import InputError
from screening.training.material import Listener

STUDY = Path(__file__).resolve().parent / "crysgnn/study.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; 0 when all is done, 1 when runs are left."""
    return studies.command("crysgnn_study", _act, _parser().parse_args(arguments))


def _act(chosen: argparse.Namespace) -> bool:
    study = config.load(StudySettings, chosen.config, overrides=chosen.set)
    if chosen.draw_subset is not None:
        write_subset(draw_subset(study), chosen.draw_subset)
        return True
    plan = every(study)
    is_recorded = chosen.subset.resolve() == SUBSET
    if chosen.keep:
        if not is_recorded:
            raise InputError(f"{chosen.record}: it is of the subset in {SUBSET.name}, so it keeps nothing of another")
        kept = record.pack(chosen.record, study, chosen.out, (one.name for one in plan), MEASURED)
        studies.say(f"{chosen.record}: {kept} runs")
        return True
    if is_recorded and not chosen.afresh:
        record.unpack(chosen.record, study, chosen.out)
    if chosen.list:
        print("\n".join(listed(plan, study, chosen.out)))
        return True
    done = True
    if not chosen.report:
        with training_progress(quiet=chosen.quiet) as show:
            done = run_all(
                plan,
                study,
                chosen.out,
                Listener(studies.say, show),
                subset=read_subset(chosen.subset),
                budget_s=3600 * chosen.budget_hours,
            )
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / studies.REPORT_FILE).write_text(report_of(study, chosen.out), encoding="utf-8")
    studies.say(f"{chosen.out / studies.REPORT_FILE}")
    return done


def listed(plan: Sequence[Encoder | Run], study: StudySettings, out: Path) -> list[str]:
    """A line per run: its place, state and name."""
    state = tuned(study, out).state
    return [f"{number:3} {state(one):8} {one.name}" for number, one in enumerate(plan, 1)]


def _parser() -> argparse.ArgumentParser:
    parser, instead = studies.parser("Do the runs of the study of pre-training and report on them.", STUDY)
    record.options(parser, instead, STUDY)
    parser.add_argument("--subset", type=Path, default=SUBSET, metavar="FILE", help="ids of the subset")
    instead.add_argument("--draw-subset", type=Path, metavar="FILE", help="draw the subset's ids into a file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
