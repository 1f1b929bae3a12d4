"""A Dask cluster on this machine that fits its processors, memory and GPUs, and goes with the process that made it."""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import Nanny, Scheduler, SpecCluster

from screening import machine
from screening.errors import InputError
from screening.ops import core
from screening.runs.certificates import own_security
from screening.runs.dask_crew import AT_ONCE
from screening.signals import STOPPING

# A worker with torch, a model and two shards; what is beyond is for large crystals.
WORKER_BYTES = 1_500_000_000
# Above this the threads of a process wait for each other.
MOST_THREADS = 4
DASHBOARD_PORT = 8787
LOCALHOST = "127.0.0.1"
CLOSE_S = 20.0
SILENT = logging.CRITICAL + 1

CONFIG: Mapping[str, Any] = {
    # What is tried again, and where, is the plan's decision.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    # Else a worker whose restart takes longer than 15 s is given up for good.
    "distributed.deploy.lost-worker-timeout": "1 hour",
    # Workers keep no results; a worker that pauses would wait for ever for memory that nobody frees.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.worker.profile.enabled": False,
    "distributed.worker.daemon": True,
    "distributed.admin.tick.limit": "10 s",
    # By default each process wakes fifty times a second to see whether it is awake: a hundredth of a processor.
    "distributed.admin.tick.interval": "500 ms",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """How many worker processes, of how many threads, with how much memory, on which GPUs (one each, or none)."""

    workers: int
    threads: int
    memory: int
    gpus: tuple[str, ...] = ()

    def at_most(self, workers: int) -> "Layout":
        """The same with fewer workers, where there is not enough to do for all."""
        fewer = min(self.workers, max(1, workers))
        return Layout(fewer, self.threads, self.memory, self.gpus[:fewer])


def fitting(*, workers: int | None = None, threads: int | None = None, device: str = "cpu") -> Layout:
    """Choose a layout for this machine; what is given is kept."""
    memory = machine.memory()
    gpus = visible_gpus() if device == "cuda" else ()
    if device == "cuda" and not gpus:
        raise InputError("device 'cuda' was asked for, and no GPU can be used; see `screening doctor`, or use cpu")
    if workers is None:
        most = max(1, int(memory.free * 0.9) // WORKER_BYTES)
        allowed = machine.processors().allowed
        threads = threads or (1 if gpus else min(MOST_THREADS, allowed))
        workers = len(gpus) or max(1, min(allowed // threads, most))
    threads = threads or (1 if gpus else max(1, machine.processors().allowed // workers))
    places = tuple(gpus[k % len(gpus)] for k in range(workers)) if gpus else ()
    return Layout(workers, threads, int(memory.limit * 0.95) // workers, places)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return tuple(map(str, range(core.cuda_device_count())))
    return tuple(name for name in (part.strip() for part in named.split(",")) if name and name != "-1")


def gpu_ids(library: str = "libcuda.so.1") -> tuple[str, ...]:
    """Ids of the GPUs that this process may use, in their order, which no two in the world have in common.

    Where Slurm shows each process its own GPU alone, all are named 0. Empty where the driver does not say.
    """
    try:
        cuda = ctypes.CDLL(library)
        count, device, id = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(16)
        # None of these makes a context, which would take memory of a GPU.
        codes = [cuda.cuInit(0), cuda.cuDeviceGetCount(ctypes.byref(count))]
        found = []
        for k in range(count.value):
            codes += [cuda.cuDeviceGet(ctypes.byref(device), k), cuda.cuDeviceGetUuid_v2(id, device)]
            found.append(id.raw.hex())
    except (OSError, AttributeError):
        return ()
    return () if any(codes) else tuple(found)


@contextlib.contextmanager
def local_cluster(layout: Layout) -> Iterator[SpecCluster]:
    """Give a cluster of this layout, which ends with the block; the worker processes end with this one at the latest.

    It listens to this machine alone, and to nobody else on it: whoever could talk to it would be obeyed. Its workers
    let signals of the terminal pass.
    """
    with dask.config.set(dict(CONFIG)), quiet_logs():
        cluster = _started(layout)
        try:
            yield cluster
        finally:
            _end_workers(cluster)
            with contextlib.suppress(TimeoutError):
                cluster.close(timeout=CLOSE_S)


def _started(layout: Layout) -> SpecCluster:
    security = own_security()
    worker = {
        "protocol": "tls://",
        "security": security,
        "nthreads": AT_ONCE,
        "memory_limit": layout.memory,
        "host": LOCALHOST,
        "dashboard": False,
        "silence_logs": SILENT,
    }
    # Without an address, the dashboard would listen to the whole network.
    page = f"{LOCALHOST}:{_free_port(DASHBOARD_PORT)}"
    scheduler = {"protocol": "tls://", "security": security, "host": LOCALHOST, "port": 0}
    scheduler |= {"dashboard": True, "dashboard_address": page}
    nannies = {
        k: {"cls": Nanny, "options": worker | ({"env": {"CUDA_VISIBLE_DEVICES": gpu}} if gpu else {})}
        for k, gpu in enumerate(layout.gpus or [""] * layout.workers)
    }
    # The thread of the cluster, and every process that it starts, keep what is blocked now: a Ctrl-C reaches all
    # processes of a terminal, yet this one decides what ends. Starting the tracker of multiprocessing unblocks signals,
    # so it comes first.
    resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        with warnings.catch_warnings():
            # Another program may take the port at this moment; Dask warns and takes the next.
            warnings.filterwarnings("ignore", r"\s*Port \d+ is already in use")
            front = {"cls": Scheduler, "options": scheduler}
            return SpecCluster(scheduler=front, workers=nannies, security=security, silence_logs=SILENT)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _end_workers(cluster: SpecCluster) -> None:
    """Kill the worker processes: they hold nothing, and asking them takes seconds, more where one hangs."""
    for nanny in cluster.workers.values():
        nanny.close_gracefully()
        if nanny.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


def _free_port(wanted: int) -> int:
    """The port wanted, or 0 for any when it is taken."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((LOCALHOST, wanted))
        except OSError:
            return 0
    return wanted


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Keep what Dask logs of its own off the screen: a worker that dies is this program's business to tell."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(SILENT)
    try:
        yield
    finally:
        logger.setLevel(before)
