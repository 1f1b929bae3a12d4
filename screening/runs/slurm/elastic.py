"""Workers as single jobs of Slurm, as many as there is work for, replaced when they end: dask-jobqueue, made safe.

The driver runs where the command is given. A worker job ends by itself before its walltime, at a time of its own, so
that they do not all go at once; another is asked for in its place. What dask-jobqueue leaves to its user is done here:
the request is tried out first, workers that are lost are replaced, and jobs that end before they joined end the run.
"""

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from distributed import Adaptive

from screening.errors import InputError, ResourceError
from screening.runs.certificates import Certificate
from screening.runs.config import ClusterSettings
from screening.runs.dask_crew import AT_ONCE
from screening.runs.local_cluster import CLOSE_S, CONFIG, SILENT, quiet_logs
from screening.runs.site import Site
from screening.runs.slurm import asked_jobs, controller
from screening.runs.slurm.allocation import sweep_others, swept
from screening.runs.slurm.profile import Profile
from screening.runs.slurm.submit import require_accepted, require_runnable

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster
    from dask_jobqueue.core import Job

# So many jobs more than there may be at once, that ended in a row before their worker joined, are no accident.
MOST_STILLBORN = 8
INTERVAL_S = 2.0
LOOK_S = 15.0
# A worker that is gone is not waited for any longer; by default Dask asks for no other for so long.
LOST_S = "2s"
DEATH_S = 60


@contextlib.contextmanager
def elastic_cluster(
    folder: Path, settings: ClusterSettings, profile: Profile, *, wanted: Callable[[], int], alone: bool
) -> Iterator[Site]:
    """Give a cluster of at most `wanted()` worker jobs, which is asked for again and again; all end with the block.

    If this is `alone`, what a driver that was killed left behind goes: its worker jobs, and its certificates.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise InputError(
            f"--cluster slurm: needs dask-jobqueue ({error}); in a checkout of screening: pip install '.[slurm]'"
        ) from error
    tag = controller.new_tag()
    # The scratch folder of the driver's own files, its certificate among them.
    place = folder.resolve() / "cluster" / tag
    certificate = Certificate.made(place)
    with contextlib.ExitStack() as undo:
        undo.callback(swept, place)
        undo.enter_context(quiet_logs())
        changes = {"distributed.deploy.lost-worker-timeout": LOST_S} | certificate.settings()
        undo.enter_context(dask.config.set(dict(CONFIG) | changes))
        cluster = SLURMCluster(**_options(tag, place, certificate, settings, profile))
        undo.callback(_ended, cluster, tag)
        require_accepted(cluster.job_script())
        if alone:
            sweep_others(place)
            controller.cancel([job.id for job in controller.jobs_named(*asked_jobs.tags_of(folder, way="elastic"))])
        asked_jobs.note(folder, "submitting", tag=tag, way="elastic")
        watch = _Watch(cluster, tag, wanted)
        cluster.adapt(Adaptive=_Remaining, interval=f"{INTERVAL_S:g}s", minimum=0, maximum=10**6, wanted=wanted)
        yield Site(cluster, profile.cores_per_worker, check=watch.check, renew=watch.renew)


class _Remaining(Adaptive):
    """As many workers as there is work for. Dask's own measure would be tasks, of which a run never has many."""

    def __init__(self, cluster: Any, *, wanted: Callable[[], int], **options: Any) -> None:
        self._wanted = wanted
        super().__init__(cluster, **options)

    async def target(self) -> int:
        return self._wanted()


