"""What the studies have in common: the options of their commands, how those end, and the work on their runs.

Several processes may work on one study's folder, on one machine or on several that share it: each takes a run that is
next and that nobody else does, and waits while all that could be next is being done.
"""

import argparse
import fcntl
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from screening.errors import ScreeningError
from screening.training.material import Listener

REPORT_FILE = "report.md"
# Why a run diverged, in its folder; without the file it is begun again.
FAILED_FILE = "failed.txt"
LOCKS = "locks"
PAUSE_S = 5.0
State = Literal["finished", "failed", "begun", "waiting", "blocked"]
ENDED: Sequence[State] = ("finished", "failed")


class Named(Protocol):
    """A run, whose folder has its name."""

    @property
    def name(self) -> str:
        """Name of its folder."""


R = TypeVar("R", bound=Named)


def command(name: str, act: Callable[[argparse.Namespace], bool], chosen: argparse.Namespace) -> int:
    """Do what was chosen; 0 when all is done, 1 when runs are left, the code of an error otherwise."""
    try:
        return 0 if act(chosen) else 1
    except ScreeningError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code


def work_through(
    plan: Callable[[], Sequence[R]],
    state: Callable[[R], State],
    do: Callable[[R], None],
    out: Path,
    listener: Listener,
    *,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Do what is not finished, in order, whatever is not blocked first; tell whether all has ended.

    The plan is asked before every run, for it may grow. Nothing is begun after the budget.
    """
    started, waits = clock(), False
    while True:
        states = {run: state(run) for run in plan()}
        left = [run for run, how in states.items() if how not in ENDED]
        if not left and len(plan()) == len(states):
            return True
        spent = clock() - started
        if spent >= budget_s:
            listener.say(f"the budget is spent after {spent / 3600:.2f} h: {len(left)} runs are left")
            return False
        with _first_free([run for run in left if states[run] != "blocked"], out) as one:
            # Somebody may have finished it since.
            if one is not None and state(one) not in ENDED:
                listener.say(f"{len(states) - len(left) + 1}/{len(states)} {one.name}, {spent / 3600:.2f} h so far")
                do(one)
                waits = False
                if state(one) not in ENDED:
                    raise ScreeningError(f"{one.name} was done, and its folder still says {state(one)}; remove it")
        if one is None and not any(_is_taken(run, out) for run in left):
            # Whoever held one may have ended it in between.
            if {run: state(run) for run in plan()} != states:
                continue
            listener.say(f"{len(left)} runs wait for others that have failed")
            return False
        if one is None:
            if not waits:
                listener.say(f"{len(left)} runs are left, and all that could be next is being done by others: waiting")
            waits = True
            listener.check()
            pause(PAUSE_S)


def attempt(act: Callable[[], object], folder: Path, listener: Listener) -> None:
    """Do a run; if it diverges, note that in its folder, so that the others go on."""
    try:
        act()
    except ScreeningError as error:
        # What has a kind of its own is no fault of the run: a setting, a file, the machine, an end that was asked for.
        if type(error) is not ScreeningError:
            raise
        listener.say(f"{folder.name} failed: {error}")
        (folder / FAILED_FILE).write_text(f"{error}\n", encoding="utf-8")


def repeat(done: Path, folder: Path, listener: Listener) -> None:
    """Take the folder of a run that is done for one of the same configuration."""
    listener.say(f"{folder.name} is {done.name}")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(done, part)
    part.replace(folder)


@contextmanager
def _first_free(runs: Sequence[R], out: Path) -> Iterator[R | None]:
    """The first that nobody does, which others leave alone meanwhile."""
    for run in runs:
        with _lock(run, out) as free:
            if free:
                yield run
                return
    yield None


def _is_taken(run: Named, out: Path) -> bool:
    with _lock(run, out) as free:
        return not free


@contextmanager
def _lock(run: Named, out: Path) -> Iterator[bool]:
    (out / LOCKS).mkdir(parents=True, exist_ok=True)
    with (out / LOCKS / run.name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def say(text: str) -> None:
    """Tell whoever watches."""
    print(text, file=sys.stderr, flush=True)


def parser(description: str, study: Path) -> tuple[argparse.ArgumentParser, "argparse._MutuallyExclusiveGroup"]:
    """The options of every study, and those of them that are in place of doing runs."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("out", type=Path, metavar="FOLDER", help="where the runs and the report go")
    made.add_argument("--config", type=Path, default=study, metavar="FILE.toml", help="what all runs share")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace one of its settings")
    made.add_argument("--budget-hours", type=float, default=float("inf"), metavar="H", help="begin no run after this")
    made.add_argument("--quiet", action="store_true", help="no progress within runs")
    instead = made.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="list the runs and do nothing")
    instead.add_argument("--report", action="store_true", help="report on what is finished and run nothing")
    return made, instead
