"""A scheduler that is not this process's: used by its address, lost and found again, or not; workers that are unfit."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import screens
from distributed import SpecCluster

from screening.errors import InputError, ResourceError, ScreeningError
from screening.runs import dask_client, dask_runner
from screening.runs.config import LimitSettings, ScreenConfig, ShardSettings
from screening.runs.listener import Listener, Progress
from screening.runs.local_cluster import Layout, local_cluster
from screening.runs.screen import screen
from screening.store.schema import Status

COUNT = 300


class Site:
    """A scheduler with a worker, as processes of their own, on one port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.port = 0
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self.file.unlink(missing_ok=True)
        options = ["--scheduler-file", str(self.file), "--host", "127.0.0.1", "--no-dashboard"]
        self._run("dask_scheduler", *options, "--port", str(self.port))
        screens.wait_for(lambda: self._ports())
        self.port = int(self._ports()[0])
        near = ["--scheduler-file", str(self.file), "--host", "127.0.0.1", "--no-dashboard", "--nthreads", "2"]
        self._run("dask_worker", *near, "--local-directory", str(self.folder))

    def _ports(self) -> list[str]:
        text = self.file.read_text() if self.file.exists() else ""
        return re.findall(r"tcp://127.0.0.1:(\d+)", text)

    def _run(self, module: str, *options: str) -> None:
        environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-m", f"distributed.cli.{module}", *options]
        quiet = subprocess.DEVNULL
        self.processes.append(subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet))

    def kill(self) -> None:
        """The scheduler goes at once, and so do its workers when they notice."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes = []

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    found.start()
    yield found
    found.kill()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scheduler")
    packed = screens.packed_file(folder / "c.h5", COUNT)
    model = screens.saved_model(folder / "m.safetensors")
    screens.reference(folder / "right", screens.job_of(folder / "none", packed, model, load=screens.arithmetic))
    return folder


def settings(made: Path, **limits: float) -> ScreenConfig:
    shards = ShardSettings(least=10, most=10)
    return ScreenConfig(model=str(made / "m.safetensors"), shards=shards, limits=LimitSettings(**limits), threads=1)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_client, "CONNECT_S", 1.0)
    monkeypatch.setattr(dask_runner, "CONNECT_S", 1.0)


def test_a_scheduler_that_is_killed_and_comes_back(tmp_path: Path, made: Path, site: Site) -> None:
    happened: list[str] = []
    killed: list[int] = []

    def kill_in_the_middle(progress: Progress) -> None:
        if progress.rows > 50 and not killed:
            killed.append(progress.rows)
            site.kill()
            site.start()

    listener = Listener(show=kill_in_the_middle, tell=lambda kind, facts: happened.append(kind))
    done = screen(
        [made / "c.h5"],
        tmp_path / "run",
        settings(made),
        cluster=site.address,
        listener=listener,
        load=screens.slow_arithmetic,
    )
    assert done.counts[Status.OK] == COUNT
    assert "scheduler_lost" in happened
    assert happened.count("connected") == 2
    screens.assert_same_columns(screens.columns_of(tmp_path / "run"), screens.columns_of(made / "right"))


def test_a_scheduler_that_does_not_come_back(tmp_path: Path, made: Path, site: Site) -> None:
    def kill(progress: Progress) -> None:
        if progress.rows > 50:
            site.kill()

    def attempt(cluster: str, listener: Listener) -> int:
        run, config = tmp_path / "run", settings(made, scheduler=2.0)
        done = screen([made / "c.h5"], run, config, cluster=cluster, listener=listener, load=screens.slow_arithmetic)
        return done.progress.rows

    with pytest.raises(ResourceError, match=r"the scheduler is gone, and did not come back within 2 s .*same command"):
        attempt(site.address, Listener(show=kill))
    site.start()
    assert 0 < attempt(str(site.file), Listener()) < COUNT
    screens.assert_same_columns(screens.columns_of(tmp_path / "run"), screens.columns_of(made / "right"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[SpecCluster]:
    with local_cluster(Layout(1, 1, 2_000_000_000)) as found:
        yield found


def test_workers_that_die_before_they_begin_are_nobodys_fault(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    words = "workers in a row could not start to work; of the last: it died while it loaded the model"
    with pytest.raises(ResourceError, match=words):
        screen([made / "c.h5"], tmp_path / "run", settings(made), cluster=cluster, load=screens.deadly_to_load)
    assert list((tmp_path / "run/shards").iterdir()) == []


def test_workers_that_cannot_begin_say_why(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    words = "none of 1 workers can work; of the last: RuntimeError: the driver of this GPU is too old"
    with pytest.raises(ResourceError, match=words):
        screen([made / "c.h5"], tmp_path / "run", settings(made), cluster=cluster, load=screens.unloadable)


def test_a_worker_that_finds_another_model_is_refused(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    model = tmp_path / "m.safetensors"
    model.write_bytes((made / "m.safetensors").read_bytes())
    config = settings(made).model_copy(update={"model": str(model)})
    listener = Listener(tell=lambda kind, facts: kind == "started" and screens.saved_model(model, seed=9))
    with pytest.raises(InputError, match="is not the model that the run began with; put that one back"):
        screen([made / "c.h5"], tmp_path / "run", config, cluster=cluster, listener=listener, load=screens.arithmetic)


def test_too_many_deaths_are_no_accident(
    tmp_path: Path, made: Path, cluster: SpecCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_runner, "MOST_VERDICTS", 1)
    packed = screens.packed_file(tmp_path / "c.h5", 6, marks=dict.fromkeys(range(4), screens.SEGFAULTS))
    config = settings(made).model_copy(update={"shards": ShardSettings(least=1, most=1)})
    with pytest.raises(ScreeningError, match="2 crystals killed their worker or took too long; that is rarely their"):
        screen([packed], tmp_path / "run", config, cluster=cluster, load=screens.arithmetic)
