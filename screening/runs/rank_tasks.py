"""What Dask's workers run of a distributed training: they say what they have, and look after a rank's process each."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

import psutil
from distributed import Worker as DaskWorker
from distributed import get_worker
from distributed.comm.addressing import get_address_host

from screening.runs.local_cluster import gpu_ids, visible_gpus
from screening.runs.rank_job import End, Ended, RankJob

LOOK_S = 0.2
LAST_LINES = 20
RANK = "import sys; sys.path[:0] = {path!r}; from screening.runs.rank_process import main; main()"

_sockets: dict[str, socket.socket] = {}
_one_rank = threading.Lock()


@dataclass(frozen=True, slots=True)
class Place:
    """A worker's machine, the GPUs that it may use, as CUDA_VISIBLE_DEVICES names them, and where ranks could meet.

    `ids` of its GPUs are known where names may mislead: two workers can call different ones 0.
    """

    machine: str
    gpus: tuple[str, ...] = ()
    host: str = ""
    port: int = 0
    ids: tuple[str, ...] = ()

    @property
    def choice(self) -> list[tuple[str, str]]:
        """Each of its GPUs by what no other has, and by name."""
        known = len(self.ids) == len(self.gpus)
        return list(zip(self.ids if known else [f"{self.machine} {gpu}" for gpu in self.gpus], self.gpus, strict=True))


def enrol(token: str, device: str, topic: str) -> None:
    """Tell where this worker is, having opened a socket at which the ranks of an attempt could meet.

    What tasks have to tell goes by events: to fetch a result, Dask connects to the worker anew, and takes a slow one
    for dead.
    """
    worker = get_worker()
    host = get_address_host(worker.address)
    _close_sockets()
    _sockets[token] = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    gpus, ids = (visible_gpus(), gpu_ids()) if device == "cuda" else ((), ())
    place = Place(socket.gethostname(), gpus, host, int(_sockets[token].getsockname()[1]), ids)
    _tell(worker, topic, token, "place", asdict(place) | {"worker": worker.address})


def run_rank(job: RankJob, topic: str) -> None:
    """Start the process of a rank, and tell how it goes and what became of it; end it when it is called off."""
    worker = get_worker()
    key = worker.get_current_task()

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state == "executing"

    # The process of an earlier attempt may still be on its way out, with the memory of the GPU.
    with _one_rank:
        if is_wanted():
            ended = _Process(job, worker, topic).watched(is_wanted)
            _tell(worker, topic, job.token, "end", asdict(ended) | {"end": ended.end.value})


class _Process:
    """The process of a rank, and the threads that read what it says."""

    def __init__(self, job: RankJob, worker: DaskWorker, topic: str) -> None:
        self._job, self._worker, self._topic = job, worker, topic
        self._end: dict[str, Any] = {}
        self._last: deque[str] = deque(maxlen=LAST_LINES)

    def watched(self, is_wanted: Callable[[], bool]) -> Ended:
        """Run to the end."""
        meeting = _sockets.pop(self._job.token, None) if self._job.rank == 0 else None
        _close_sockets()
        handles = () if meeting is None else (meeting.fileno(),)
        with subprocess.Popen(
            [sys.executable, "-c", RANK.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment(),
            pass_fds=handles,
        ) as process:
            readers = [
                threading.Thread(target=self._listen, args=(process.stdout,), name="rank tells", daemon=True),
                threading.Thread(target=self._note, args=(process.stderr,), name="rank says", daemon=True),
            ]
            try:
                for reader in readers:
                    reader.start()
                self._start(process.stdin, handles)
                if meeting is not None:
                    meeting.close()
                called_off = not _waited(process, is_wanted)
            finally:
                process.kill()
                for reader in readers:
                    reader.join()
        return Ended(self._job.rank, End.CALLED_OFF) if called_off else self._ended(process.returncode)

    def _start(self, pipe: IO[bytes] | None, handles: Sequence[int]) -> None:
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # it has died already, which shows when it is waited for
            pipe.write(self._job.line(listening=handles[0] if handles else None))
            pipe.flush()

    def _listen(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            kind, content = json.loads(line)
            if kind == "end":
                self._end = content
                continue
            with contextlib.suppress(Exception):  # the worker itself ends
                _tell(self._worker, self._topic, self._job.token, kind, content)

    def _note(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            self._last.append(line.decode(errors="replace").rstrip())

    def _ended(self, code: int) -> Ended:
        if self._end:
            end = self._end | {"end": End(self._end["end"])}
            return Ended(self._job.rank, **end)
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        last = f"; its last words: {self._last[-1]}" if self._last else ""
        return Ended(self._job.rank, End.DIED, how + last)

    def _environment(self) -> dict[str, str]:
        """That of the worker, and through which network to talk: the one by which the worker is known."""
        chosen = {"CUDA_VISIBLE_DEVICES": self._job.gpu} if self._job.gpu else {}
        network = _network_of(get_address_host(self._worker.address))
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            if network and name not in os.environ:
                chosen[name] = network
        return os.environ | chosen


def _tell(worker: DaskWorker, topic: str, token: str, kind: str, content: Any) -> None:
    worker.log_event(topic, {"token": token, "kind": kind, "content": content})


def _close_sockets() -> None:
    while _sockets:
        _sockets.popitem()[1].close()


def _waited(process: "subprocess.Popen[bytes]", is_wanted: Callable[[], bool]) -> bool:
    """Wait until a process ends (True), or nobody wants it any more."""
    while is_wanted():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_S)
            return True
    return False


def _network_of(host: str) -> str:
    """The network interface that has an address; empty if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.partition("%")[0] == host for address in addresses):
            return name
    return ""
