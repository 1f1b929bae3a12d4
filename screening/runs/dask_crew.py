"""The workers of a Dask cluster as a run sees them: taken in when they have tried the model out, watched, ended.

What the scheduler knows is asked for every second. A worker that vanishes without having said so died of what it was
at; one that gives no sign of life is ended by its nanny, or by the scheduler where it has none.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future, KilledWorker

from screening.errors import ResourceError, ScreeningError
from screening.runs.dask_client import workers_of
from screening.runs.dask_tasks import signs_of, try_out
from screening.runs.isolate import said
from screening.runs.listener import Listener
from screening.runs.plan import Loss, Plan
from screening.runs.worker import Job

# A worker computes so many leases at a time, so that one can wait for its disk while the other predicts.
AT_ONCE = 2
# So many workers in a row that never got as far as a lease are no accident.
MOST_STILLBORN = 4
RESTART_S = 30.0

Gone = Callable[[str, Loss | None], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait: for a sign of life, for a worker to load the model, for any worker, for the scheduler.

    `grace_s` is what leases at work have to end in when a run is stopped.
    """

    patience_s: float = 120.0
    loading_s: float = 600.0
    no_workers_s: float | None = None
    scheduler_s: float = 60.0
    grace_s: float = 60.0


@dataclass(frozen=True, slots=True)
class _Trial:
    future: Future[None]
    since: float
    at_once: int


class Crew:
    """Who works; `look` is to be called every second or so. `gone` is told which worker went, and of what."""

    def __init__(self, client: Client, job: Job, plan: Plan, listener: Listener, limits: Limits, gone: Gone) -> None:
        self._client, self._job, self._plan = client, job, plan
        self._listener, self._limits, self._gone = listener, limits, gone
        self._trials: dict[str, _Trial] = {}
        self._ending: set[str] = set()
        self._unfit: set[str] = set()
        self._announced: set[str] = set()
        self._stillborn = 0
        self._last_words = ""
        self._alone_since: float | None = None

    def announced(self, event: Mapping[str, Any]) -> bool:
        """Note an event of the scheduler; tell whether workers have come or gone."""
        if event.get("action") == "remove-worker" and event.get("expected"):
            self._announced.add(event["worker"])
        return event.get("action") in ("add-worker", "remove-worker")

    def look(self, topic: str) -> None:
        """See who came and who went, listen to those at work, and end those that are silent."""
        there = workers_of(self._client)
        for address in [*self._plan.workers, *self._trials]:
            if address not in there:
                self._went(address)
        self._ending &= there.keys()
        self._unfit &= there.keys()
        known = {*self._plan.workers, *self._trials, *self._ending, *self._unfit}
        for address, described in there.items():
            if address not in known:
                self._try_out(address, described)
            for (whose, number), (sign, computing) in signs_of(described).items():
                if whose == topic:
                    self._plan.heard(number, sign, computing=computing)
        self._judge_trials()
        self._plan.tick(time.monotonic())
        for address in self._plan.overdue():
            self.end(address, Loss.HUNG)
        self._require_workers(there)

    def end(self, address: str, loss: Loss) -> None:
        """End a worker that is of no use, without waiting until its successor has come."""
        self._listener.tell("worker_ended", {"worker": address, "why": loss.value.value})
        self._gone(address, loss)
        self._restart(address)

    def _restart(self, address: str) -> None:
        self._ending.add(address)

        def restart() -> None:
            try:
                self._client.restart_workers([address], timeout=RESTART_S, raise_for_error=False)
            except Exception as error:
                # At the end of a run the connection goes before the worker has.
                if self._client.status == "running":
                    self._listener.tell("restart_failed", {"worker": address, "why": said(error)})

        threading.Thread(target=restart, name="restart", daemon=True).start()

    def _went(self, address: str) -> None:
        left_well = address in self._announced
        self._announced.discard(address)
        if self._trials.pop(address, None) is not None:
            if not left_well:
                self._bury("it died while it loaded the model; is there enough memory for each worker?")
            return
        self._listener.tell("worker_left" if left_well else "worker_died", {"worker": address})
        self._gone(address, None if left_well else Loss.KILLED)

    def _try_out(self, address: str, described: Mapping[str, Any]) -> None:
        future = self._client.submit(
            try_out, self._job, workers=[address], allow_other_workers=False, pure=False, key=f"try-out-{address}"
        )
        self._trials[address] = _Trial(future, time.monotonic(), min(AT_ONCE, int(described["nthreads"])))

    def _judge_trials(self) -> None:
        for address, trial in list(self._trials.items()):
            if trial.future.status == "finished":
                del self._trials[address]
                self._stillborn = 0
                self._listener.tell("worker_joined", {"worker": address})
                self._plan.joined(address, at_once=trial.at_once)
            elif trial.future.status == "error":
                self._fail_trial(address, trial.future.exception())
            elif time.monotonic() - trial.since > self._limits.loading_s:
                del self._trials[address]
                self._restart(address)
                self._bury(f"it loaded the model for more than {self._limits.loading_s:g} s")

    def _fail_trial(self, address: str, error: BaseException) -> None:
        if isinstance(error, KilledWorker):
            return  # the worker went, which shows when the scheduler is asked
        if isinstance(error, ScreeningError):
            raise error
        del self._trials[address]
        self._unfit.add(address)
        self._bury(said(error))

    def _bury(self, words: str) -> None:
        self._stillborn += 1
        self._last_words = words
        self._listener.tell("worker_unfit", {"why": words})
        if self._stillborn >= MOST_STILLBORN:
            raise ResourceError(f"{self._stillborn} workers in a row could not start to work; of the last: {words}")

    def _require_workers(self, there: Mapping[str, Any]) -> None:
        """Give up when there has been nobody to work for too long."""
        if self._plan.workers or self._trials:
            self._alone_since = None
            return
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        if there and there.keys() == self._unfit:
            raise ResourceError(f"none of {len(there)} workers can work; of the last: {self._last_words}")
        limit = self._limits.no_workers_s
        if limit is not None and now - self._alone_since > limit:
            raise ResourceError(f"no worker has joined for {limit:g} s; see the log of the cluster")
