"""Drives a plan through a Dask cluster: leases out to workers, few at a time, and what becomes of them back in.

Each lease is a task of its own, bound to the worker that the plan chose, in order. So it is always known which leases
were at work when a worker dies, and the scheduler never holds more tasks than a few per worker, nor any result: shards
are on the disk. The scheduler's own retries are not used; what is tried again, where, is the plan's decision.
"""

import contextlib
import queue
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distributed import Client, Future, KilledWorker
from distributed.deploy.cluster import Cluster

from screening.errors import FileFormatError, ResourceError, ScreeningError
from screening.runs.dask_client import CONNECT_S, DISCONNECTED, client_of
from screening.runs.dask_crew import Crew, CrewLimits, Link, SchedulerLostError
from screening.runs.dask_tasks import compute, message_of
from screening.runs.isolate import BrokenWorkerError, UnwellMachineError, said
from screening.runs.listener import Listener, Progress
from screening.runs.plan import Lease, Loss, Plan, joined
from screening.runs.row_reader import UnreadableRowsError
from screening.runs.worker import Job, report_of
from screening.store.schema import Status
from screening.store.shard import read_failures, shard_name

LOOK_S = 0.5
SHOW_S = 0.2
# So many ranges that cannot be read are no accident.
MOST_ASIDE = 50
# What another worker would meet at the same rows; all other errors of ours are of the machine that a worker is on.
OF_ROWS = (FileFormatError, UnreadableRowsError)

Event = tuple[str, Any]


