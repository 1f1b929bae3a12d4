"""The plan of a billion crystals, simulated: time, memory and what a restart costs. No crystal is computed.

A thousand workers take leases in turn; one in a thousand leases loses its worker to a node that fails, and three
crystals kill whoever computes them. The restart lists a real folder of shard names, as a run does.

    python benchmarks/plan_simulation.py [--quick] [--json PATH]
"""

import tempfile
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timing

from screening.runs.plan import Lease, Loss, Plan, Sizes
from screening.store.shard import shard_name, shard_ranges

SIZES = Sizes(least=1_000, most=10_000)
WORKERS = 1_000
NODE_FAILURES = 1e-3
PROMISED_SECONDS = 30.0
PROMISED_MIB = 16.0


def run(*, quick: bool = False) -> list[timing.Row]:
    """Simulate a whole run, then one that was stopped halfway."""
    total = 10**7 if quick else 10**9
    what = f"plan of {total:,} crystals"
    seconds, leases = _simulated(total, lambda plan: None)
    held: list[int] = []
    tracemalloc.start()
    _simulated(total, lambda plan: held.append(tracemalloc.get_traced_memory()[0]))
    tracemalloc.stop()
    return [
        timing.Row(f"{what}: all events", "s", seconds, at_most=PROMISED_SECONDS),
        timing.Row(f"{what}: leases", "1", leases),
        timing.Row(f"{what}: an event", "us", 1e6 * seconds / leases),
        timing.Row(f"{what}: most memory", "MiB", max(held) / 2**20, at_most=PROMISED_MIB),
        *_restarted(what, total),
    ]


def _simulated(total: int, watch: Callable[[Plan], object]) -> tuple[float, int]:
    rng = np.random.default_rng(0)
    deadly = {total // 7, total // 3, total // 2}
    start, leases, born = time.perf_counter(), 0, WORKERS
    plan = Plan(total, sizes=SIZES)
    for k in range(WORKERS):
        plan.joined(f"worker-{k}", at_once=2)
    out = deque(plan.next_leases())
    while not plan.over:
        lease = out.popleft()
        leases += 1
        loss = Loss.KILLED if _kills(lease, deadly) else None
        if loss is not None or rng.random() < NODE_FAILURES:
            plan.gone(lease.worker, loss)
            born += 1
            plan.joined(f"worker-{born}", at_once=2)
        else:
            plan.finished(lease.number)
        out += plan.next_leases()
        if leases % 1000 == 0:
            watch(plan)
    assert (plan.rows_done, plan.verdicts, plan.aside) == (total, len(deadly), [])
    return time.perf_counter() - start, leases


def _kills(lease: Lease, deadly: set[int]) -> bool:
    return lease.verdict is None and any(lease.rows.start <= row < lease.rows.stop for row in deadly)


def _restarted(what: str, total: int) -> list[timing.Row]:
    """Half of the shards are there, with a gap after each thousand."""
    starts = [start for start in range(0, total, SIZES.most) if start // SIZES.most % 1000 < 500]
    with tempfile.TemporaryDirectory() as folder:
        for start in starts:
            Path(folder, shard_name(start, min(start + SIZES.most, total))).touch()
        before = time.perf_counter()
        listed = [(start, stop) for start, stop, _ in shard_ranges(Path(folder))]
        between = time.perf_counter()
        plan = Plan(total, listed, sizes=SIZES)
        after = time.perf_counter()
    assert plan.rows_done == sum(stop - start for start, stop in listed)
    return [
        timing.Row(f"{what}: list {len(starts):,} shards", "s", between - before),
        timing.Row(f"{what}: plan what is left", "s", after - between),
    ]


if __name__ == "__main__":
    timing.main(run)
