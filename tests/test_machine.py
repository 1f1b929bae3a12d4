"""Limits of memory and processors, on machines laid out as folders: control groups of both versions, quotas, Slurm."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from screening import machine

GIB = 2**30


def lay_out(root: Path, **files: str) -> Path:
    """Write files below a root; `__` in a name stands for a slash and `_dot_` for a dot."""
    meminfo = f"MemTotal: {64 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {40 * GIB // 1024} kB\n"
    for name, text in {"proc__meminfo": meminfo, **files}.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_without_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    found = machine.memory(lay_out(tmp_path))
    assert found == machine.Memory(64 * GIB, 40 * GIB, "the machine")


def test_a_group_of_version_2_limits_memory_and_its_idle_file_pages_count_as_free(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        proc__self__cgroup="0::/job/step\n",
        sys__fs__cgroup__job__memory_dot_max=f"{8 * GIB}\n",
        sys__fs__cgroup__job__memory_dot_current=f"{6 * GIB}\n",
        sys__fs__cgroup__job__memory_dot_stat=f"anon {GIB}\ninactive_file {3 * GIB}\n",
        sys__fs__cgroup__job__step__memory_dot_max="max\n",
        sys__fs__cgroup__job__step__memory_dot_current=f"{6 * GIB}\n",
    )
    assert machine.memory(root) == machine.Memory(8 * GIB, 5 * GIB, "a control group")


def test_the_tightest_group_above_decides_each_figure(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        proc__self__cgroup="0::/job/step\n",
        sys__fs__cgroup__job__memory_dot_max=f"{32 * GIB}",
        sys__fs__cgroup__job__memory_dot_current=f"{31 * GIB}",
        sys__fs__cgroup__job__step__memory_dot_max=f"{16 * GIB}",
        sys__fs__cgroup__job__step__memory_dot_current=f"{2 * GIB}",
    )
    assert machine.memory(root) == machine.Memory(16 * GIB, 1 * GIB, "a control group")


def test_a_group_of_version_1_limits_memory_beside_an_empty_version_2_tree(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        proc__self__cgroup="4:memory:/box\n1:name=systemd:/\n0::/\n",
        sys__fs__cgroup__unified__cgroup_dot_procs="",
        sys__fs__cgroup__memory__box__memory_dot_limit_in_bytes=f"{4 * GIB}",
        sys__fs__cgroup__memory__box__memory_dot_usage_in_bytes=f"{1 * GIB}",
        sys__fs__cgroup__memory__box__memory_dot_stat=f"inactive_file 0\ntotal_inactive_file {GIB // 2}\n",
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes=str(2**63 - 4096),
        sys__fs__cgroup__memory__memory_dot_usage_in_bytes=f"{1 * GIB}",
    )
    assert machine.memory(root) == machine.Memory(4 * GIB, 3 * GIB + GIB // 2, "a control group")


def test_a_path_that_only_the_host_has_falls_back_to_the_mount(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        proc__self__cgroup="0::/../../elsewhere\n",
        sys__fs__cgroup__memory_dot_max=f"{2 * GIB}",
        sys__fs__cgroup__memory_dot_current=f"{3 * GIB}",
    )
    assert machine.memory(root) == machine.Memory(2 * GIB, 0, "a control group")


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)


@pytest.mark.usefixtures("eight")
def test_affinity_limits_processors(tmp_path: Path) -> None:
    assert machine.processors(lay_out(tmp_path)) == machine.Processors(8, 6, "affinity")


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(("quota", "allowed"), [("max 100000", 6), ("250000 100000", 3), ("1000 100000", 1)])
def test_a_quota_of_version_2_limits_processors(tmp_path: Path, quota: str, allowed: int) -> None:
    root = lay_out(tmp_path, proc__self__cgroup="0::/job\n", sys__fs__cgroup__job__cpu_dot_max=quota)
    assert machine.processors(root).allowed == allowed


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(("quota", "allowed"), [("-1", 6), ("200000", 2)])
def test_a_quota_of_version_1_limits_processors(tmp_path: Path, quota: str, allowed: int) -> None:
    root = lay_out(
        tmp_path,
        proc__self__cgroup="2:cpu,cpuacct:/\n",
        sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us=quota,
        sys__fs__cgroup__cpu__cpu_dot_cfs_period_us="100000",
    )
    assert machine.processors(root).allowed == allowed


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(("allotted", "allowed"), [("4", 4), ("0", 6), ("", 6), ("many", 6), ("64", 6)])
def test_slurm_allots_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allotted: str, allowed: int) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", allotted)
    assert machine.processors(lay_out(tmp_path)).allowed == allowed


def test_this_machine_has_limits() -> None:
    memory, processors = machine.memory(), machine.processors()
    assert 0 <= memory.free <= memory.limit
    assert 1 <= processors.allowed <= processors.present


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept_where_dask_would_give_it_back() -> None:
    """Blocks of a megabyte, taken and given back: without the call each is mapped anew, and its pages with it."""
    faults = """
import resource, sys
import numpy as np
from screening.machine import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    np.ones(1 << 17)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    found = {}
    for name in ("given back", "kept"):
        command = [sys.executable, "-c", faults, name]
        environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found[name] = int(ran.stdout)
    assert found["given back"] > 100 * 100
    assert found["kept"] < 100 * 10
