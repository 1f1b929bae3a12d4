"""A distributed training, driven: ranks started on the workers that are there, and started again when one is lost.

An attempt is a rank per worker, each a task bound to it. When a rank is lost, so is the attempt: the others are called
off, and the next attempt goes on from the last checkpoint with the workers that there are then. A fence in the run's
folder lets the ranks of the last attempt write, and no others.
"""

import contextlib
import math
import queue
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Client, Future, KilledWorker

from screening import errors
from screening.errors import InputError, ResourceError, ScreeningError
from screening.runs.claim import Claim
from screening.runs.clusters import ClusterChoice, Demand, opened, require_possible
from screening.runs.config import ClusterSettings
from screening.runs.dask_client import DISCONNECTED, client_of, workers_of
from screening.runs.isolate import said
from screening.runs.rank_job import End, Ended, RankJob
from screening.runs.rank_tasks import Place, enrol, run_rank
from screening.runs.site import Site
from screening.training.config import RunSettings
from screening.training.lessons.registry import lesson_of
from screening.training.loop import Progress
from screening.training.material import Listener
from screening.training.recipe import GRAPHS, claim, prepare_files, prepare_objective, prepared
from screening.training.together import Fence

FENCE_FILE = "ranks"
LOOK_S = 0.5
# So many attempts in a row that end where they began are no accident.
MOST_IN_VAIN = 4
# A worker on which so many ranks died is left out, while there are others.
MOST_DEATHS = 2


@dataclass(frozen=True, slots=True)
class RankLimits:
    """Seconds: for the first workers to come, for a lost one to be replaced, for a rank that others wait for.

    `answer_s`: for a worker to say where it is. `settle_s`: so long no other worker has come, where it is not known how
    many will. `grace_s`: for the ranks beside one that failed, which may know more of it.
    """

    join_s: float = 600.0
    rejoin_s: float = 15.0
    silent_s: float = 600.0
    answer_s: float = 60.0
    settle_s: float = 3.0
    grace_s: float = 10.0


def train(
    config: RunSettings,
    folder: Path,
    listener: Listener,
    cluster: ClusterChoice,
    *,
    ranks: int | None = None,
    limits: RankLimits | None = None,
) -> dict[str, Any]:
    """Run a configuration as `training.recipe.train` does, by as many ranks, or by all workers of a cluster.

    >>> train(load(TrainingConfig, "train.toml"), Path("run"), Listener(print, print), chosen("local:2"))
    """
    device = config.training.device
    if device not in ("cpu", "cuda"):
        raise InputError(f"training.device is {device!r}; with --cluster it is cpu or cuda, each rank has its own GPU")
    settings = ClusterSettings() if cluster.profile is None else cluster.profile.cluster_settings(ClusterSettings())
    require_possible(cluster, workers=ranks, threads=config.training.threads, device=device)
    claim(folder, config)
    # Before workers are asked for, which may take hours too.
    lesson_of(config).check()
    folder = folder.resolve()
    demand = Demand(folder, settings, device, ranks, config.training.threads)
    with Claim(folder, say=listener.say) as held, opened(cluster, demand) as site:
        driver = _Driver(config, folder, listener, site, ranks or site.count, limits or RankLimits(), held)
        try:
            return driver.run()
        finally:
            shutil.rmtree(folder / GRAPHS, ignore_errors=True)
            (folder / FENCE_FILE).unlink(missing_ok=True)


class _LostError(Exception):
    """An attempt is over because of a lost rank or worker; another may follow."""


