"""How many workers of how many threads this machine gets, on which GPUs; and that a cluster leaves nothing behind."""

import logging
import signal
import socket
import subprocess
import threading
from pathlib import Path

import psutil
import pytest
from children import children
from distributed import Client

from screening.errors import InputError
from screening.machine import Memory, Processors
from screening.runs import local_cluster as module
from screening.runs.certificates import own_security
from screening.runs.local_cluster import Layout, fitting, gpu_ids, local_cluster, visible_gpus

GB = 10**9


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A machine whose size a test sets."""
    found = {"processors": 16, "limit": 64 * GB, "free": 60 * GB, "gpus": 0}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("screening.machine.processors", lambda: Processors(64, found["processors"], "a control group"))
    monkeypatch.setattr("screening.machine.memory", lambda: Memory(found["limit"], found["free"], "a control group"))
    monkeypatch.setattr("screening.ops.core.cuda_device_count", lambda: found["gpus"])
    return found


def shape(layout: Layout) -> tuple[int, int]:
    return layout.workers, layout.threads


@pytest.mark.parametrize(
    ("processors", "expected"), [(1, (1, 1)), (2, (1, 2)), (4, (1, 4)), (16, (4, 4)), (30, (7, 4))]
)
def test_processors_are_used(machine: dict[str, int], processors: int, expected: tuple[int, int]) -> None:
    machine["processors"] = processors
    assert shape(fitting()) == expected


def test_memory_bounds_the_workers(machine: dict[str, int]) -> None:
    machine["free"] = 4 * GB
    layout = fitting()
    assert shape(layout) == (2, 4)
    machine["free"] = GB // 10
    assert shape(fitting()) == (1, 4)
    assert fitting().memory * fitting().workers <= machine["limit"]


def test_what_is_asked_for_is_kept(machine: dict[str, int]) -> None:
    assert shape(fitting(workers=3, threads=5)) == (3, 5)
    assert shape(fitting(workers=3)) == (3, 5)
    assert shape(fitting(workers=40)) == (40, 1)
    assert shape(fitting(threads=8)) == (2, 8)


def test_each_gpu_has_a_worker(machine: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    machine["gpus"] = 4
    layout = fitting(device="cuda")
    assert (shape(layout), layout.gpus) == ((4, 1), ("0", "1", "2", "3"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8ae3, 5,-1")
    assert visible_gpus() == ("GPU-8ae3", "5")
    assert fitting(device="cuda", workers=3).gpus == ("GPU-8ae3", "5", "GPU-8ae3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match="no GPU can be used"):
        fitting(device="cuda")


DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { return *count = 2, 0; }
int cuDeviceGet(int *device, int k) { return *device = 10 * k, 0; }
int cuDeviceGetUuid_v2(char *id, int device) { return __builtin_memset(id, 1 + device, 16), FAILS; }
"""


@pytest.mark.parametrize(("fails", "ids"), [(0, ("01" * 16, "0b" * 16)), (100, ())])
def test_gpus_are_told_apart_by_what_the_driver_says(tmp_path: Path, fails: int, ids: tuple[str, ...]) -> None:
    source, library = tmp_path / "driver.c", tmp_path / "driver.so"
    source.write_text(DRIVER, encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", f"-DFAILS={fails}", source, "-o", library], check=True)
    assert gpu_ids(str(library)) == ids
    assert gpu_ids(str(tmp_path / "none.so")) == ()


def test_little_work_needs_few_workers() -> None:
    layout = Layout(4, 1, GB, ("0", "1", "2", "3"))
    assert layout.at_most(2) == Layout(2, 1, GB, ("0", "1"))
    assert layout.at_most(0).workers == 1
    assert layout.at_most(9) == layout


# The socket that tornado could not bind is left to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_port_that_is_taken_meanwhile_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the start, another program may take it; warnings are errors here."""
    with socket.create_server((module.LOCALHOST, 0)) as taken:
        monkeypatch.setattr(module, "_free_port", lambda wanted: taken.getsockname()[1])
        with local_cluster(Layout(1, 1, 2 * GB)) as cluster, Client(cluster, set_as_default=False) as client:
            assert client.scheduler_info(n_workers=0)["services"]["dashboard"] != taken.getsockname()[1]


def blocked_signals() -> set[signal.Signals]:
    return {s for s in signal.pthread_sigmask(signal.SIG_BLOCK, []) if isinstance(s, signal.Signals)}


def visible() -> str:
    import os

    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def test_a_cluster_listens_here_only_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DASHBOARD_PORT", 0)
    before, level = threading.active_count(), logging.getLogger("distributed").level
    children_before = children()
    with local_cluster(Layout(2, 1, 2 * GB, ("7", "9"))) as cluster:
        with Client(cluster, set_as_default=False) as client:
            assert sorted(client.run(visible).values()) == ["7", "9"]
            listening = {c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"}
            assert listening == {"127.0.0.1"}
        address = cluster.scheduler_address
        assert address.startswith("tls://127.0.0.1:")
        # Other users of this machine can try, and what they send would be executed.
        for theirs in (None, own_security()):
            with pytest.raises((OSError, TimeoutError, TypeError)):
                Client(address if theirs else address.replace("tls", "tcp"), security=theirs, timeout=3)
        workers = [nanny.pid for nanny in cluster.workers.values()]
        for pid in workers:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            mask = int(next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16)
            assert mask >> (signal.SIGINT - 1) & 1, "a Ctrl-C is the driver's business"
    assert not any(psutil.pid_exists(pid) for pid in workers)
    assert signal.SIGINT not in blocked_signals()
    assert logging.getLogger("distributed").level == level
    assert children() == children_before
    assert threading.active_count() <= before + 6
