"""What the machinery of a cluster costs: per worker, per shard, in the scheduler; and what follows for 10^9 crystals.

Rates are of a small untrained model; the overhead is of shards of ten crystals whose prediction costs nothing, as time
that passes with one worker, as processor time of driver, scheduler and worker together, and by stages of the worker,
which is at two shards at a time: their sum is more than what passes. Then the driver of a run, its scheduler and
200 workers, all in one process, do 100,000 leases that predict and write nothing. The table at the end multiplies these
out, and says what it assumes. Nothing in it was measured on more than this machine.

    python benchmarks/cluster.py [--quick] [--json PATH] [--workers N] [--leases N]
"""

import argparse
import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import dask
import no_op
import psutil
import screens
import timing
from distributed import LocalCluster

from screening.runs import dask_crew, dask_runner
from screening.runs.config import BatchSettings, ScreenConfig, ShardSettings
from screening.runs.listener import Progress
from screening.runs.local_cluster import CONFIG, SILENT, Layout, local_cluster, quiet_logs
from screening.runs.plan import Lease, Plan, Rows, Sizes
from screening.runs.screen import screen

WORKERS = 200
LEASES = 100_000
MEMORY = 4_000_000_000
# Two hundred workers in one process would mostly measure their own timers.
QUIET = {"distributed.admin.system-monitor.interval": "60s", "distributed.admin.tick.interval": "5s"}
PROMISED_OVERHEAD_MS = 20.0
# Assumptions of the table: crystals a second on one GPU, crystals of a shard, seconds until a job has its workers.
GPU_RATE = 20_000.0
SHARD = 10_000
START_S = 120.0
# Share of the time that is lost to walltimes, drains and nodes that fail.
LOST = 0.03
GPUS = (8, 64, 1024)


def run(*, quick: bool = False, workers: int | None = None, leases: int | None = None) -> list[timing.Row]:
    """Measure, then extrapolate; with so many leases that do nothing, for so many workers."""
    workers, leases = workers or (20 if quick else WORKERS), leases or (1_000 if quick else LEASES)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        one, two = (_rate(place, count, 2_000 if quick else 40_000) for count in (1, 2))
        overhead = list(_overhead(place, 200 if quick else 2_000))
        rest = _at_rest(2.0 if quick else 20.0)
        load = _no_op_leases(place, workers, leases)
    rows = [
        timing.Row("1 worker", "crystals/s", one),
        timing.Row("2 workers", "crystals/s", two),
        *overhead,
        timing.Row("machinery at rest, 1 worker: processor time of a second", "ms", rest),
        *_told(f"{leases:,} empty leases, {workers} workers in one process", load),
    ]
    return rows + list(_extrapolated(load.rate))


def _model(folder: Path) -> Path:
    path = folder / "m.safetensors"
    return path if path.exists() else screens.saved_model(path)


def _config(folder: Path, workers: int, least: int) -> ScreenConfig:
    shards = ShardSettings(least=least, most=least)
    model = str(_model(folder))
    return ScreenConfig(model=model, workers=workers, threads=1, shards=shards, batches=BatchSettings())


def _rate(folder: Path, workers: int, count: int) -> float:
    """Crystals per second with a small model of this machine."""
    packed = folder / f"c{count}.h5"
    if not packed.exists():
        screens.packed_file(packed, count)
    done = screen([packed], folder / f"rate{workers}", _config(folder, workers, 1_000))
    return done.progress.rate


