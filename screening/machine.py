"""What this process may use of the machine: memory and processors, as cgroups, affinity and Slurm limit them.

And how it uses memory: whether what tensors give back is kept for the next. `root` stands for the file system's root,
so that tests can lay out any machine.
"""

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

ROOT = Path("/")

# Of glibc's malloc.h. The values are those that malloc comes to by itself when a program frees large blocks.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
TRIM_BYTES, MAP_BYTES = 64 << 20, 32 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that this process may use at most, and bytes that are free of them; `limited_by` names the bound."""

    limit: int
    free: int
    limited_by: str


@dataclass(frozen=True, slots=True)
class Processors:
    """Processors of the machine, and how many of them this process may use; `limited_by` names the bound."""

    present: int
    allowed: int
    limited_by: str


def memory(root: Path = ROOT) -> Memory:
    """Find the tightest memory limit that applies: the machine's, or that of a control group above this process."""
    meminfo = _fields(root / "proc/meminfo", ":")
    total, available = (int(meminfo[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    found = Memory(total, available, "the machine")
    for group in _groups(root, "memory"):
        limit = _number(group / "memory.max", group / "memory.limit_in_bytes")
        used = _number(group / "memory.current", group / "memory.usage_in_bytes")
        if limit is None or used is None or limit >= total:
            continue
        # File pages that nobody uses are given back before the limit bites.
        statistics = _fields(group / "memory.stat", " ")
        idle = int(statistics.get("total_inactive_file", statistics.get("inactive_file", "0")))
        free = max(0, min(found.free, limit - used + idle))
        by = "a control group" if limit < found.limit else found.limited_by
        found = Memory(min(limit, found.limit), free, by)
    return found


def processors(root: Path = ROOT) -> Processors:
    """Count the processors this process may use: affinity, control group quota and Slurm's allotment, the least."""
    present = os.cpu_count() or 1
    bounds = {"the machine": present, "affinity": len(os.sched_getaffinity(0))}
    for group in _groups(root, "cpu"):
        quota = _quota(group)
        if quota is not None:
            bounds["a control group"] = min(quota, bounds.get("a control group", quota))
    allotted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if allotted.isdecimal() and int(allotted) > 0:
        bounds["SLURM_CPUS_PER_TASK"] = int(allotted)
    tightest = min(bounds, key=lambda name: bounds[name])
    return Processors(present, bounds[tightest], tightest)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The control group of this process and those above it, version 2 or 1.

    Inside a container the listed path can be one of the host's that is not mounted here; then only the folders
    that exist, at least the mount itself, count.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    mount = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 1 has a tree per set of controllers, version 2 one tree, beside them on hybrid machines.
        names = [controllers, controller] if controllers else ["unified", ""]
        top = next((mount / name for name in names if (mount / name).is_dir()), None)
        if top is None:
            continue
        below = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(below), -1, -1):
            group = top.joinpath(*below[:depth])
            if group.is_dir():
                yield group


def _quota(group: Path) -> int | None:
    """Whole processors that the time quota of a control group amounts to, at least one; None without a quota."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        quota = str(_number(group / "cpu.cfs_quota_us") or "max")
        period = str(_number(group / "cpu.cfs_period_us") or 100_000)
    return max(1, ceil(int(quota) / int(period))) if quota.isdecimal() and int(quota) > 0 else None


def _number(*paths: Path) -> int | None:
    """The number in the first of these files that is there; None for `max` or no file."""
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8").strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() else None
    return None


def _fields(path: Path, separator: str) -> dict[str, str]:
    """A file of `name<separator>value` lines; empty when it is not there."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(separator) for line in lines)}


def keep_freed_memory() -> bool:
    """Let glibc keep up to 64 MiB that tensors gave back for those to come; False where there is no glibc.

    Dask starts workers with MALLOC_TRIM_THRESHOLD_, which stops malloc from learning how large blocks are: each larger
    than 128 KiB is then mapped anew, page by page, which costs a model on a CPU two thirds of its speed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MAP_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, TRIM_BYTES))
