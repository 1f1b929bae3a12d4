"""Run the cases beside this file and print one table: what we do, what the fastest peer does, what was promised.

    make bench                              all that are measured together
    make bench ARGS="--quick"               small sets, for a first look
    make bench ARGS="--only read_cif"       one of them
    make bench ARGS="--data val.extxyz.gz"  real crystals for models, neighbor_lists and read_extxyz
    make bench ARGS="--json bench.json"     keep the figures with a description of the machine

A case is a module with `run(*, quick: bool) -> list[Row]`, and `data: Path | None` if it takes real crystals; timing.py
has the rows, the stopwatch and the options.
"""

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from timing import Row, parsed, parser, report

FOLDER = Path(__file__).resolve().parent
SHARED = {"alignn_package", "bench", "no_op", "threads", "timing"}
# Cases of a million crystals, with commands of their own.
ALONE = {"million", "pretraining"}
TAKE_DATA = ("models", "neighbor_lists", "read_extxyz")


def case_names() -> list[str]:
    """Names of the cases that are measured together: all modules in this folder but those that stand alone or serve."""
    return sorted({path.stem for path in FOLDER.glob("*.py")} - SHARED - ALONE)


def case(name: str) -> Callable[..., list[Row]]:
    """The `run` of a case module."""
    run: Callable[..., list[Row]] = importlib.import_module(name).run
    return run


def measured(names: Sequence[str], *, quick: bool, data: Path | None = None) -> tuple[list[Row], list[str]]:
    """Rows of all cases, and the names of those that failed, whose traceback is printed."""
    rows: list[Row] = []
    failed = []
    for name in names:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        try:
            rows += case(name)(quick=quick, **({"data": data} if name in TAKE_DATA else {}))
        except Exception:
            traceback.print_exc()
            failed.append(name)
    return rows, failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 when a case failed to run; a missed promise is printed, for noise can miss one."""
    options = parser(__doc__, ("quick", "data"))
    options.add_argument("--only", nargs="+", choices=case_names(), default=case_names(), metavar="NAME")
    chosen = parsed(options, arguments)
    if chosen["data"] is not None and not set(chosen["only"]) & set(TAKE_DATA):
        options.error(f"argument --data: no case of --only takes crystals; these do: {', '.join(TAKE_DATA)}")
    rows, failed = measured(chosen["only"], quick=chosen["quick"], data=chosen["data"])
    report(rows, json_path=chosen["json"])
    promised = [row for row in rows if row.met is not None]
    print(f"{sum(row.met is True for row in promised)} of {len(promised)} promises met")
    if failed:
        print(f"failed to run: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
