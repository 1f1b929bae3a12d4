"""Runs one function over many tasks in other processes, in order, and survives the death of any of them.

Each process is a fresh interpreter: nothing is forked, so threads and locks of the caller cannot be copied, and the
caller's main script is not run again. A process knows that the caller is gone when its connection ends, and ends.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from screening.errors import ResourceError, ScreeningError

Task = TypeVar("Task")
Result = TypeVar("Result")

# One task at work and one waiting, so that a process never waits for the caller.
AHEAD = 2
# Results kept for their turn, per process, while an earlier task is still at work.
WINDOW = 3
DIED = (EOFError, OSError)


@dataclass(frozen=True, slots=True)
class Lost(Generic[Task]):
    """A task whose process died at it; `cause` says how."""

    task: Task
    cause: str


class Pool(Generic[Task, Result]):
    """Up to `workers` processes that apply a function, which they import by its name; a context manager.

    Processes start when there is a task for them. Leaving the context ends them at once.
    """

    def __init__(self, function: Callable[[Task], Result], workers: int) -> None:
        self._function = function
        self._limit = workers
        self._workers: list[_Worker] = []
        self._spare: _Worker | None = None
        self._started = False

    def in_order(self, tasks: Iterable[Task]) -> Iterator[Result | Lost[Task]]:
        """Apply the function to each task; results come in the order of the tasks, and few at a time are at work."""
        ahead = enumerate(tasks)
        waiting = next(ahead, None)
        done: dict[int, Result | Lost[Task]] = {}
        turn = given = 0
        while waiting is not None or turn < given:
            while waiting is not None and given < turn + WINDOW * self._limit and (worker := self._free_worker()):
                worker.give(*waiting)
                given, waiting = given + 1, next(ahead, None)
            if turn not in done:
                self._collect(done)
            while turn in done:
                yield done.pop(turn)
                turn += 1

    def alone(self, task: Task) -> Result | Lost[Task]:
        """Apply the function to one task in a process that has no other."""
        self._spare = self._spare or _Worker(self._function)
        self._spare.give(0, task)
        done: dict[int, Result | Lost[Task]] = {}
        while not done:
            self._spare.collect(done)
        if isinstance(done[0], Lost):
            spare, self._spare = self._spare, None
            self._require_started(spare)
        return done[0]

    def _free_worker(self) -> "_Worker | None":
        idle = min(self._workers, key=lambda w: len(w.tasks), default=None)
        if (idle is None or idle.tasks) and len(self._workers) < self._limit:
            self._workers.append(_Worker(self._function))
            return self._workers[-1]
        return idle if idle is not None and len(idle.tasks) < AHEAD else None

    def _collect(self, done: dict[int, Any]) -> None:
        ready = wait([w.connection for w in self._workers if w.tasks])
        for worker in [w for w in self._workers if w.connection in ready]:
            if not worker.collect(done):
                self._workers.remove(worker)
                self._require_started(worker)
            self._started |= worker.started

    def _require_started(self, worker: "_Worker") -> None:
        """Raise when a process ended before it could work, unless it was killed and others did start."""
        code = worker.process.returncode
        if not worker.started and (code >= 0 or not self._started):
            raise ResourceError(
                f"a reading process could not start ({_cause(code)}); see the messages above, or use one worker"
            )

    def close(self) -> None:
        """End all processes, whatever they are at."""
        for worker in [*self._workers, *([self._spare] if self._spare else [])]:
            worker.end()
        self._workers, self._spare = [], None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Worker:
    """One process, the connection to it, and the numbered tasks it has, the one at work first."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.connection, theirs = Pipe()
        self.tasks: deque[tuple[int, Any]] = deque()
        self.started = False
        fd = theirs.fileno()
        code = f"import sys; sys.path[:] = {[str(p) for p in sys.path]}; from {__name__} import serve; serve({fd})"
        # Ctrl-C in a terminal reaches the whole process group, yet the caller decides what ends. A blocked signal
        # stays blocked in the new process from its first moment, and in this one it comes once it is unblocked.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            command = [sys.executable, "-c", code]
            self.process = subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.DEVNULL, stdout=2)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        with contextlib.suppress(*DIED):
            self.connection.send(function)

    def give(self, number: int, task: Any) -> None:
        """Send a task; that the process has died shows when its result is collected."""
        self.tasks.append((number, task))
        with contextlib.suppress(*DIED):
            self.connection.send(task)

    def collect(self, done: dict[int, Any]) -> bool:
        """Receive one message into `done`; False when the process has died, and its task at work is lost.

        The task that waited behind the lost one never ran, yet is told as lost too: the caller tries it again.
        """
        try:
            outcome, value = self.connection.recv()
        except DIED:
            self.end()
            cause = _cause(self.process.returncode)
            done.update((number, Lost(task, cause)) for number, task in self.tasks)
            return False
        if outcome == "ready":
            self.started = True
        elif outcome == "failed":
            raise value
        else:
            done[self.tasks.popleft()[0]] = value
        return True

    def end(self) -> None:
        """Kill the process, which holds nothing that could be damaged, and wait for its end."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


def serve(fd: int) -> None:
    """Work in a child process until the connection ends: the first message is the function, the others its tasks."""
    connection = Connection(fd)
    received: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
    function = received.get()
    connection.send(("ready", None))
    while True:
        task = received.get()
        try:
            outcome = ("done", function(task))
        except ScreeningError as error:
            outcome = ("failed", error)
        connection.send(outcome)


def _receive(connection: Connection, received: "queue.SimpleQueue[Any]") -> None:
    """Take tasks while another is at work, so that the caller's sending never blocks; exit when the caller is gone."""
    while True:
        try:
            received.put(connection.recv())
        except DIED:
            os._exit(0)


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        return f"{name}, which the kernel sends when memory is short" if name == "SIGKILL" else name
    return f"signal {-code}"
