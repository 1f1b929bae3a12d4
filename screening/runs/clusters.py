"""`--cluster`: whose workers a run uses. The one place that knows what the option may say, and how to come by them."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from distributed.deploy.cluster import Cluster

from screening.errors import InputError
from screening.runs.config import ClusterSettings
from screening.runs.dask_client import CONNECT_S, DISCONNECTED, client_of
from screening.runs.local_cluster import fitting, local_cluster, quiet_logs
from screening.runs.site import Site
from screening.runs.slurm.allocation import Allocation, allocation_cluster
from screening.runs.slurm.elastic import elastic_cluster
from screening.runs.slurm.profile import Profile

SCHEMES = ("tcp", "tls", "ucx", "ws", "wss")
FORMS = "local, local:N, slurm, allocation, tcp://host:port (or tls://), or a scheduler file that ends in .json"
# A local worker that does not come back within this was refused by the machine.
LOCAL_WORKERS_S = 120.0
# A cluster that others made may have to start its workers first.
ELSEWHERE_S = 600.0


@dataclass(frozen=True, slots=True)
class ClusterChoice:
    """What `--cluster` names: workers made here, so many if that is said, or those of a scheduler that is there.

    Of Slurm: worker jobs as a `profile` describes them, or the nodes of the job that this process is in.
    """

    kind: Literal["local", "slurm", "allocation", "scheduler"]
    where: str = ""
    workers: int | None = None
    profile: Profile | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run wants of a cluster. Its `folder` keeps logs and certificates of workers on other nodes.

    At most so many `workers`, if that is said, and never more than are `useful`, which is asked again and again.
    Who is `alone` in the folder, with nobody at work on another part, may remove what others left there.
    """

    folder: Path
    settings: ClusterSettings
    device: str = "cpu"
    workers: int | None = None
    threads: int | None = None
    useful: Callable[[], int] | None = None
    alone: bool = True


def chosen(text: str, profile: Profile | None = None) -> ClusterChoice:
    """Understand what `--cluster` says, and the `--profile` beside it.

    >>> chosen("local:4")
    ClusterChoice(kind='local', where='', workers=4, profile=None)
    """
    choice = _named(text)
    if choice.kind != "slurm" and profile is not None:
        raise InputError(f"--cluster {text}: takes no --profile, which says what to ask Slurm for; leave it out")
    if choice.kind == "slurm" and profile is None:
        raise InputError("--cluster slurm: needs --profile FILE.toml, which says what to ask Slurm for")
    return replace(choice, profile=profile)


def _named(text: str) -> ClusterChoice:
    name, colon, rest = text.partition(":")
    if name == "local":
        if colon and not (rest.isdecimal() and int(rest) > 0):
            raise InputError(f"--cluster {text}: expected a number of workers, such as local:4")
        return ClusterChoice("local", workers=int(rest) if rest else None)
    if text == "slurm":
        return ClusterChoice("slurm")
    if text == "allocation":
        return ClusterChoice("allocation")
    if name in SCHEMES and rest.startswith("//"):
        return ClusterChoice("scheduler", text)
    if text.endswith(".json"):
        if not Path(text).is_file():
            raise InputError(f"--cluster {text}: no such file; has the scheduler started?")
        return ClusterChoice("scheduler", text)
    raise InputError(f"--cluster {text}: names no cluster; expected {FORMS}")


def require_possible(choice: ClusterChoice, *, workers: int | None, threads: int | None, device: str) -> None:
    """Refuse what can be known to fail before anything is begun."""
    if choice.workers and workers and choice.workers != workers:
        raise InputError(f"--cluster local:{choice.workers} and {workers} workers: give one of them")
    if choice.kind == "local":
        fitting(workers=choice.workers or workers, threads=threads, device=device)
    if choice.kind == "allocation":
        Allocation.here()
    if choice.profile is not None:
        choice.profile.require_fit(device)
    if choice.kind == "scheduler":
        _require_answer(choice.where)


def _require_answer(where: str) -> None:
    with quiet_logs():
        try:
            client = client_of(where)
        except DISCONNECTED as error:
            raise InputError(f"no scheduler answers at {where} ({error}); start one, or mend --cluster") from error
        with contextlib.suppress(*DISCONNECTED):
            client.close(timeout=CONNECT_S)


@contextlib.contextmanager
def opened(choice: ClusterChoice | Cluster, demand: Demand) -> Iterator[Site]:
    """Give the workers of a choice; those made for this run end with the block."""
    with _made(choice, demand) as site:
        yield replace(site, threads=demand.threads or site.threads)


def _made(choice: ClusterChoice | Cluster, demand: Demand) -> AbstractContextManager[Site]:
    if isinstance(choice, Cluster):
        return _found(choice)
    if choice.kind == "local":
        return _local(choice, demand)
    if choice.kind == "allocation":
        gpus = demand.device == "cuda"
        return allocation_cluster(demand.folder, demand.settings, gpus=gpus, alone=demand.alone)
    if choice.profile is not None:
        return _elastic(choice.profile, demand)
    return _found(choice.where)


@contextlib.contextmanager
def _found(cluster: Cluster | str) -> Iterator[Site]:
    with quiet_logs():
        yield Site(cluster, no_workers_s=ELSEWHERE_S)


@contextlib.contextmanager
def _local(choice: ClusterChoice, demand: Demand) -> Iterator[Site]:
    workers = choice.workers or demand.workers
    layout = fitting(workers=workers, threads=demand.threads, device=demand.device)
    if workers is None and demand.useful is not None:
        layout = layout.at_most(demand.useful())
    with local_cluster(layout) as cluster:
        yield Site(cluster, layout.threads, layout.workers, LOCAL_WORKERS_S)


@contextlib.contextmanager
def _elastic(profile: Profile, demand: Demand) -> Iterator[Site]:
    most = demand.workers or profile.nodes * profile.workers_per_node

    def wanted() -> int:
        return most if demand.useful is None else min(most, demand.useful())

    with elastic_cluster(demand.folder, demand.settings, profile, wanted=wanted, alone=demand.alone) as site:
        yield replace(site, count=most)
