"""The cluster inside an allocation: a scheduler on its first node, and a worker for each task of Slurm on all nodes.

The driver starts both and outlives neither: Slurm ends whatever is left of a job when its batch script, which the
driver is, has ended. Workers that die are replaced by their nannies; when all are gone for good, the run says so.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dask

from screening.errors import InputError, ResourceError
from screening.runs.certificates import Certificate
from screening.runs.config import ClusterSettings
from screening.runs.dask_crew import AT_ONCE
from screening.runs.local_cluster import CONFIG, quiet_logs
from screening.runs.site import Site
from screening.signals import die_with_parent

START_S = 120.0
END_S = 10.0
# All nodes of a job are there when it begins; a worker that is not by then will not come.
NO_WORKERS_S = 300.0
LOOK_S = 0.1
# Without a scheduler, workers wait so long for it before they end.
DEATH_S = 60
SPARE = 0.95
DASHBOARD = "127.0.0.1:0"


@dataclass(frozen=True, slots=True)
class Allocation:
    """What Slurm says of the job that this process is in. `incarnation` is how often it began before."""

    job: str
    incarnation: int
    nodes: int
    tasks_per_node: int
    cpus_per_task: int
    memory: int | None

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> "Allocation":
        """Read it from the environment of a batch script."""
        try:
            return cls(
                job=environment["SLURM_JOB_ID"],
                # Unset, not 0, the first time.
                incarnation=int(environment.get("SLURM_RESTART_COUNT", "0")),
                nodes=int(environment["SLURM_JOB_NUM_NODES"]),
                tasks_per_node=int(environment.get("SLURM_NTASKS_PER_NODE", "1")),
                cpus_per_task=int(environment.get("SLURM_CPUS_PER_TASK", "1")),
                memory=int(environment["SLURM_MEM_PER_NODE"]) << 20 if "SLURM_MEM_PER_NODE" in environment else None,
            )
        except (KeyError, ValueError) as error:
            raise InputError(
                f"--cluster allocation: this is no batch script of Slurm ({error} is missing or no number); submit the "
                "run with `screening submit`"
            ) from error

    @property
    def tasks(self) -> int:
        """How many workers it has."""
        return self.nodes * self.tasks_per_node

    @property
    def name(self) -> str:
        """What no other incarnation of any job is called, as long as job ids are not used again."""
        return f"{self.job}-{self.incarnation}"


@contextlib.contextmanager
def allocation_cluster(folder: Path, settings: ClusterSettings, *, gpus: bool, alone: bool) -> Iterator[Site]:
    """Give workers on all nodes of this job; they end with the block. What others left goes if this is `alone`."""
    allocation = Allocation.here()
    # A name of its own for each incarnation: a file that an earlier one left names a scheduler that is gone.
    place = folder.resolve() / "cluster" / allocation.name
    certificate = Certificate.made(place)
    file = place / "scheduler.json"
    if alone:
        sweep_others(place)
    file.unlink(missing_ok=True)
    with contextlib.ExitStack() as undo:
        undo.callback(swept, place)
        undo.enter_context(quiet_logs())
        undo.enter_context(dask.config.set(dict(CONFIG) | certificate.settings()))
        environment = os.environ | {"DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(dask.config.config)}
        scheduler = _Part(_scheduler(file, settings), place / "scheduler.log", environment)
        undo.callback(scheduler.end)
        _wait_for(file, scheduler)
        workers = _Part(_workers(allocation, file, settings, gpus=gpus), place / "workers.log", environment)
        undo.callback(workers.end)

        def check() -> None:
            scheduler.require_alive("the scheduler")
            workers.require_alive("srun, and so every worker")

        yield Site(str(file), allocation.cpus_per_task, allocation.tasks, NO_WORKERS_S, check)


def _scheduler(file: Path, settings: ClusterSettings) -> list[str]:
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(file)]
    return [*command, "--protocol", "tls", "--port", "0", "--dashboard-address", DASHBOARD, *_interface(settings)]


def _workers(allocation: Allocation, file: Path, settings: ClusterSettings, *, gpus: bool) -> list[str]:
    """A step of Slurm with a worker for each task; a node that is lost takes only its own along."""
    step = ["srun", "--no-kill", "--kill-on-bad-exit=0", f"--nodes={allocation.nodes}", "--quit-on-interrupt"]
    step += [f"--ntasks={allocation.tasks}", f"--cpus-per-task={allocation.cpus_per_task}"]
    step += [f"--ntasks-per-node={allocation.tasks_per_node}", *(["--gpus-per-task=1"] if gpus else [])]
    worker = [sys.executable, "-m", "screening.runs.slurm.node", settings.scratch or "", "--scheduler-file", str(file)]
    worker += ["--protocol", "tls", "--nthreads", str(AT_ONCE), "--no-dashboard", "--death-timeout", str(DEATH_S)]
    if allocation.memory:
        worker += ["--memory-limit", str(int(allocation.memory * SPARE) // allocation.tasks_per_node)]
    return [*step, *worker, *_interface(settings)]


def _interface(settings: ClusterSettings) -> list[str]:
    return ["--interface", settings.interface] if settings.interface else []


class _Part:
    """A process of the cluster, in a session of its own, so that signals for this one are not for it too.

    It dies with this one, even if that is killed: Slurm may not find who has left the session of its job.
    """

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def require_alive(self, what: str) -> None:
        """Raise when it has ended."""
        if self._process.poll() is not None:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            said = f": {lines[-1]}" if lines else ""
            raise ResourceError(f"{what} ended with code {self._process.returncode}{said}; see {self._log}")

    def end(self) -> None:
        """End it, by force if it takes long."""
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _wait_for(file: Path, scheduler: _Part) -> None:
    until = time.monotonic() + START_S
    while not file.exists() or not file.stat().st_size:
        scheduler.require_alive("the scheduler")
        if time.monotonic() > until:
            raise ResourceError(f"{file}: no scheduler has written it for {START_S:g} s; see the log beside it")
        time.sleep(LOOK_S)


def swept(place: Path) -> None:
    """Remove what was of use to one incarnation alone; logs stay."""
    for path in [*place.glob("*.pem"), *place.glob("*.json")]:
        path.unlink(missing_ok=True)


def sweep_others(place: Path) -> None:
    """Do so for all others: whoever has the claim knows them dead, or they will find out that they are outdated."""
    for other in place.parent.iterdir():
        if other != place:
            swept(other)
