"""Where a run is computed, as its driver sees it: workers, and how to tell that they are lost for good."""

from collections.abc import Callable
from dataclasses import dataclass

from distributed.deploy.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster of Dask, its address or its scheduler file, and what its makers know of it.

    Each worker computes with `threads` threads; None leaves that to it. There will be `count` workers, where that is
    known. Without any for `no_workers_s` a screen ends. `check`, called now and then, raises when the cluster is past
    hope. `renew`, where there is one, takes the name of a worker that cannot work, and has another come in its place.
    """

    cluster: Cluster | str
    threads: int | None = None
    count: int | None = None
    no_workers_s: float | None = None
    check: Callable[[], object] = lambda: None
    renew: Callable[[str], object] | None = None
