"""The connection to a scheduler: how it is made, what breaks it, and what is asked through it."""

from pathlib import Path
from typing import Any

from distributed import Client, SpecCluster
from distributed.comm.core import FatalCommClosedError
from distributed.deploy.cluster import Cluster

from screening.errors import InputError

CONNECT_S = 10.0
# What the connection to a scheduler that is gone raises.
DISCONNECTED = (OSError, TimeoutError)


def workers_of(client: Client) -> dict[str, Any]:
    """What the scheduler knows of each worker, by address; raises OSError when it cannot be asked.

    Not `Client.scheduler_info`: every two seconds the client asks for the scheduler's description without workers and
    keeps it in the same place, so that a run would now and then see all its workers gone.
    """
    scheduler = client.scheduler
    if scheduler is None or client.status not in ("running", "connecting"):
        raise OSError(f"the connection to the scheduler is {client.status}")
    described: dict[str, Any] = client.sync(scheduler.identity, n_workers=-1)
    found: dict[str, Any] = described["workers"]
    return found


def planned_workers(cluster: Cluster | str) -> int | None:
    """How many workers a cluster object keeps; None where nobody knows, or where that changes with the work."""
    fixed = isinstance(cluster, SpecCluster) and getattr(cluster, "_adaptive", None) is None
    return len(cluster.plan) if isinstance(cluster, SpecCluster) and fixed else None


def client_of(cluster: Cluster | str) -> Client:
    """Connect to a cluster object, the address of a scheduler, or the path of its scheduler file.

    By TLS with the certificate of the object, else with that of Dask's settings; what these cannot do is refused.
    """
    where: dict[str, Any] = {"address": cluster}
    if isinstance(cluster, str) and "://" not in cluster and Path(cluster).suffix == ".json":
        where = {"scheduler_file": cluster}
    try:
        return Client(**where, set_as_default=False, timeout=CONNECT_S, name="screening")
    except (TypeError, RuntimeError, FatalCommClosedError) as error:
        if not any(word in str(error) for word in ("TLS", "encryption")):
            raise
        raise InputError(
            f"{cluster}: its scheduler and this command do not agree on TLS ({error}); DASK_DISTRIBUTED__COMM__TLS__* "
            "in the environment, or Dask's own files, say with which certificate to talk to it: docs/screen.md"
        ) from error
