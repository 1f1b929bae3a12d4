"""What the commands of all studies have in common: options, a share of the runs, and how they end."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from screening.errors import InputError, ScreeningError

R = TypeVar("R")
REPORT_FILE = "report.md"


def command(name: str, act: Callable[[argparse.Namespace], bool], chosen: argparse.Namespace) -> int:
    """Do what was chosen; 0 when all is done, 1 when runs are left, the code of an error otherwise."""
    try:
        return 0 if act(chosen) else 1
    except ScreeningError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code


def shared(runs: Sequence[R], share: str) -> Sequence[R]:
    """Take every n-th run, beginning with the k-th, of a share k/n."""
    part, _, parts = share.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise InputError(f"--share {share}: expected K/N with 1 <= K <= N, such as 1/2 and, beside it, 2/2")
    return runs[int(part) - 1 :: int(parts)]


def say(text: str) -> None:
    """Tell whoever watches."""
    print(text, file=sys.stderr, flush=True)


def parser(description: str, study: Path) -> tuple[argparse.ArgumentParser, "argparse._MutuallyExclusiveGroup"]:
    """The options of every study, and those of them that are in place of doing runs."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("out", type=Path, metavar="FOLDER", help="where the runs and the report go")
    made.add_argument("--config", type=Path, default=study, metavar="FILE.toml", help="what all runs share")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace one of its settings")
    made.add_argument("--share", default="1/1", metavar="K/N", help="do every N-th run, from the K-th on")
    made.add_argument("--budget-hours", type=float, default=float("inf"), metavar="H", help="begin no run after this")
    made.add_argument("--quiet", action="store_true", help="no progress within runs")
    instead = made.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="list the runs and do nothing")
    instead.add_argument("--report", action="store_true", help="report on what is finished and run nothing")
    return made, instead
