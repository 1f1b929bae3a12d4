"""`--cluster`: whose workers a run uses. The one place that knows what the option may say."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distributed.deploy.cluster import Cluster

from screening.errors import InputError
from screening.runs.local_cluster import fitting, local_cluster

SCHEMES = ("tcp", "tls", "ucx", "ws", "wss")
FORMS = "local, local:N, tcp://host:port (or tls://), or a scheduler file that ends in .json"


@dataclass(frozen=True, slots=True)
class ClusterChoice:
    """What `--cluster` names: workers made here, so many if that is said, or those of a scheduler that is there."""

    kind: Literal["local", "scheduler"]
    where: str = ""
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class Workers:
    """A cluster to use: one of Dask's, an address or a scheduler file; and how many threads each worker computes with.

    None for `threads` leaves that to the workers; None for `count` means that they are not made here.
    """

    cluster: Cluster | str
    threads: int | None = None
    count: int | None = None


def chosen(text: str) -> ClusterChoice:
    """Understand what `--cluster` says.

    >>> chosen("local:4")
    ClusterChoice(kind='local', where='', workers=4)
    """
    name, colon, rest = text.partition(":")
    if name == "local":
        if colon and not (rest.isdecimal() and int(rest) > 0):
            raise InputError(f"--cluster {text}: expected a number of workers, such as local:4")
        return ClusterChoice("local", workers=int(rest) if rest else None)
    if name in SCHEMES and rest.startswith("//"):
        return ClusterChoice("scheduler", text)
    if text.endswith(".json"):
        if not Path(text).is_file():
            raise InputError(f"--cluster {text}: no such file; has the scheduler started?")
        return ClusterChoice("scheduler", text)
    raise InputError(f"--cluster {text}: names no cluster; expected {FORMS}")


@contextlib.contextmanager
def opened(choice: ClusterChoice, *, threads: int | None = None, device: str = "cpu") -> Iterator[Workers]:
    """Give the workers of a choice; those made here end with the block."""
    if choice.kind == "scheduler":
        yield Workers(choice.where, threads)
        return
    layout = fitting(workers=choice.workers, threads=threads, device=device)
    with local_cluster(layout) as cluster:
        yield Workers(cluster, layout.threads, layout.workers)
