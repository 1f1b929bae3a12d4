"""The workers of a Dask cluster as a run sees them: taken in when they have tried the model out, watched, ended.

What the scheduler knows is asked for every second. A worker that vanishes without having said so died of what it was
at; one that gives no sign of life is ended by its nanny, or by the scheduler where it has none. Nothing is concluded
from what a scheduler says that was lost meanwhile: another one at its address knows no worker yet.
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future, KilledWorker

from screening.errors import ResourceError, ScreeningError
from screening.runs.dask_client import workers_of
from screening.runs.dask_tasks import signs_of, try_out
from screening.runs.isolate import said
from screening.runs.listener import Listener
from screening.runs.plan import LONGEST_TICK_S, Loss, Plan
from screening.runs.worker import Job, require_job

# A worker computes so many leases at a time, so that one can wait for its disk while the other predicts.
AT_ONCE = 2
# So many deaths for each worker that was there, and nobody who got as far as a lease, are no accident; nor are so many
# who could not work, where others come in their place.
MOST_STILLBORN = 4
# Where nobody knows how many will come, others are waited for while all who are there cannot work.
UNFIT_S = 300.0
RESTART_S = 30.0

Gone = Callable[[str, Loss | None], None]


@dataclass(frozen=True, slots=True)
class CrewLimits:
    """How long to wait: for a sign of life, for a worker to load the model, for any worker, for the scheduler.

    `grace_s` is what leases at work have to end in when a run is stopped, `verdicts` how many crystals may end workers,
    `workers` how many of these will come, where that is known.
    """

    patience_s: float = 120.0
    loading_s: float = 600.0
    no_workers_s: float | None = None
    scheduler_s: float = 60.0
    grace_s: float = 60.0
    verdicts: int = 100
    workers: int | None = None


class SchedulerLostError(Exception):
    """The scheduler does not answer any more, or has forgotten what this client wanted."""


@dataclass(frozen=True, slots=True)
class Link:
    """A client and its connection. Dask renews a broken one, but tasks and subscriptions went with the old."""

    client: Client
    comm: object

    @classmethod
    def of(cls, client: Client) -> "Link":
        """The connection that a client has now."""
        return cls(client, client.scheduler_comm)

    @property
    def is_lost(self) -> bool:
        """Whether the connection is broken, or was, and is another one by now."""
        return self.client.status != "running" or self.client.scheduler_comm is not self.comm

    def require(self) -> None:
        """Raise if the connection is lost."""
        if self.is_lost:
            raise SchedulerLostError


@dataclass(frozen=True, slots=True)
class _Trial:
    future: Future[None]
    since: float
    at_once: int


class Crew:
    """Who works; `look` is to be called every second or so. `gone` is told which worker went, and of what.

    `renew` has another come in place of a worker that cannot work, by its name.
    """

    def __init__(
        self,
        link: Link,
        job: Job,
        plan: Plan,
        listener: Listener,
        limits: CrewLimits,
        gone: Gone,
        renew: Callable[[str], object] | None = None,
    ) -> None:
        self._link, self._client, self._job, self._plan = link, link.client, job, plan
        self._listener, self._limits, self._gone, self._renew = listener, limits, gone, renew
        self._trials: dict[str, _Trial] = {}
        self._ending: set[str] = set()
        self._unfit: set[str] = set()
        # Who was removed, by what the scheduler told, and whether that was expected; who was missing at the last look.
        self._removed: dict[str, bool] = {}
        self._missing: set[str] = set()
        self._names: dict[str, str] = {}
        # How many could not work since the last one who could.
        self._most_there = self._stillborn = self._unfit_in_a_row = 0
        self._last_words = ""
        self._alone_since: float | None = None
        self._clock: float | None = None
        self._time = 0.0

    def announced(self, event: Mapping[str, Any]) -> bool:
        """Note an event of the scheduler; tell whether workers have come or gone."""
        if event.get("action") == "remove-worker":
            self._removed[event["worker"]] = bool(event.get("expected"))
        return event.get("action") in ("add-worker", "remove-worker")

    def look(self, topic: str) -> None:
        """See who came and who went, listen to those at work, and end those that are silent."""
        there = workers_of(self._client)
        self._link.require()
        self._most_there = max(self._most_there, len(there))
        self._pass_time(time.monotonic())
        self._note_gone(there)
        known = {*self._plan.workers, *self._trials, *self._ending, *self._unfit}
        self._names = {address: str(described.get("name", address)) for address, described in there.items()}
        for address, described in there.items():
            if address not in known:
                self._try_out(address, described)
            for sign in signs_of(described):
                if sign.topic == topic:
                    self._plan.heard(sign.lease, sign.words, computing=sign.computing, waiting=sign.waiting)
        self._judge_trials()
        for address in self._plan.overdue():
            self.end(address, Loss.HUNG)
        self._require_workers(there)

    def _pass_time(self, now: float) -> None:
        """Let time pass as the plan does, so that a driver that was suspended gives up on nobody."""
        passed = 0.0 if self._clock is None else now - self._clock
        self._clock = now
        self._time += min(max(passed, 0.0), LONGEST_TICK_S)
        self._plan.tick(now)

    def _note_gone(self, there: Mapping[str, Any]) -> None:
        """Part from those that were removed; who is missing without a word has until the next look to send it."""
        removed, self._removed = self._removed, {}
        missing = {a for a in (*self._plan.workers, *self._trials) if a not in removed and a not in there}
        for address in [*self._plan.workers, *self._trials]:
            if address in removed:
                self._went(address, left_well=removed[address])
            elif address in missing & self._missing:
                self._went(address, left_well=False)
        self._missing = missing
        self._ending &= there.keys() - removed.keys()
        self._unfit &= there.keys() - removed.keys()

    def dismiss(self, address: str, error: BaseException) -> None:
        """Give a worker nothing more to do, for the machine it is on will not do; raise if this one will not either."""
        if isinstance(error, ScreeningError):
            self._require_here(error)
        self._unfit.add(address)
        self._unfit_in_a_row += 1
        self._last_words = str(error) if isinstance(error, ScreeningError) else said(error)
        self._listener.tell("worker_unfit", {"worker": address, "why": self._last_words})
        if self._renew is not None and self._unfit_in_a_row < self._most_unfit:
            self._renew(self._names.get(address, address))

    def _require_here(self, error: ScreeningError) -> None:
        try:
            require_job(self._job)
        except ScreeningError as ours:
            raise error from ours

    def end(self, address: str, loss: Loss | None, why: str = "") -> None:
        """End a worker that is of no use, without waiting until its successor has come; a loss blames its rows."""
        self._listener.tell("worker_ended", {"worker": address, "why": why or (loss.value.value if loss else "")})
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

    def _went(self, address: str, *, left_well: bool) -> None:
        if self._trials.pop(address, None) is not None:
            if not left_well:
                self._bury(address, "it died while it loaded the model; is there enough memory for each worker?")
            return
        self._listener.tell("worker_left" if left_well else "worker_died", {"worker": address})
        self._gone(address, None if left_well else Loss.KILLED)

    def _try_out(self, address: str, described: Mapping[str, Any]) -> None:
        # Other runs may try the same worker out.
        key = f"try-out-{uuid.uuid4().hex}"
        future = self._client.submit(
            try_out, self._job, workers=[address], allow_other_workers=False, pure=False, key=key
        )
        self._trials[address] = _Trial(future, self._time, min(AT_ONCE, int(described["nthreads"])))

    def _judge_trials(self) -> None:
        for address, trial in list(self._trials.items()):
            if trial.future.status == "finished":
                del self._trials[address]
                self._stillborn = self._unfit_in_a_row = 0
                self._listener.tell("worker_joined", {"worker": address})
                self._plan.joined(address, at_once=trial.at_once)
            elif trial.future.status == "error":
                self._fail_trial(address, trial.future.exception())
            elif trial.future.status != "pending":
                raise SchedulerLostError
            elif self._time - trial.since > self._limits.loading_s:
                del self._trials[address]
                self._restart(address)
                self._bury(address, f"it loaded the model for more than {self._limits.loading_s:g} s")

    def _fail_trial(self, address: str, error: BaseException) -> None:
        if isinstance(error, KilledWorker):
            return  # the worker went, which shows when the scheduler is asked
        del self._trials[address]
        self.dismiss(address, error)

    def _bury(self, address: str, words: str) -> None:
        self._stillborn += 1
        self._last_words = words
        self._listener.tell("worker_unfit", {"worker": address, "why": words})
        if not self._plan.workers and self._stillborn >= MOST_STILLBORN * max(1, self._most_there):
            raise ResourceError(f"{self._stillborn} workers in a row could not start to work; of the last: {words}")

    @property
    def _most_unfit(self) -> int:
        """So many who cannot work, one after the other, are no accident, where others come in their place."""
        return MOST_STILLBORN * max(1, self._most_there)

    def _require_workers(self, there: Mapping[str, Any]) -> None:
        """Give up when there has been nobody to work for too long, or nobody will be."""
        if self._plan.workers or self._trials:
            self._alone_since = None
            return
        waited = 0.0 if self._alone_since is None else self._time - self._alone_since
        if self._is_hopeless(there, waited):
            unfit = max(len(self._unfit), self._unfit_in_a_row)
            raise ResourceError(f"none of {unfit} workers can work; of the last: {self._last_words}")
        if self._alone_since is None:
            self._alone_since = self._time
            if self._unfit:
                self._listener.say(f"no worker can work so far, others may come; of the last: {self._last_words}")
        limit = self._limits.no_workers_s
        if limit is not None and waited > limit:
            raise ResourceError(f"no worker has joined for {limit:g} s; see the log of the cluster")

    def _is_hopeless(self, there: Mapping[str, Any], waited: float) -> bool:
        """See whether nobody can work, and nobody else is to be expected."""
        if self._renew is not None:
            return self._unfit_in_a_row >= self._most_unfit
        if not there or not there.keys() <= self._unfit:
            return False
        if self._limits.workers is not None and len(there) >= self._limits.workers:
            return True
        return waited > (UNFIT_S if self._limits.no_workers_s is None else self._limits.no_workers_s)
