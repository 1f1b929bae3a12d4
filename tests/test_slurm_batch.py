"""Batch runs on a real Slurm: they predict, drain, go on, and survive the loss of whatever they are made of."""

from pathlib import Path

import pytest
from devcluster import DevCluster
from slurm_runs import COUNT, SlurmRun, made_input

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_input(tmp_path_factory.mktemp("made"))


@pytest.fixture
def run(slurm: DevCluster, tmp_path: Path, made: Path) -> SlurmRun:
    return SlurmRun(slurm, tmp_path, made)


def test_a_run_on_two_nodes_gives_what_one_process_gives(run: SlurmRun) -> None:
    job = run.submit(run.profile())
    run.finished(job)
    workers = {event["worker"] for event in run.events("worker_joined")}
    assert len(workers) == 2
    assert all(worker.startswith("tls://") for worker in workers)
    # Recomputation is counted: each shard once.
    shards = run.events("shard")
    assert sum(event["stop"] - event["start"] for event in shards) == COUNT
    assert run.out.stat().st_mode & 0o777 == 0o700
    run.assert_nothing_left(job)
