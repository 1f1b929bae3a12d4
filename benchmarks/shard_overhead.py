"""What a shard costs besides predicting it: scheduling, reading, describing and writing, of shards of ten crystals.

One worker, whose predictor sums a few numbers, so that all that is left is the machinery. The driver shares the
processors with the worker.

    python benchmarks/shard_overhead.py [--quick] [--json PATH]
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import screens
import timing

from screening.runs.dask_runner import DaskRunner
from screening.runs.listener import Progress
from screening.runs.local_cluster import Layout, local_cluster
from screening.runs.plan import Plan, Sizes

CRYSTALS = 10
PROMISED_MS = 20.0
MEMORY = 4_000_000_000


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure shards one after another, after some that warm the worker up."""
    count = 100 if quick else 1000
    with tempfile.TemporaryDirectory() as name, local_cluster(Layout(1, 1, MEMORY)) as cluster:
        folder = Path(name)
        packed = screens.packed_file(folder / "c.h5", CRYSTALS * count)
        job = screens.job_of(folder / "shards", packed, screens.saved_model(folder / "m"), load=screens.arithmetic)
        progress, sizes = Progress(CRYSTALS * count), Sizes(CRYSTALS, CRYSTALS)
        driver = DaskRunner(cluster, job, Plan(CRYSTALS * 10, sizes=sizes), progress)
        driver.run()
        progress = Progress(CRYSTALS * count)
        driver = DaskRunner(cluster, job, Plan(CRYSTALS * count, sizes=sizes), progress)
        start, busy = time.perf_counter(), time.process_time()
        driver.run()
        wall, busy = time.perf_counter() - start, time.process_time() - busy
    # Two at a time: what a lease takes is more than what it adds.
    stages = {stage: seconds for stage, seconds in progress.seconds.items() if stage != "all"}
    return [
        timing.Row("a shard's overhead", "ms", 1e3 * wall / count, at_most=PROMISED_MS),
        timing.Row("a shard's overhead: processor time of the driver", "ms", 1e3 * busy / count),
        *(timing.Row(f"a shard's overhead: {s}", "ms", 1e3 * stages[s] / count) for s in sorted(stages)),
    ]


if __name__ == "__main__":
    timing.main(run)
