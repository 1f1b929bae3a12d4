"""Fair timings: contestants take turns within every round, so that a noisy minute hits all of them.

Case modules beside this file import it as `timing`: a script's own folder is on the path.
"""

import argparse
import contextlib
import ctypes
import gc
import inspect
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import psutil

PACKAGES = ("numpy", "pymatgen", "ase", "gemmi", "h5py", "matscipy-neighbours", "vesin", "torch")
SAMPLING_PERIOD_S = 0.01


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: our figure, a peer's where there is one, and what was promised.

    `ratio` is how many times better we are than `peer`. A promise bounds the ratio, or our own figure when
    there is no peer.
    """

    case: str
    unit: str
    ours: float
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def measured(self) -> float:
        """The figure that the promise is about."""
        return self.ours if self.ratio is None else self.ratio

    @property
    def met(self) -> bool | None:
        """Whether the promise holds; None when nothing was promised."""
        if self.at_least is None and self.at_most is None:
            return None
        above = self.at_least is None or self.measured >= self.at_least
        return above and (self.at_most is None or self.measured <= self.at_most)


def interleaved(
    functions: Mapping[str, Callable[[], object]], rounds: int = 7, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds per call: each round calls every function once, the order rotating from round to round."""
    names = list(functions)
    if warm_up:
        for name in names:
            functions[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(_seconds(functions[name]))
    return seconds


def _seconds(function: Callable[[], object]) -> float:
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    finally:
        gc.enable()


def paired_ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times faster ours is: the median over rounds of the ratio within a round."""
    return median(t / o for t, o in zip(theirs, ours, strict=True))


def versus_fastest(
    case: str,
    seconds: Mapping[str, Sequence[float]],
    *,
    ours: str,
    count: float,
    unit: str = "crystals/s",
    at_least: float | None = None,
) -> Row:
    """Our rate beside the rate of the fastest other contestant in the same rounds."""
    peer = min((name for name in seconds if name != ours), key=lambda name: median(seconds[name]))
    return Row(
        case=case,
        unit=unit,
        ours=count / median(seconds[ours]),
        peer=peer,
        theirs=count / median(seconds[peer]),
        ratio=paired_ratio(seconds[peer], seconds[ours]),
        at_least=at_least,
    )


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a command used: wall seconds, and the largest resident memory of its process tree and of one process.

    `own_mib` is the largest of one process without pages that it shares with files.
    """

    seconds: float
    peak_mib: float
    largest_mib: float
    own_mib: float


def footprint(command: Sequence[str]) -> Footprint:
    """Run a command to its end and watch its memory, workers included; a failing command raises.

    Sampled, not taken from wait4: there `ru_maxrss` starts at the size of the process that spawned the command.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = largest = own = 0
    while process.poll() is None:
        sizes = _resident_bytes(process.pid)
        peak = max(peak, sum(resident for resident, _ in sizes))
        largest = max(largest, *(resident for resident, _ in sizes))
        own = max(own, *(resident - shared for resident, shared in sizes))
        time.sleep(SAMPLING_PERIOD_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Footprint(time.perf_counter() - start, peak / 2**20, largest / 2**20, own / 2**20)


def _resident_bytes(pid: int) -> list[tuple[int, int]]:
    """Resident bytes of a process and each of its descendants, and those shared with files; (0, 0) once it is gone."""
    sizes = [(0, 0)]
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                memory = process.memory_info()
                sizes.append((memory.rss, memory.shared))
    return sizes


M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD = -4, -1, -2
"""Numbers of glibc's malloc.h."""


def keep_memory() -> None:
    """Let malloc give nothing back to the system from now on, so that contestants do not wait for pages of zeros."""
    mallopt = ctypes.CDLL(None).mallopt
    if not (mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1) and mallopt(M_TOP_PAD, 1 << 28)):
        raise OSError("malloc does not keep memory here; it takes glibc")


def render(rows: Sequence[Row]) -> str:
    """The rows as an aligned text table."""
    lines = [("case", "ours", "fastest peer", "theirs", "unit", "ratio", "promised", "")]
    lines += [
        (
            row.case,
            _figure(row.ours),
            row.peer or "-",
            _figure(row.theirs),
            row.unit,
            "-" if row.ratio is None else f"{row.ratio:.2f}x",
            _promise(row),
            {None: "", True: "met", False: "MISSED"}[row.met],
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    right = {1, 3, 5, 6}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _promise(row: Row) -> str:
    bounds = [f"{sign} {_figure(limit)}" for sign, limit in ((">=", row.at_least), ("<=", row.at_most)) if limit]
    return ", ".join(bounds) or "-"


def machine() -> dict[str, str]:
    """What the figures depend on: processor, cores, memory, versions."""
    return {
        "processor": _processor(),
        "cores": str(len(psutil.Process().cpu_affinity() or [])),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def report(rows: Sequence[Row], *, json_path: Path | None = None) -> None:
    """Print the machine and the table, and write both as JSON when a path is given."""
    described = machine()
    print(", ".join(f"{name} {value}" for name, value in described.items()))
    print(render(rows))
    if json_path is not None:
        content = {"machine": described, "rows": [asdict(row) | {"met": row.met} for row in rows]}
        json_path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def parser(description: str | None, takes: Collection[str]) -> argparse.ArgumentParser:
    """The options of benchmarks: where figures are kept, and those of the others that are taken."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="PATH", help="also write machine and figures to this file")
    if "quick" in takes:
        made.add_argument("--quick", action="store_true", help="small sets, few rounds")
    if "data" in takes:
        made.add_argument("--data", type=Path, metavar="FILE", help="a file of real crystals")
    return made


def parsed(options: argparse.ArgumentParser, arguments: Sequence[str] | None) -> dict[str, Any]:
    """What was asked for, by name; without the file of crystals the command ends before anything is measured."""
    chosen = vars(options.parse_args(arguments))
    data: Path | None = chosen.get("data")
    if data is not None and not data.exists():
        options.error(f"argument --data: there is no file {data}")
    return chosen


def main(
    run: Callable[..., list[Row]],
    own_options: Callable[[argparse.ArgumentParser], None] | None = None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Run one case module as a script: `run` gets what the options say, of which a module may have some of its own."""
    options = parser(sys.modules[run.__module__].__doc__, inspect.signature(run).parameters)
    if own_options is not None:
        own_options(options)
    chosen = parsed(options, arguments)
    json_path = chosen.pop("json")
    report(run(**chosen), json_path=json_path)
