"""Which rows are computed next, by which worker, and what follows when that goes wrong: a state machine without I/O.

Every row in [0, total) is done, waiting, leased to a worker, or put aside. Whoever drives a plan reports what happened
(a worker joined or went, a lease was finished or refused, a sign of life) and submits the leases that it hands out.
What a plan holds grows with the rows that are not done, not with those that are: stretches of waiting rows are cut
into leases as workers ask.

Rows that take their worker down are tried once more, alone on a worker. If that ends the same way they are split, and
the parts tried alone, until a single crystal is left; when that one has done it twice, a verdict is recorded in its
place. Parts are eighths, not halves: each level costs the life of a worker, or the wait for one that hangs.

When nothing waits any more, what a slow worker is still at is leased to an idle one too, once. Who finishes first has
done it; the other's lease is void from then on, and neither its end nor its worker's is of any consequence.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from statistics import median

from screening.predictions import FailureReason

PARTS = 8
STRIKES = 2
# So many times rows may lose their worker to what is not their fault, until it counts as theirs once.
LOSSES_PER_STRIKE = 8
# Rows that cannot be read are narrowed down to so few: about a chunk of the input.
FEWEST_REFUSED = 1024
# Each worker has so many leases for each that it works on, so that it never waits for the driver.
DEPTH = 2
# Waiting rows are dealt out in at least so many leases per worker, so that all workers end together.
SHARE = 4
# Time that passes between two looks at the clock counts for at most this much: the driver may have been suspended.
LONGEST_TICK_S = 5.0
# A lease that is out for so many times what is usual is on a slow worker.
SLOW = 3.0
REMEMBERED = 256

Cut = Callable[[int, int], int]


class Loss(Enum):
    """How rows cost a worker its life, and the reason that a verdict has for it."""

    KILLED = FailureReason.KILLED_WORKER
    HUNG = FailureReason.TIMED_OUT


@dataclass(frozen=True, slots=True, order=True)
class Rows:
    """The rows [start, stop) of the input."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def parts(self, count: int) -> "list[Rows]":
        """Cut into `count` nearly equal parts, fewer when there are fewer rows."""
        count = min(count, len(self))
        edges = [self.start + len(self) * k // count for k in range(count + 1)]
        return [Rows(a, b) for a, b in pairwise(edges)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is recorded of a crystal that no worker survives: a reason to count by and a sentence."""

    reason: FailureReason
    message: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Rows for a worker to compute, or, with a verdict, one row to record as failed; a twin's another is at too."""

    number: int
    rows: Rows
    worker: str
    verdict: Verdict | None = None
    twin: bool = False


@dataclass(frozen=True, slots=True)
class Aside:
    """Rows that could not be done, and why."""

    rows: Rows
    why: str


def joined(aside: Iterable[Aside]) -> list[Aside]:
    """Put what was put aside in order, ranges that follow each other as one, for the reason of the first."""
    found: list[Aside] = []
    for one in sorted(aside, key=lambda one: one.rows):
        if found and found[-1].rows.stop == one.rows.start:
            found[-1] = Aside(Rows(found[-1].rows.start, one.rows.stop), found[-1].why)
        else:
            found.append(one)
    return found


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many crystals a lease has: between `least` and `most`, fewer towards the end."""

    least: int = 1_000
    most: int = 10_000


@dataclass(slots=True)
class _Piece:
    """Waiting or leased rows and their history; `out` are the leases of them, two at most.

    `refusers` are the workers that could not do them.
    """

    rows: Rows
    strikes: int = 0
    losses: int = 0
    refusals: int = 0
    refusers: frozenset[str] = frozenset()
    suspect: bool = False
    verdict: Verdict | None = None
    out: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Held:
    """A lease that is out; `since` is when its last sign of life came, None until it is the worker's turn.

    One that waits for another of its worker has no turn yet.
    """

    lease: Lease
    piece: _Piece
    leased: float = 0.0
    sign: str = ""
    since: float | None = None
    computing: bool = True
    waiting: bool = False
    void: bool = False


@dataclass(slots=True)
class _Worker:
    name: str
    at_once: int
    held: dict[int, _Held] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """Whether it holds suspect rows, and hence nothing else."""
        return any(held.piece.suspect for held in self.held.values())

    def at_work(self) -> list[_Held]:
        """The leases it works on: workers take theirs in order."""
        return list(self.held.values())[: self.at_once]


class Plan:
    """The state of a run.

    `cut(start, stop)` may end a lease that starts at `start` and would end at `stop` earlier, for instance by a budget
    of atoms. A worker that gives no sign of life for `patience_s` is overdue; one is slow at a lease, at the earliest,
    after `slow_s`.
    """

    def __init__(
        self,
        total: int,
        done: Iterable[tuple[int, int]] = (),
        *,
        cut: Cut = lambda start, stop: stop,
        sizes: Sizes | None = None,
        patience_s: float = 120.0,
        slow_s: float = 30.0,
    ) -> None:
        self.total = total
        self.rows_done = 0
        self.verdicts = 0
        self.aside: list[Aside] = []
        self._cut, self._sizes, self._patience_s, self._slow_s = cut, sizes or Sizes(), patience_s, slow_s
        self._stretches = list(_gaps(total, sorted(done)))[::-1]
        self._rows_uncut = sum(stop - start for start, stop in self._stretches)
        self.rows_done = total - self._rows_uncut
        self._again: deque[_Piece] = deque()
        self._suspects: deque[_Piece] = deque()
        self._workers: dict[str, _Worker] = {}
        self._worker_of: dict[int, _Worker] = {}
        self._room: dict[int, dict[str, None]] = {}
        self._kept_free: set[str] = set()
        self._void: set[int] = set()
        self._ages: deque[float] = deque(maxlen=REMEMBERED)
        self._none_slow_at: float | None = None
        self._number = 0
        self._clock: float | None = None
        self._time = 0.0

    @property
    def workers(self) -> list[str]:
        """The workers that get leases."""
        return list(self._workers)

    @property
    def leased(self) -> int:
        """How many leases are out, void ones not counted."""
        return len(self._worker_of) - len(self._void)

    @property
    def over(self) -> bool:
        """Whether every row is done or put aside."""
        return not (self.leased or self._suspects or self._again or self._stretches)

    def leases_of(self, worker: str) -> list[Lease]:
        """The leases that a worker holds, those at work first."""
        return [held.lease for held in self._workers[worker].held.values()] if worker in self._workers else []

    def queued(self) -> list[Lease]:
        """Leases that are out, but not yet at work."""
        return [h.lease for w in self._workers.values() for h in list(w.held.values())[w.at_once :]]

    # --- events --------------------------------------------------------------------------------------------------

    def joined(self, worker: str, *, at_once: int = 1) -> None:
        """Count on a worker that computes so many leases at a time."""
        if worker not in self._workers:
            self._workers[worker] = _Worker(worker, at_once)
            self._place(self._workers[worker])

    def gone(self, worker: str, loss: Loss | None) -> list[Lease]:
        """Take back what a worker held, and tell what is blamed; without a loss, it went for reasons of its own."""
        left = self._workers.pop(worker, None)
        if left is None:
            return []
        self._unplace(left)
        self._kept_free.discard(worker)
        at_work = left.at_work()
        for held in left.held.values():
            self._drop(held)
        blamed = [] if loss is None else [h for h in at_work if loss is Loss.KILLED or self._is_silent(h)]
        blamed = [held for held in blamed if self._is_needed(held)]
        for held in filter(self._is_needed, left.held.values()):
            if loss is not None and held in blamed:
                self._strike(held.piece, loss)
            else:
                self._lose(held.piece, at_work=held in at_work)
        return [held.lease for held in blamed]

    def finished(self, number: int) -> Rows | None:
        """Count the rows of a lease as done; a lease that was taken back meanwhile counts for nothing."""
        held = self._taken(number)
        if held is None or held.void:
            return None
        self._ages.append(self._time - held.leased)
        self._void.update(held.piece.out)
        self.rows_done += len(held.piece.rows)
        self.verdicts += held.piece.verdict is not None
        return held.piece.rows

    def refused(self, number: int, why: str) -> None:
        """Note that a worker cannot compute the rows of a lease.

        Another tries them, for the first may be at fault; if that cannot either, or there is none, they are narrowed
        down and put aside.
        """
        held = self._taken(number)
        if held is None or not self._is_needed(held):
            return
        piece = held.piece
        piece.refusers |= {held.lease.worker}
        piece.refusals += 1
        if piece.refusals < STRIKES:
            self._wait(piece)
        elif len(piece.rows) > FEWEST_REFUSED:
            for rows in piece.rows.parts(PARTS):
                self._wait(_Piece(rows, suspect=piece.suspect))
        else:
            self.aside.append(Aside(piece.rows, why))

    def withdrawn(self, number: int) -> None:
        """Take back a lease that its worker will not begin."""
        held = self._taken(number)
        if held is not None and self._is_needed(held):
            self._wait(held.piece)

    def heard(self, number: int, sign: str, *, computing: bool, waiting: bool = False) -> None:
        """Note a sign of life; one that equals the last is none.

        Rows are to blame for a silence while `computing`. Those that are `waiting` leave it to the rows of their worker
        that they wait for.
        """
        worker = self._worker_of.get(number)
        if worker is None:
            return
        held = worker.held[number]
        if held.sign != sign:
            held.sign, held.since, held.computing, held.waiting = sign, self._time, computing, waiting

    def tick(self, now: float) -> None:
        """Let time pass: `now` in seconds of any clock, which may stand still or jump."""
        passed = 0.0 if self._clock is None else now - self._clock
        self._clock = now
        self._time += min(max(passed, 0.0), LONGEST_TICK_S)
        for worker in self._workers.values():
            at_work = worker.at_work()
            excused = not all(held.waiting for held in at_work)
            for held in at_work:
                if held.waiting and excused:
                    held.since = None
                elif held.since is None:
                    held.since = self._time

    # --- answers -------------------------------------------------------------------------------------------------

    def overdue(self) -> list[str]:
        """The workers to end, each then `gone` with `Loss.HUNG`."""
        return [w.name for w in self._workers.values() if any(map(self._is_overdue, w.at_work()))]

    def next_leases(self) -> list[Lease]:
        """Hand out as much as there is room for."""
        found = []
        self._reserve()
        while (dealt := self._dealt(self._room.get(0, ()), self._suspects)) is not None:
            found.append(self._lease(*dealt))
        if not self._suspects:
            self._release()
        while (dealt := self._dealt(self._with_room(), self._again, uncut=True)) is not None:
            found.append(self._lease(*dealt))
        if not (self._again or self._stretches or self._suspects):
            found += self._twins()
        return found

    def _dealt(self, names: Iterable[str], waiting: deque[_Piece], *, uncut: bool = False) -> tuple[str, _Piece] | None:
        """The first of some workers for whom there is something to do, and what."""
        if not waiting and not (uncut and self._stretches):
            return None
        for name in names:
            for _ in range(len(waiting)):
                piece = waiting.popleft()
                if self._may_try(name, piece):
                    return name, piece
                waiting.append(piece)
            if uncut and self._stretches:
                return name, self._cut_next()
        return None

    def _may_try(self, name: str, piece: _Piece) -> bool:
        """Whether a worker may be given rows: not what it could not do while there is another to try that."""
        return name not in piece.refusers or piece.refusers.issuperset(self._workers)

    def _twins(self) -> list[Lease]:
        """Give what slow workers are at to idle ones too."""
        found: list[Lease] = []
        if not self._ages or not self._room.get(0) or self._time == self._none_slow_at:
            return found
        before = self._time - max(self._slow_s, SLOW * median(self._ages))
        slow = [h for w in self._workers.values() for h in w.held.values() if h.leased < before and self._may_twin(h)]
        # Nobody gets slow before time passes.
        self._none_slow_at = None if slow else self._time
        for held in sorted(slow, key=lambda held: held.leased):
            idle = next((name for name in self._room.get(0, ()) if name not in self._kept_free), None)
            if idle is None:
                break
            found.append(self._lease(idle, held.piece))
        return found

    def _may_twin(self, held: _Held) -> bool:
        return len(held.piece.out) == 1 and not held.piece.suspect and held.lease.number not in self._void

    def _lease(self, name: str, piece: _Piece) -> Lease:
        self._number += 1
        lease = Lease(self._number, piece.rows, name, piece.verdict, twin=bool(piece.out))
        piece.out.append(lease.number)
        worker = self._workers[name]
        self._unplace(worker)
        worker.held[lease.number] = _Held(lease, piece, self._time)
        self._worker_of[lease.number] = worker
        self._place(worker)
        return lease

    def _cut_next(self) -> _Piece:
        start, end = self._stretches.pop()
        share = self._rows_uncut // (SHARE * max(1, len(self._workers)))
        size = min(max(share, self._sizes.least), self._sizes.most)
        stop = self._cut(start, min(start + size, end))
        if not start < stop <= end:
            raise ValueError(f"rows from {start} to at most {end} were cut at {stop}")
        if stop < end:
            self._stretches.append((stop, end))
        self._rows_uncut -= stop - start
        return _Piece(Rows(start, stop))

    def _strike(self, piece: _Piece, loss: Loss) -> None:
        piece.strikes, piece.suspect = piece.strikes + 1, True
        if piece.strikes < STRIKES:
            self._wait(piece)
        elif piece.verdict is not None:
            self.aside.append(Aside(piece.rows, f"{piece.verdict.message}, and so did recording that"))
        elif len(piece.rows) == 1:
            self._wait(_Piece(piece.rows, suspect=True, verdict=self._verdict(loss)))
        else:
            # A part is known to be bad, so one more death tells which; a single crystal has its full two.
            for rows in piece.rows.parts(PARTS):
                self._wait(_Piece(rows, strikes=STRIKES - 1 if len(rows) > 1 else 0, suspect=True))

    def _verdict(self, loss: Loss) -> Verdict:
        what = "killed its worker" if loss is Loss.KILLED else f"took longer than {self._patience_s:g} s"
        return Verdict(loss.value, f"{what}, twice")

    def _lose(self, piece: _Piece, *, at_work: bool) -> None:
        piece.losses += at_work
        if at_work and piece.losses % LOSSES_PER_STRIKE == 0:
            self._strike(piece, Loss.KILLED)
        else:
            self._wait(piece)

    def _wait(self, piece: _Piece) -> None:
        (self._suspects if piece.suspect else self._again).append(piece)

    def _taken(self, number: int) -> _Held | None:
        worker = self._worker_of.get(number)
        if worker is None:
            return None
        self._unplace(worker)
        held = worker.held.pop(number)
        self._drop(held)
        self._place(worker)
        return held

    def _drop(self, held: _Held) -> None:
        """Count a lease as out no more."""
        number = held.lease.number
        del self._worker_of[number]
        held.piece.out.remove(number)
        held.void = number in self._void
        self._void.discard(number)

    def _is_needed(self, held: _Held) -> bool:
        """Whether a lease that is out no more leaves rows undone that nobody else is at."""
        return not held.void and not held.piece.out

    def _is_overdue(self, held: _Held) -> bool:
        return held.since is not None and self._time - held.since > self._patience_s

    def _is_silent(self, held: _Held) -> bool:
        return held.computing and self._is_overdue(held)

    # --- workers by how much they hold, so that handing out takes no search ------------------------------------------

    def _place(self, worker: _Worker) -> None:
        free = not worker.held or (worker.name not in self._kept_free and not worker.alone)
        if free and len(worker.held) < worker.at_once * DEPTH:
            self._room.setdefault(len(worker.held), {})[worker.name] = None

    def _unplace(self, worker: _Worker) -> None:
        self._room.get(len(worker.held), {}).pop(worker.name, None)

    def _with_room(self) -> Iterator[str]:
        """Workers that may be given more, the least busy first."""
        return (name for load in sorted(self._room) for name in self._room[load] if name not in self._kept_free)

    def _reserve(self) -> None:
        """Keep workers free of other rows for suspects: the least busy ones, at most half of all."""
        wanted = min(len(self._suspects), (len(self._workers) + 1) // 2) - len(self._kept_free)
        while wanted > 0 and (name := next(self._with_room(), None)) is not None:
            self._keep_free(name, True)
            wanted -= 1

    def _release(self) -> None:
        for name in list(self._kept_free):
            self._keep_free(name, False)

    def _keep_free(self, name: str, wanted: bool) -> None:
        self._unplace(self._workers[name])
        (self._kept_free.add if wanted else self._kept_free.discard)(name)
        self._place(self._workers[name])


def _gaps(total: int, done: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The stretches of [0, total) that no range in `done`, which is sorted, covers."""
    place = 0
    for start, stop in done:
        if min(start, total) > place:
            yield place, min(start, total)
        place = max(place, stop)
    if place < total:
        yield place, total
