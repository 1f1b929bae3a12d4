"""What the machinery of a cluster costs: per worker, per shard, in the scheduler; and what follows for 10^9 crystals.

Rates are of a small untrained model; the overhead is of shards whose prediction costs nothing, as time that passes with
one worker and as processor time of driver, scheduler and worker together; the scheduler is loaded with no-op leases and
200 workers in one process. The table at the end multiplies these out, and says what it assumes. Nothing in it was
measured on more than this machine.

    python benchmarks/cluster.py [--quick]
"""

import asyncio
import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import dask
import psutil
import screens
import timing
from distributed import Client, Scheduler, Worker

from screening.runs.config import BatchSettings, ScreenConfig, ShardSettings
from screening.runs.local_cluster import quiet_logs
from screening.runs.screen import screen

WORKERS = 200
# Two hundred workers in one process would mostly measure their own timers.
QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "60s",
    "distributed.admin.tick.interval": "5s",
}
WINDOW = 4
PROMISED_OVERHEAD_MS = 20.0
# Assumptions of the table: crystals a second on one GPU, crystals of a shard, seconds until a job has its workers.
GPU_RATE = 20_000.0
SHARD = 10_000
START_S = 120.0
# Share of the time that is lost to walltimes, drains and nodes that fail.
LOST = 0.03
GPUS = (8, 64, 1024)


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure, then extrapolate."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        one, two = (_rate(place, workers, 2_000 if quick else 40_000) for workers in (1, 2))
        overhead, effort = _overhead(place, 200 if quick else 2_000)
    tasks, memory, latency = asyncio.run(_scheduler(20 if quick else WORKERS, 2_000 if quick else 100_000))
    rows = [
        timing.Row("1 worker", "crystals/s", one),
        timing.Row("2 workers", "crystals/s", two),
        timing.Row("machinery per shard, 1 worker", "ms", overhead, at_most=PROMISED_OVERHEAD_MS),
        timing.Row("machinery per shard, 1 worker: processor time", "ms", effort),
        timing.Row(f"scheduler, {20 if quick else WORKERS} workers in its process: leases", "1/s", tasks),
        timing.Row("scheduler: memory beside its workers", "MiB", memory),
        timing.Row("scheduler: time from lease to report, median", "ms", latency),
    ]
    return rows + list(_extrapolated(tasks))


def _config(folder: Path, workers: int, least: int) -> ScreenConfig:
    model = folder / "m.safetensors"
    if not model.exists():
        screens.saved_model(model)
    shards = ShardSettings(least=least, most=least)
    return ScreenConfig(model=str(model), workers=workers, threads=1, shards=shards, batches=BatchSettings())


def _rate(folder: Path, workers: int, count: int) -> float:
    """Crystals per second with a small model of this machine."""
    packed = folder / f"c{count}.h5"
    if not packed.exists():
        screens.packed_file(packed, count)
    done = screen([packed], folder / f"rate{workers}", _config(folder, workers, 1_000))
    return done.progress.rate


def _overhead(folder: Path, shards: int) -> tuple[float, float]:
    """Milliseconds per shard of ten crystals whose prediction costs next to nothing: that pass, and of processors."""
    seconds, effort = _machinery(folder, shards)
    # What every run costs once is in both.
    fewer = shards // 4
    once = _machinery(folder, fewer)[1]
    return 1e3 * seconds / shards, 1e3 * (effort - once) / (shards - fewer)


def _machinery(folder: Path, shards: int) -> tuple[float, float]:
    packed, before = screens.packed_file(folder / f"small{shards}.h5", 10 * shards), _processor_seconds()
    done = screen([packed], folder / f"overhead{shards}", _config(folder, 1, 10), load=screens.arithmetic)
    return done.progress.elapsed, _processor_seconds() - before


def _processor_seconds() -> float:
    """Of this process and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


async def _scheduler(workers: int, leases: int) -> tuple[float, float, float]:
    """Leases per second, MiB and latency of a scheduler with many workers, a window of leases for each."""
    process = psutil.Process()
    async with contextlib.AsyncExitStack() as crew:
        crew.enter_context(quiet_logs())
        crew.enter_context(dask.config.set(QUIET))
        scheduler = Scheduler(port=0, dashboard=False, dashboard_address="127.0.0.1:0", host="127.0.0.1")
        await crew.enter_async_context(scheduler)
        for _ in range(workers):
            worker = Worker(scheduler.address, nthreads=2, dashboard=False, host="127.0.0.1", memory_limit=0)
            await crew.enter_async_context(worker)
        client = await crew.enter_async_context(Client(scheduler.address, asynchronous=True))
        before = process.memory_info().rss
        addresses = list(scheduler.workers)
        start = time.perf_counter()
        latencies = await asyncio.gather(*(_stream(client, a, leases // workers) for a in addresses))
        seconds = time.perf_counter() - start
        memory = (process.memory_info().rss - before) / 2**20
    ordered = sorted(value for one in latencies for value in one)
    return leases / seconds, memory, 1e3 * ordered[len(ordered) // 2]


async def _stream(client: Client, address: str, count: int) -> list[float]:
    """Keep a window of no-op leases at one worker, as the driver does."""
    gate = asyncio.Semaphore(WINDOW)
    found: list[float] = []

    async def lease(k: int) -> None:
        async with gate:
            start = time.perf_counter()
            await client.submit(int, k, workers=[address], allow_other_workers=False, pure=False)
            found.append(time.perf_counter() - start)

    await asyncio.gather(*map(lease, range(count)))
    return found


def _extrapolated(tasks: float) -> Iterator[timing.Row]:
    for crystals in (10**8, 10**9):
        for gpus in GPUS:
            predicting = crystals / (gpus * GPU_RATE)
            # The scheduler is the bound where shards come faster than it can hand them out.
            bound = crystals / SHARD / tasks
            hours = (START_S + max(predicting, bound) / (1 - LOST)) / 3600
            yield timing.Row(f"10^{len(str(crystals)) - 1} crystals on {gpus:,} GPUs, extrapolated", "h", hours)


if __name__ == "__main__":
    timing.report(run(quick="--quick" in sys.argv))