@dataclass
class _Watch:
    """Tells when worker jobs come to nothing, and has others asked for in their place.

    Slurm alone knows which jobs did: Dask waits for their workers, and those that it cancels, for they are wanted no
    more, have not failed.
    """

    cluster: "SLURMCluster"
    tag: str
    wanted: Callable[[], int]
    _joined: set[str] = field(default_factory=set)
    _stillborn: set[str] = field(default_factory=set)
    _looked: float = 0.0

    def check(self) -> None:
        """Raise when no worker can come."""
        described = self.cluster.scheduler_info["workers"].values()
        here = {str(worker["name"]) for worker in described}
        jobs = {str(name): job for name, job in list(self.cluster.workers.items())}
        if joined := {str(job.job_id) for name, job in jobs.items() if name in here} - self._joined:
            self._joined |= joined
            self._stillborn.clear()
        waiting = {name: job for name, job in jobs.items() if job.job_id and job.job_id not in self._joined}
        now = time.monotonic()
        if now - self._looked > LOOK_S and (waiting or not here):
            self._looked = now
            with contextlib.suppress(controller.SilentError):
                self._look(waiting, alone=not here)

    def renew(self, name: str) -> None:
        """Let a worker go that cannot work: Dask ends its job, and asks for another."""
        if (loop := self.cluster.loop) is not None:
            loop.add_callback(_let_go, self.cluster, name)

    def _look(self, waiting: "Mapping[str, Job]", *, alone: bool) -> None:
        """Ask Slurm what became of jobs whose workers have not come, and part from those that ended."""
        queue = controller.jobs_named(self.tag)
        if alone:
            require_runnable(queue)
        queued = {job.id for job in queue}
        # Those that Dask has cancelled meanwhile are planned for no more.
        ended = {n: job for n, job in waiting.items() if job.job_id not in queued and n in self.cluster.worker_spec}
        self._stillborn |= {str(job.job_id) for job in ended.values()}
        many = len(self._stillborn) > MOST_STILLBORN + self.wanted()
        if many and alone:
            raise ResourceError(
                f"{len(self._stillborn)} worker jobs in a row ended before their worker joined; see "
                f"{self.cluster.job_name}-*.err in {self.cluster._dummy_job.log_directory}"
            )
        # While others work, what fails again and again is left alone.
        if not many and (loop := self.cluster.loop) is not None:
            for name, job in ended.items():
                loop.add_callback(_parted, self.cluster, name, job)


async def _parted(cluster: "SLURMCluster", name: str, job: "Job") -> None:
    """Forget a job that has ended; Dask asks for another of its name when it next looks."""
    if cluster.workers.get(name) is job:
        del cluster.workers[name]
        await job.close()


async def _let_go(cluster: "SLURMCluster", name: str) -> None:
    with contextlib.suppress(OSError):
        if cluster.scheduler_comm is not None:
            await cluster.scheduler_comm.retire_workers(names=[name], remove=True, close_workers=True)


def _options(
    tag: str, place: Path, certificate: Certificate, settings: ClusterSettings, profile: Profile
) -> dict[str, Any]:
    share = profile.workers_per_node
    memory = profile.memory_bytes // share
    # Ends on its own accord between the warning and a tenth of the time before that.
    stagger = max(1, profile.seconds // 20)
    lifetime = profile.seconds - profile.warning - stagger
    worker = ["--no-dashboard", "--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s"]
    directives = ["--no-requeue", *profile.directives, *(["--gpus-per-node=1"] if profile.gpus else [])]
    config = f"export DASK_INTERNAL_INHERIT_CONFIG={dask.config.serialize(dask.config.config)}"
    return {
        "queue": profile.partition,
        "account": profile.account,
        "walltime": profile.walltime,
        "job_name": tag,
        "processes": 1,
        # Dask's notion of cores is how many leases a worker computes at a time.
        "cores": AT_ONCE,
        "job_cpu": profile.cores_per_worker,
        "memory": f"{memory}B",
        "job_mem": f"{memory >> 10}K",
        "job_extra_directives": directives,
        "job_script_prologue": [*(f"module load {shlex.quote(m)}" for m in profile.modules), *profile.setup, config],
        "python": shlex.quote(sys.executable),
        "worker_command": f"screening.runs.slurm.node {shlex.quote(settings.scratch or '')}",
        "worker_extra_args": worker,
        "death_timeout": DEATH_S,
        "log_directory": str(place),
        "interface": settings.interface,
        "protocol": "tls://",
        "security": certificate.security(),
        "scheduler_options": {"dashboard_address": "127.0.0.1:0"},
        "silence_logs": SILENT,
    }


def _ended(cluster: "SLURMCluster", tag: str) -> None:
    """Close the cluster, and cancel what it may have left in the queue."""
    with contextlib.suppress(Exception):
        cluster.close(timeout=CLOSE_S)
    with contextlib.suppress(controller.SilentError):
        controller.cancel([job.id for job in controller.jobs_named(tag)])