def _overhead(folder: Path, shards: int) -> Iterator[timing.Row]:
    """What a shard of ten crystals whose prediction costs next to nothing takes."""
    less, more = (_machinery(folder, count) for count in (shards // 4, shards))
    # What every run costs once is in both.
    each = 1e3 / (shards - shards // 4)
    driver, workers = (each * (after - before) for before, after in zip(less.processors, more.processors, strict=True))
    what = "machinery per shard, 1 worker"
    yield timing.Row(what, "ms", 1e3 * more.progress.elapsed / shards, at_most=PROMISED_OVERHEAD_MS)
    yield timing.Row(f"{what}: processor time", "ms", driver + workers)
    yield timing.Row(f"{what}: processor time of driver and scheduler", "ms", driver)
    for stage in sorted(more.progress.seconds.keys() - {"all"}):
        seconds = more.progress.seconds[stage] - less.progress.seconds[stage]
        yield timing.Row(f"{what}: {stage}", "ms", each * seconds)


@dataclass(frozen=True, slots=True)
class _Screened:
    """How a run went, and its processor seconds: of this process, and of its workers."""

    progress: Progress
    processors: tuple[float, float]


def _machinery(folder: Path, shards: int) -> _Screened:
    packed, before = screens.packed_file(folder / f"small{shards}.h5", 10 * shards), _processor_seconds()
    done = screen([packed], folder / f"overhead{shards}", _config(folder, 1, 10), load=screens.arithmetic)
    after = _processor_seconds()
    return _Screened(done.progress, (after[0] - before[0], after[1] - before[1]))


def _at_rest(seconds: float) -> float:
    """Milliseconds of processors that a cluster takes a second, doing nothing: of what a shard takes, part is that."""
    with local_cluster(Layout(1, 1, MEMORY)):
        mine = psutil.Process()
        crew = [mine, *mine.children(recursive=True)]
        time.sleep(seconds)
        before, start = _used(crew), time.perf_counter()
        time.sleep(seconds)
        return 1e3 * (_used(crew) - before) / (time.perf_counter() - start)


def _used(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _processor_seconds() -> tuple[float, float]:
    """Of this process, and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


@dataclass(frozen=True, slots=True)
class _Load:
    """What leases that do nothing cost: how many a second, processor time of each, MiB held, seconds each is out."""

    rate: float
    effort: float
    memory: float
    latency: float


class _TimedPlan(Plan):
    """A plan that notes how long leases are out."""

    def __init__(self, total: int, **options: Any) -> None:
        super().__init__(total, **options)
        self.out: dict[int, float] = {}
        self.seconds: list[float] = []

    def next_leases(self) -> list[Lease]:
        found = super().next_leases()
        self.out |= dict.fromkeys((lease.number for lease in found), time.perf_counter())
        return found

    def finished(self, number: int) -> Rows | None:
        self.seconds.append(time.perf_counter() - self.out.pop(number))
        return super().finished(number)


def _no_op_leases(folder: Path, workers: int, leases: int) -> _Load:
    """Drive leases that do nothing through the driver, scheduler and workers of a run, all in this process."""
    packed = screens.packed_file(folder / "no-op.h5", 1)
    job = screens.job_of(folder / "no-op", packed, _model(folder))
    plan = _TimedPlan(leases, sizes=Sizes(1, 1), slow_s=1e9)
    process = psutil.Process()
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet_logs())
        stack.enter_context(dask.config.set(dict(CONFIG) | QUIET))
        stack.enter_context(mock.patch.object(dask_runner, "compute", no_op.compute))
        stack.enter_context(mock.patch.object(dask_crew, "try_out", no_op.try_out))
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=workers,
                threads_per_worker=dask_crew.AT_ONCE,
                processes=False,
                protocol="tcp://",
                memory_limit=None,
                dashboard_address=None,
                silence_logs=SILENT,
            )
        )
        before, busy, start = process.memory_info().rss, time.process_time(), time.perf_counter()
        dask_runner.DaskRunner(cluster, job, plan, Progress(leases)).run()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        memory = (process.memory_info().rss - before) / 2**20
    return _Load(leases / seconds, 1e3 * busy / leases, memory, sorted(plan.seconds)[leases // 2])


def _told(what: str, load: _Load) -> Iterator[timing.Row]:
    yield timing.Row(what, "1/s", load.rate)
    yield timing.Row(f"{what}: processor time of each", "ms", load.effort)
    yield timing.Row(f"{what}: memory of driver and scheduler", "MiB", load.memory)
    yield timing.Row(f"{what}: from lease to report, median", "s", load.latency)


def _extrapolated(tasks: float) -> Iterator[timing.Row]:
    for crystals in (10**8, 10**9):
        for gpus in GPUS:
            predicting = crystals / (gpus * GPU_RATE)
            # The scheduler is the bound where shards come faster than it can hand them out.
            bound = crystals / SHARD / tasks
            hours = (START_S + max(predicting, bound) / (1 - LOST)) / 3600
            yield timing.Row(f"10^{len(str(crystals)) - 1} crystals on {gpus:,} GPUs, extrapolated", "h", hours)


def own_options(parser: argparse.ArgumentParser) -> None:
    """How much is done that does nothing."""
    parser.add_argument("--workers", type=int, metavar="N", help=f"in-process workers; by default {WORKERS}")
    parser.add_argument("--leases", type=int, metavar="N", help=f"leases that do nothing; by default {LEASES:,}")


if __name__ == "__main__":
    timing.main(run, own_options)
