"""What the workers of a Dask cluster run: a trial of the model when they join, then a lease at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distributed import Worker as DaskWorker
from distributed import get_worker

from screening.runs.engines import Engines
from screening.runs.plan import Lease
from screening.runs.worker import PREDICTING, WAITING, Job, Report

SIGNS = "screening"


ENGINES = Engines()


def try_out(job: Job) -> None:
    """Load the model and predict a crystal with it; from then on every heartbeat tells how far leases are."""
    with ENGINES.use(_fitted(job)) as engine:
        engine.try_out()
    get_worker().metrics[SIGNS] = _signs


def compute(job: Job, lease: Lease, topic: str) -> None:
    """Do a lease, and tell whoever listens to the topic what came of it: the result of a task stays on its worker."""
    with ENGINES.use(_fitted(job)) as engine:
        report = engine.compute(lease, name=topic)
    get_worker().log_event(topic, message_of(report))


def _fitted(job: Job) -> Job:
    """The job with as many threads as Dask gives this worker, which may share its machine, unless the job says."""
    return replace(job, threads=job.threads or get_worker().state.nthreads)


def _signs(worker: DaskWorker) -> dict[str, list[str]]:
    ENGINES.close_idle()
    return ENGINES.signs()


@dataclass(frozen=True, slots=True)
class Sign:
    """A sign of life of a lease: words that change while it goes on, and which kind of silence may follow."""

    topic: str
    lease: int
    words: str
    computing: bool
    waiting: bool


def signs_of(described: Mapping[str, Any]) -> list[Sign]:
    """Signs of life in what the scheduler knows of a worker."""
    found = described.get("metrics", {}).get(SIGNS, {})
    return [_sign(name, stage, steps) for name, (stage, steps) in found.items()]


def _sign(name: str, stage: str, steps: str) -> Sign:
    topic, _, lease = name.rpartition(" ")
    return Sign(topic, int(lease), f"{stage} {steps}", stage == PREDICTING, stage == WAITING)


def message_of(report: Report) -> dict[str, Any]:
    """A report as what can be sent: the scheduler keeps the last thousand, so they are small."""
    return {
        "lease": report.lease,
        "start": report.start,
        "stop": report.stop,
        "statuses": report.statuses,
        "seconds": report.seconds,
    }
