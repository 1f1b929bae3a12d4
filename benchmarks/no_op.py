"""What workers of benchmarks/cluster.py run in place of predictions: nothing, told of as the real thing is.

A module of its own, so that tasks are sent by name, as those of screening/runs/dask_tasks.py are.
"""

from distributed import get_worker

from screening.runs.dask_tasks import message_of
from screening.runs.plan import Lease
from screening.runs.worker import Job, Report


def try_out(job: Job) -> None:
    """Have nothing to try."""


def compute(job: Job, lease: Lease, topic: str) -> None:
    """Tell that a lease is done."""
    rows = lease.rows
    report = Report(lease.number, rows.start, rows.stop, {"ok": len(rows)}, {})
    get_worker().log_event(topic, message_of(report))
