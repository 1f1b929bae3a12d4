"""Run every benchmark beside this file and print one table: what we do, what the fastest peer does, what was promised.

    make bench                              all of them
    make bench ARGS="--quick"               small sets, for a first look
    make bench ARGS="--only read_cif"       one of them
    make bench ARGS="--data val.extxyz.gz"  real crystals where a case takes some
    make bench ARGS="--json bench.json"     keep the figures with a description of the machine

A case is a module with `run(*, quick: bool) -> list[Row]`; timing.py has the rows and the stopwatch.
"""

import argparse
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from timing import Row, report

FOLDER = Path(__file__).resolve().parent
NOT_CASES = {"alignn_package", "bench", "timing", "million", "no_op", "pretraining"}


def case_names() -> list[str]:
    """Names of the modules in this folder that measure something."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_CASES and path.stem[0] != "_")


def case(name: str) -> Callable[..., list[Row]]:
    """The `run` of a case module."""
    run: Callable[..., list[Row]] = importlib.import_module(name).run
    return run


def measured(names: Sequence[str], *, quick: bool) -> tuple[list[Row], list[str]]:
    """Rows of all cases, and the names of those that failed, whose traceback is printed."""
    rows: list[Row] = []
    failed = []
    for name in names:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        try:
            rows += case(name)(quick=quick)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    return rows, failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 when a case failed to run; a missed promise is printed, for noise can miss one."""
    parser = argparse.ArgumentParser(description="Measure against other tools, side by side.")
    parser.add_argument("--quick", action="store_true", help="small sets, few rounds")
    parser.add_argument("--only", nargs="+", choices=case_names(), default=case_names(), metavar="NAME")
    parser.add_argument(
        "--data", type=Path, help="a file of real crystals, for the cases that take one (models, neighbor_lists)"
    )
    parser.add_argument("--json", type=Path, help="also write machine and figures to this file")
    chosen = parser.parse_args(arguments)
    rows, failed = measured(chosen.only, quick=chosen.quick)
    report(rows, json_path=chosen.json)
    promised = [row for row in rows if row.met is not None]
    print(f"{sum(row.met is True for row in promised)} of {len(promised)} promises met")
    if failed:
        print(f"failed to run: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