@dataclass(slots=True)
class _Attempt:
    """Ranks at work: the worker and the task of each, and what is heard of them."""

    token: str
    workers: Sequence[str] = ()
    futures: list[Future[None]] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    began: Progress | None = None
    ended: dict[int, Ended] = field(default_factory=dict)
    _silent_since: dict[int, float] = field(default_factory=dict)

    def look(self, there: Sequence[str], patience_s: float) -> None:
        """Note which ranks ended without a word, because their workers did."""
        now = time.monotonic()
        for rank, (future, worker) in enumerate(zip(self.futures, self.workers, strict=True)):
            if rank in self.ended or (future.status == "pending" and worker in there):
                continue
            why = "its worker is gone" if worker not in there else f"its task is {future.status}"
            if future.status == "error" and not isinstance(error := future.exception(), KilledWorker):
                self.ended[rank] = Ended(rank, End.CRASHED, said(error))
                continue
            # Its last words are on their way.
            if future.status == "finished" and now - self._silent_since.setdefault(rank, now) < patience_s:
                continue
            self.ended[rank] = Ended(rank, End.DIED, why)

    @property
    def is_over(self) -> bool:
        """Whether all ranks have ended."""
        return len(self.ended) == len(self.futures)


@dataclass(slots=True)
class _Driver:
    """A run, and what this call brings to it."""

    config: RunSettings
    folder: Path
    listener: Listener
    site: Site
    wanted: int | None
    limits: RankLimits
    claim: Claim
    sizes: tuple[int, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    _topic: str = field(default_factory=lambda: f"screening-{uuid.uuid4().hex}")
    _events: "queue.SimpleQueue[dict[str, Any]]" = field(default_factory=queue.SimpleQueue)
    _deaths: Counter[str] = field(default_factory=Counter)
    _in_vain: int = 0
    _last_start: tuple[int, int] | None = None

    def run(self) -> dict[str, Any]:
        """Train to the end, by however many attempts it takes."""
        with self._connected() as client:
            workers = self._first_workers(client)
            graphs = self.folder / GRAPHS
            self.sizes = prepare_files(self.config, graphs, self.listener)
            material = prepared(self.config, graphs, self.sizes)
            self.files = prepare_objective(self.config, material, self.folder, self.listener)
            while True:
                try:
                    return self._attempted(client, workers)
                except _LostError as error:
                    self._require_progress(str(error))
                    workers = self._workers_left(client, len(workers))
                    self.listener.say(f"{error}; going on from the last checkpoint with {_ranks(len(workers))}")

    @property
    def _patience_s(self) -> float:
        """How long to wait for workers; without end for those that a queue has, which says when they never come."""
        return math.inf if self.site.no_workers_s is None else self.limits.join_s

    # --- workers -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Client]:
        try:
            client = client_of(self.site.cluster)
        except DISCONNECTED as error:
            where = self.site.cluster if isinstance(self.site.cluster, str) else "this machine"
            raise ResourceError(f"no scheduler answers at {where} ({error}); start one, or mend --cluster") from error
        try:
            yield client
        finally:
            with contextlib.suppress(*DISCONNECTED):
                client.close(timeout=10.0)

    def _first_workers(self, client: Client) -> list[str]:
        """Wait for as many workers as are asked for, or until no more come."""
        most = self._patience_s
        if self.wanted is None:
            there = self._awaited(client, lambda there, still: bool(there) and still > self.limits.settle_s, most)
        else:
            there = self._awaited(client, lambda there, still: len(there) >= (self.wanted or 0), most)
        if len(there) < (self.wanted or 1):
            raise ResourceError(
                f"{len(there)} of {self.wanted or 'any'} workers came within {most:g} s; see the log of the cluster"
                + (", or ask for fewer with --ranks" if there else "")
            )
        return there

    def _workers_left(self, client: Client, before: int) -> list[str]:
        """Wait a while for a lost worker to be replaced, and longer if there is none at all."""
        there = self._awaited(client, lambda there, still: len(there) >= before, self.limits.rejoin_s)
        there = there or self._awaited(client, lambda there, still: bool(there), self._patience_s)
        if not there:
            raise ResourceError(
                f"no worker is left, and none came within {self._patience_s:g} s; the same command goes on"
            )
        return there

    def _awaited(self, client: Client, enough: Callable[[list[str], float], bool], patience_s: float) -> list[str]:
        """Wait until the workers that are there, for so many seconds without a change, are enough, or for so long."""
        began = changed = time.monotonic()
        before: list[str] = []
        while True:
            self._check()
            now, there = time.monotonic(), self._usable(client)
            changed, before = (changed if there == before else now), there
            if enough(there, now - changed) or now - began > patience_s:
                return there[: self.wanted]
            time.sleep(LOOK_S)

    def _usable(self, client: Client) -> list[str]:
        found = _there(client)
        sound = [address for address in found if self._deaths[address] < MOST_DEATHS]
        return sound or found

    # --- an attempt ----------------------------------------------------------------------------------------------

    def _attempted(self, client: Client, workers: Sequence[str]) -> dict[str, Any]:
        attempt = _Attempt(uuid.uuid4().hex)
        # Each time, for a scheduler that has been started anew knows nothing of an earlier subscription.
        client.subscribe_topic(self._topic, lambda event: self._events.put(event[1]))
        try:
            self._start(client, workers, attempt)
            return self._followed(client, attempt)
        finally:
            start = None if attempt.began is None else (attempt.began.epoch, attempt.began.step)
            self._in_vain = self._in_vain + 1 if start is None or start == self._last_start else 0
            self._last_start = start or self._last_start
            with contextlib.suppress(*DISCONNECTED):
                client.cancel(attempt.futures)

    def _start(self, client: Client, workers: Sequence[str], attempt: _Attempt) -> None:
        """Submit a rank to each worker, when all have said where they are, and one where they shall meet."""
        device = self.config.training.device
        places = self._enrolled(client, workers, attempt)
        # Those on one machine are neighbours.
        attempt.workers = sorted(workers, key=lambda address: (places[address].machine, address))
        first = places[attempt.workers[0]]
        gpus = assigned([places[a] for a in attempt.workers]) if device == "cuda" else [""] * len(workers)
        fence = Fence.raised(self.folder / FENCE_FILE, attempt.token)
        for rank, address in enumerate(attempt.workers):
            job = RankJob(
                command=lesson_of(self.config).command,
                config=self.config.model_dump(mode="json"),
                folder=str(self.folder),
                graphs=str(self.folder / GRAPHS),
                sizes=self.sizes,
                files=self.files,
                fence=str(fence.path),
                token=attempt.token,
                rank=rank,
                size=len(workers),
                host=first.host,
                port=first.port,
                silent_s=self.limits.silent_s,
                threads=self.site.threads,
                gpu=gpus[rank],
            )
            attempt.futures.append(_on(client, address, run_rank, job, self._topic))

    def _enrolled(self, client: Client, workers: Sequence[str], attempt: _Attempt) -> dict[str, Place]:
        device = self.config.training.device
        asked = {address: _on(client, address, enrol, attempt.token, device, self._topic) for address in workers}
        until = time.monotonic() + self.limits.answer_s
        while missing := [address for address in workers if address not in attempt.places]:
            self._check()
            self._listen(attempt, LOOK_S)
            for address in missing:
                self._require_sound(asked[address], address)
            silent = time.monotonic() > until
            gone = [address for address in missing if silent or address not in _there(client)]
            if gone:
                self._deaths[gone[0]] = MOST_DEATHS
                raise _LostError(f"worker {gone[0]} {'does not answer' if silent else 'is gone'}")
        return attempt.places

    def _require_sound(self, future: Future[None], address: str) -> None:
        """Raise what a worker raised that was asked where it is: it has no such function, or no address."""
        if future.status != "error":
            return
        error = future.exception()
        if not isinstance(error, KilledWorker):
            raise InputError(f"{address}: cannot be a rank ({said(error)}); has it the same version of this program?")

    def _followed(self, client: Client, attempt: _Attempt) -> dict[str, Any]:
        """Watch ranks until all have finished; the metrics of the first."""
        while True:
            self._check()
            self._listen(attempt, LOOK_S)
            attempt.look(_there(client), self.limits.grace_s)
            if any(end.end != End.FINISHED for end in attempt.ended.values()):
                self._judge(client, attempt)
            if attempt.is_over:
                return dict(attempt.ended[0].result or {})

    def _judge(self, client: Client, attempt: _Attempt) -> None:
        """Raise what ended an attempt: an error that would come again, or the loss of a rank."""
        until = time.monotonic() + self.limits.grace_s
        while not attempt.is_over and time.monotonic() < until:
            self._check()
            self._listen(attempt, LOOK_S)
            attempt.look(_there(client), self.limits.grace_s)
        by_kind = {kind: [end for end in attempt.ended.values() if end.end == kind] for kind in End}
        for end in by_kind[End.REFUSED]:
            raise _error_of(end)
        for end in by_kind[End.CRASHED]:
            raise RuntimeError(f"rank {end.rank} on {attempt.workers[end.rank]} failed:\n{end.words}")
        self._deaths.update(attempt.workers[end.rank] for end in by_kind[End.DIED])
        # Without a dead rank, what the ranks say of each other is all that is known.
        for end in [*by_kind[End.DIED], *by_kind[End.PEERS_LOST]]:
            raise _LostError(f"rank {end.rank} on {attempt.workers[end.rank]} is lost: {end.words}")
        raise _LostError("a rank was called off by another driver")

    def _listen(self, attempt: _Attempt, seconds: float) -> None:
        """Take in what workers and ranks tell, and pass it on, for as long as that."""
        until = time.monotonic() + seconds
        with contextlib.suppress(queue.Empty):
            while (left := until - time.monotonic()) > 0:
                event = self._events.get(timeout=left)
                if event["token"] == attempt.token:
                    self._hear(attempt, event["kind"], event["content"])

    def _hear(self, attempt: _Attempt, kind: str, content: Any) -> None:
        match kind:
            case "place":
                worker = content.pop("worker")
                attempt.places[worker] = Place(**content | {name: tuple(content[name]) for name in ("gpus", "ids")})
            case "end":
                attempt.ended[content["rank"]] = Ended(**content | {"end": End(content["end"])})
            case "say":
                self.listener.say(content)
            case "progress":
                progress = Progress(**content)
                attempt.began = attempt.began or progress
                self.listener.watch(progress)

    def _require_progress(self, words: str) -> None:
        if self._in_vain >= MOST_IN_VAIN:
            raise ResourceError(
                f"{self._in_vain} attempts in a row ended before a new checkpoint; of the last: {words}. Is there "
                "enough memory for each rank? The same command goes on"
            )

    def _check(self) -> None:
        self.listener.check()
        self.claim.check()
        self.site.check()


def assigned(places: Sequence[Place]) -> list[str]:
    """Give each rank a GPU of its own among those that its worker may use."""
    taken: set[str] = set()
    found = []
    for place in places:
        free = [(id, gpu) for id, gpu in place.choice if id not in taken]
        if not free:
            sharing = sum(p.machine == place.machine for p in places)
            raise ResourceError(
                f"{place.machine}: {sharing} workers share {len(place.gpus)} GPUs; a rank needs one of its own: start "
                "a worker for each GPU, or ask for fewer with --ranks"
            )
        taken.add(free[0][0])
        found.append(free[0][1])
    return found


def _there(client: Client) -> list[str]:
    """The addresses of the workers of a cluster."""
    try:
        return sorted(workers_of(client))
    except DISCONNECTED as error:
        raise ResourceError(f"the scheduler is gone ({error}); the same command goes on with this run") from error


def _on(client: Client, worker: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Have a worker, and no other, call a function once."""
    return client.submit(function, *arguments, workers=[worker], allow_other_workers=False, pure=False)


def _error_of(end: Ended) -> ScreeningError:
    kind = getattr(errors, end.error, ScreeningError)
    found: ScreeningError = kind(end.words)
    return found


def _ranks(count: int) -> str:
    return f"{count} rank" if count == 1 else f"{count} ranks"
