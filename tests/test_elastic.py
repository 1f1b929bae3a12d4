"""Worker jobs that come to nothing, told from those that wait and those that are not wanted any more."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from screening.errors import ResourceError
from screening.runs.slurm import controller, elastic
from screening.runs.slurm.elastic import MOST_STILLBORN, _Watch


@dataclass
class WorkerJob:
    """What dask-jobqueue has for a job."""

    job_id: str | None

    async def close(self) -> None:
        """Nothing is left of it."""


@dataclass
class Cluster:
    """What dask-jobqueue knows, and what Slurm does: jobs by name, workers that joined, ids in the queue."""

    workers: dict[str, WorkerJob] = field(default_factory=dict)
    queue: set[str] = field(default_factory=set)
    scheduler_info: dict[str, Any] = field(default_factory=lambda: {"workers": {}})
    job_name: str = "screening-a"
    submitted: int = 0
    wanted: int = 0

    _dummy_job = SimpleNamespace(log_directory="logs")

    @property
    def worker_spec(self) -> dict[str, WorkerJob]:
        return self.workers

    @property
    def loop(self) -> "Cluster":
        return self

    def add_callback(self, work: Callable[..., Any], *arguments: object) -> None:
        asyncio.run(work(*arguments))

    def adapt(self, wanted: int) -> None:
        """Cancel jobs, or ask for more, until there are as many as are wanted."""
        self.wanted = wanted
        there = {described["name"] for described in self.scheduler_info["workers"].values()}
        for name in [name for name in self.workers if name not in there][: max(0, len(self.workers) - wanted)]:
            self.queue.discard(str(self.workers.pop(name).job_id))
        while len(self.workers) < wanted:
            name = next(name for k in range(wanted) if (name := f"worker-{k}") not in self.workers)
            self.submitted += 1
            self.workers[name] = WorkerJob(str(self.submitted))
            self.queue.add(str(self.submitted))

    def join(self, *names: str) -> None:
        """Let the workers of jobs come."""
        self.scheduler_info["workers"] |= {f"tls://{name}": {"name": name} for name in names}

    def end(self, *names: str) -> None:
        """Let jobs end."""
        self.queue -= {str(self.workers[name].job_id) for name in names}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()

    def jobs_named(*names: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(id=id, hopeless="") for id in sorted(found.queue)]

    monkeypatch.setattr(controller, "jobs_named", jobs_named)
    monkeypatch.setattr(elastic, "LOOK_S", -1.0)
    return found


def watch_of(cluster: Cluster) -> _Watch:
    return _Watch(cluster, "screening-a", lambda: cluster.wanted)  # type: ignore[arg-type]


def test_jobs_that_are_cancelled_because_less_is_wanted_end_nothing(cluster: Cluster) -> None:
    watch = watch_of(cluster)
    cluster.adapt(100)
    cluster.join(*(f"worker-{k}" for k in range(5)))
    for wanted in range(100, 4, -5):
        cluster.adapt(wanted)
        watch.check()
    assert (len(cluster.workers), cluster.submitted) == (5, 100)


def test_a_job_that_is_cancelled_while_slurm_is_asked_has_not_failed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watch_of(cluster)
    cluster.adapt(100)

    def shown(*names: str) -> list[object]:
        cluster.adapt(1)
        return [SimpleNamespace(id=id, hopeless="") for id in cluster.queue]

    monkeypatch.setattr(controller, "jobs_named", shown)
    watch.check()
    assert watch._stillborn == set()


def test_a_job_that_ends_before_its_worker_joined_is_asked_for_anew(cluster: Cluster) -> None:
    watch = watch_of(cluster)
    cluster.adapt(3)
    cluster.join("worker-0")
    cluster.end("worker-1")
    watch.check()
    cluster.adapt(3)
    assert [job.job_id for job in cluster.workers.values()] == ["1", "3", "4"]
    # One whose worker has joined is Dask's to part from.
    cluster.end("worker-0")
    watch.check()
    cluster.adapt(3)
    assert cluster.submitted == 4


def test_jobs_that_all_end_before_their_workers_join_end_the_run(cluster: Cluster) -> None:
    watch = watch_of(cluster)
    for _ in range(MOST_STILLBORN // 3 + 1):
        cluster.adapt(3)
        cluster.end(*cluster.workers)
        watch.check()
    cluster.adapt(3)
    cluster.end(*cluster.workers)
    words = r"12 worker jobs in a row ended before their worker joined; see screening-a-\*.err in logs"
    with pytest.raises(ResourceError, match=words):
        watch.check()


def test_a_node_on_which_all_jobs_end_at_once_does_not_end_a_run_that_others_work_at(cluster: Cluster) -> None:
    watch = watch_of(cluster)
    cluster.adapt(3)
    cluster.join("worker-0")
    for _ in range(50):
        cluster.adapt(3)
        cluster.end("worker-1", "worker-2")
        watch.check()
    assert cluster.submitted < 3 + 2 * MOST_STILLBORN, "what fails again and again is not asked for for ever"
    cluster.join("worker-1")
    cluster.end("worker-2")
    watch.check()
    cluster.adapt(3)
    assert "worker-2" in cluster.workers
    watch.check()


def test_a_silent_controller_says_nothing_of_jobs(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*names: str) -> None:
        raise controller.SilentError("squeue: no answer")

    watch = watch_of(cluster)
    cluster.adapt(30)
    monkeypatch.setattr(controller, "jobs_named", silent)
    watch.check()
    assert len(cluster.workers) == 30