@dataclass(slots=True)
class DaskRunner:
    """Runs a plan on a cluster: an object of Dask's, the address of a scheduler, or the path of a scheduler file."""

    cluster: Cluster | str
    job: Job
    plan: Plan
    progress: Progress
    listener: Listener = field(default_factory=Listener)
    limits: CrewLimits = field(default_factory=CrewLimits)
    check: Callable[[], object] = lambda: None
    renew: Callable[[str], object] | None = None
    _topic: str = field(default_factory=lambda: f"screening-{uuid.uuid4().hex}")
    _futures: dict[int, Future[None]] = field(default_factory=dict)
    _leases: dict[int, Lease] = field(default_factory=dict)
    _events: "queue.SimpleQueue[Event]" = field(default_factory=queue.SimpleQueue)
    _told: set[int] = field(default_factory=set)
    _rows_told: set[tuple[int, int]] = field(default_factory=set)
    _ends_at: float | None = None
    _began: float | None = None

    def run(self) -> bool:
        """Work until all is done (True), or until the leases at work are finished after a request to stop (False)."""
        lost_at: float | None = None
        while True:
            try:
                with self._connected() as link:
                    lost_at = None
                    return self._drive(link)
            except SchedulerLostError as error:
                now = time.monotonic()
                lost_at = lost_at or now
                self._forget_all()
                if self.plan.over:
                    self._show()
                    return True
                if now - lost_at > self.limits.scheduler_s:
                    raise ResourceError(
                        f"the scheduler is gone, and did not come back within {self.limits.scheduler_s:g} s "
                        f"({error.__cause__ or 'it was lost again'}); what is done is kept: give the same command again"
                    ) from error
                if self.listener.stopping():
                    return False
                time.sleep(LOOK_S)

    # --- the connection ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Link]:
        try:
            client = client_of(self.cluster)
        except DISCONNECTED as error:
            raise SchedulerLostError from error
        try:
            link = Link.of(client)
            client.subscribe_topic(self._topic, lambda event: self._events.put(("report", event[1])))
            client.subscribe_topic("all", lambda event: self._events.put(("cluster", event[1])))
            self.progress.dashboard = dashboard_of(client)
            self.listener.tell("connected", {"dashboard": self.progress.dashboard})
            yield link
        finally:
            self._futures.clear()
            # One that just tries to reconnect fails in ways of its own; what it had is worth nothing by now.
            with contextlib.suppress(Exception):
                client.close(timeout=CONNECT_S)

    def _forget_all(self) -> None:
        """Take everything back that was leased through a scheduler which is gone."""
        self._futures.clear()
        self.listener.tell("scheduler_lost", {})
        for worker in self.plan.workers:
            self._gone(worker, None)

    # --- the loop ------------------------------------------------------------------------------------------------

    def _drive(self, link: Link) -> bool:
        crew = Crew(link, self.job, self.plan, self.listener, self.limits, self._gone, self.renew)
        look_at = show_at = 0.0
        while not self.plan.over:
            now = time.monotonic()
            with _connection_kept(link):
                if now >= look_at:
                    crew.look(self._topic)
                    self.check()
                    look_at = now + LOOK_S
                if self._should_end(now):
                    return self.plan.over
                if self._ends_at is None:
                    self._submit(link.client)
                if now >= show_at:
                    self._show()
                    show_at = now + SHOW_S
                if self._handle_events(crew):
                    look_at = 0.0
            self._require_sanity()
        self._show()
        return True

    def _submit(self, client: Client) -> None:
        for lease in self.plan.next_leases():
            # Rates are of the time since somebody could work.
            self._began = time.monotonic() if self._began is None else self._began
            future = client.submit(
                compute,
                self.job,
                lease,
                self._topic,
                key=f"{shard_name(lease.rows.start, lease.rows.stop)}-{self._topic}-{lease.number}",
                workers=[lease.worker],
                allow_other_workers=False,
                pure=False,
                priority=-lease.number,
            )
            self._futures[lease.number], self._leases[lease.number] = future, lease
            if lease.twin:
                facts = {"start": lease.rows.start, "stop": lease.rows.stop, "worker": lease.worker}
                self.listener.tell("shard_again", facts)
            future.add_done_callback(lambda future, number=lease.number: self._events.put(("ended", number)))

    def _handle_events(self, crew: Crew) -> bool:
        """Wait a moment for events and handle all there are; tell whether workers came or went."""
        changed = False
        timeout: float = SHOW_S
        with contextlib.suppress(queue.Empty):
            while True:
                kind, content = self._events.get(timeout=timeout) if timeout else self._events.get_nowait()
                timeout = 0.0
                if kind == "cluster":
                    changed |= crew.announced(content)
                elif kind == "report":
                    self._report(content)
                else:
                    self._ended(content, crew)
        return changed

    def _report(self, report: dict[str, Any]) -> None:
        """Count a lease's rows and tell its failures, once, whoever reports them: its worker, its shard, its twin."""
        rows = report["start"], report["stop"]
        if report["lease"] in self._told or rows in self._rows_told:
            return
        self._told.add(report["lease"])
        self._rows_told.add(rows)
        self.progress.statuses.update(report["statuses"])
        self.progress.seconds.update(report["seconds"])
        if Status.FAILED.word in report["statuses"]:
            self._tell_failures(self.job.shards / shard_name(report["start"], report["stop"]))
        self.listener.tell("shard", {key: report[key] for key in ("start", "stop", "statuses", "seconds")})

    def _tell_failures(self, shard: Path) -> None:
        # A shard that cannot be read is found when merging, and its rows are told when they are predicted again.
        with contextlib.suppress(ScreeningError, OSError):
            for id, failure in read_failures(shard):
                self.listener.tell("crystal_failed", {"id": id, **asdict(failure)})

    def _ended(self, number: int, crew: Crew) -> None:
        future, lease = self._futures.get(number), self._leases.get(number)
        if future is None or lease is None:
            return  # taken back meanwhile
        del self._futures[number]
        if future.status == "finished":
            self._finish(number)
        elif future.status == "error":
            self._failed(lease, future.exception(), crew)
        else:
            # Nobody but a client that lost its scheduler, or a scheduler that lost its client, cancels a lease.
            raise SchedulerLostError

    def _finish(self, number: int) -> None:
        del self._leases[number]
        rows = self.plan.finished(number)
        self.progress.rows += len(rows) if rows else 0

    def _failed(self, lease: Lease, error: BaseException, crew: Crew) -> None:
        if isinstance(error, KilledWorker):
            return  # its worker went, and the crew finds out
        if isinstance(error, BrokenWorkerError | MemoryError):
            # What ended it may have been its rows, unless the machine was found to be at fault.
            blamed = None if isinstance(error, UnwellMachineError) else Loss.KILLED
            crew.end(lease.worker, blamed, said(error))
        elif isinstance(error, ScreeningError) and not isinstance(error, OF_ROWS):
            crew.dismiss(lease.worker, error)
            self._gone(lease.worker, None)
        else:
            why = str(error) if isinstance(error, OF_ROWS) else said(error)
            self.listener.tell("shard_refused", {"start": lease.rows.start, "stop": lease.rows.stop, "why": why})
            del self._leases[lease.number]
            self.plan.refused(lease.number, why)

    def _gone(self, worker: str, loss: Loss | None) -> None:
        """Take back what a worker held, but for shards that it has written before it went."""
        for lease in self.plan.leases_of(worker):
            self._futures.pop(lease.number, None)
            if self._left_behind(lease):
                self._finish(lease.number)
            self._told.add(lease.number)  # what it may yet say is no news, or of rows that another does
            self._leases.pop(lease.number, None)
        blamed = self.plan.gone(worker, loss)
        self.progress.lost_workers += loss is not None
        for lease in blamed:
            facts = {"start": lease.rows.start, "stop": lease.rows.stop, "worker": worker}
            self.listener.tell("shard_lost", facts | {"why": loss.value.value if loss else ""})

    def _left_behind(self, lease: Lease) -> bool:
        """See whether a worker wrote the shard of its lease before it went; then it may not have told of it."""
        shard = self.job.shards / shard_name(lease.rows.start, lease.rows.stop)
        try:
            if not shard.exists():
                return False
            self._report(message_of(report_of(lease.number, shard)))
        except (ScreeningError, OSError):
            return False  # the rows are computed again
        return True

    def _should_end(self, now: float) -> bool:
        """See whether to stop: what has not begun is withdrawn, what is at work has a grace time."""
        if self._ends_at is None and self.listener.stopping():
            self._ends_at = now + self.limits.grace_s
            self.listener.tell("stopping", {"leases": self.plan.leased, "grace_s": self.limits.grace_s})
            for lease in self.plan.queued():
                if (future := self._futures.pop(lease.number, None)) is not None:
                    future.cancel()
                self.plan.withdrawn(lease.number)
        return self._ends_at is not None and (self.plan.leased == 0 or now >= self._ends_at)

    def _show(self) -> None:
        now = time.monotonic()
        self.progress.workers = len(self.plan.workers)
        self.progress.elapsed = now - self._began if self._began is not None else 0.0
        self.listener.show(self.progress)

    def _require_sanity(self) -> None:
        """Stop when so much goes wrong that it cannot be the crystals."""
        if self.plan.verdicts > self.limits.verdicts:
            raise ScreeningError(
                f"{self.plan.verdicts} crystals killed their worker or took too long; that is rarely their fault. See "
                "the log, and try the model on some of them with one worker. If it is their fault, go on with a larger "
                "limits.verdicts"
            )
        if len(self.plan.aside) > MOST_ASIDE and (ranges := len(joined(self.plan.aside))) > MOST_ASIDE:
            raise FileFormatError(f"{ranges} ranges of rows cannot be done; the last: {self.plan.aside[-1].why}")


@contextlib.contextmanager
def _connection_kept(link: Link) -> Iterator[None]:
    """Tell a lost scheduler from everything else that goes wrong while its client is used."""
    try:
        yield
    except (ScreeningError, SchedulerLostError):
        raise
    except Exception as error:
        if isinstance(error, DISCONNECTED) or link.is_lost:
            raise SchedulerLostError from error
        raise
    link.require()


def dashboard_of(client: Client) -> str:
    """Where the dashboard of a cluster is; empty when it has none."""
    with contextlib.suppress(*DISCONNECTED, KeyError, ValueError):
        services = client.scheduler_info(n_workers=0)["services"]
        return str(client.dashboard_link) if "dashboard" in services else ""
    return ""
