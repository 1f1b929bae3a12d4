"""What the workers of a Dask cluster run: a trial of the model when they join, then a lease at a time."""

from dataclasses import asdict
from typing import Any

from distributed import Worker as DaskWorker
from distributed import get_worker

from screening.runs.plan import Lease
from screening.runs.worker import PREDICTING, Job, Report, engine_of

SIGNS = "screening"


def try_out(job: Job) -> None:
    """Load the model and predict a crystal with it; from then on every heartbeat tells how far leases are."""
    worker = get_worker()
    engine = engine_of(job)
    engine.try_out()

    def signs(worker: DaskWorker) -> dict[str, list[str]]:
        return engine.signs()

    worker.metrics[SIGNS] = signs


def compute(job: Job, lease: Lease, topic: str) -> None:
    """Do a lease, and tell whoever listens to the topic what came of it: the result of a task stays on its worker."""
    report = engine_of(job).compute(lease, name=topic)
    get_worker().log_event(topic, message_of(report))


def signs_of(described: dict[str, Any]) -> dict[tuple[str, int], tuple[str, bool]]:
    """Signs of life in what the scheduler knows of a worker: by topic and lease, and whether it is predicting."""
    found = described.get("metrics", {}).get(SIGNS, {})
    return {
        (name.rpartition(" ")[0], int(name.rpartition(" ")[2])): (f"{stage} {steps}", stage == PREDICTING)
        for name, (stage, steps) in found.items()
    }


def message_of(report: Report) -> dict[str, Any]:
    """A report as what can be sent."""
    failures = [{"id": id, **asdict(failure), "reason": str(failure.reason)} for id, failure in report.failures]
    return {
        "lease": report.lease,
        "start": report.start,
        "stop": report.stop,
        "statuses": report.statuses,
        "seconds": report.seconds,
        "failures": failures,
    }
