"""Where a run is computed, as its driver sees it: workers, and how to tell that they are lost for good."""

from collections.abc import Callable
from dataclasses import dataclass

from distributed.deploy.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster of Dask, its address or its scheduler file, and what its makers know of it.

    Each worker predicts with `threads` threads; None leaves that to it. Without any worker for `no_workers_s` the run
    ends. `check`, called now and then, raises when the cluster is past hope.
    """

    cluster: Cluster | str
    threads: int | None = None
    no_workers_s: float | None = None
    check: Callable[[], object] = lambda: None
