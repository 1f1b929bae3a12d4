"""The engines of a worker process: one for each run that has work for it, given up when that has had none for a while.

Several runs may share the workers of a cluster, and a worker outlives them.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from screening.runs.worker import Engine, Job

# Between two leases of a run there are moments, or the minute in which a lost scheduler comes back.
IDLE_S = 180.0


@dataclass(slots=True)
class _Kept:
    engine: Engine
    users: int = 1
    idle_since: float = 0.0


class Engines:
    """Engines by job, each made when it is first asked for and kept while it is used."""

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._kept: dict[Job, _Kept] = {}
        self._making, self._holding = threading.Lock(), threading.Lock()

    @contextmanager
    def use(self, job: Job) -> Iterator[Engine]:
        """Give the engine of a job, which stays open in the block and for a while after it."""
        kept = self._taken(job)
        try:
            yield kept.engine
        finally:
            with self._holding:
                kept.users -= 1
                kept.idle_since = time.monotonic()

    def signs(self) -> dict[str, list[str]]:
        """Signs of life of all leases at work, whosever they are."""
        with self._holding:
            engines = [kept.engine for kept in self._kept.values()]
        return {key: sign for engine in engines for key, sign in engine.signs().items()}

    def close_idle(self) -> None:
        """Close the engines that nobody has used for a while."""
        now = time.monotonic()
        with self._holding:
            idle = [j for j, kept in self._kept.items() if not kept.users and now - kept.idle_since >= self._idle_s]
            closing = [self._kept.pop(job) for job in idle]
        for kept in closing:
            kept.engine.close()

    def _taken(self, job: Job) -> _Kept:
        found = self._found(job)
        if found is not None:
            return found
        with self._making:
            found = self._found(job)
            if found is None:
                found = _Kept(Engine(job))
                with self._holding:
                    self._kept[job] = found
            return found

    def _found(self, job: Job) -> _Kept | None:
        with self._holding:
            kept = self._kept.get(job)
            if kept is not None:
                kept.users += 1
            return kept
