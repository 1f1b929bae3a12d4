"""Where the time of a screen goes: the stages of its shards, and how much longer it all takes than the slowest one.

Made crystals, an untrained `sieve` of full size, one worker with a thread for each processor. Graphs and model share
those threads, so that together they are the slowest stage; reading, describing and writing go on beside them.

    python benchmarks/screen_stages.py [--quick] [--json PATH]
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import screens
import timing
import torch

from screening import machine
from screening.models import checkpoint, registry
from screening.models.header import Card
from screening.runs.dask_runner import DaskRunner
from screening.runs.listener import Progress
from screening.runs.local_cluster import Layout, local_cluster
from screening.runs.plan import Plan, Sizes

MEMORY = 4_000_000_000
PROMISED = 1.15


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure one screen, from the first lease to the last shard."""
    count, threads = (4_000 if quick else 40_000), machine.processors().allowed
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name, local_cluster(Layout(1, threads, MEMORY)) as cluster:
        folder = Path(name)
        packed = screens.packed_file(folder / "c.h5", count)
        checkpoint.save(registry.build("sieve", {}, screens.TARGETS), folder / "m", Card())
        job = screens.job_of(folder / "shards", packed, folder / "m", threads=threads)
        progress = Progress(count)
        DaskRunner(cluster, job, Plan(count, sizes=Sizes(500, 2_000)), progress).run()
    slowest = (progress.seconds["graphs"] + progress.seconds["model"]) / threads
    what = f"screen of {count:,} crystals"
    return [
        timing.Row(what, "crystals/s", progress.rate),
        *(timing.Row(f"{what}: {s}, all threads", "s", progress.seconds[s]) for s in sorted(progress.seconds)),
        timing.Row(f"{what}: as much as the slowest stage", "1", progress.elapsed / slowest, at_most=PROMISED),
    ]


if __name__ == "__main__":
    timing.main(run)
