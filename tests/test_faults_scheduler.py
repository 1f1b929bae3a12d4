"""A scheduler that is not this process's: used by its address, lost and found again, or not; workers that are unfit."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import screens
from distributed import SpecCluster

from screening.errors import InputError, ResourceError, ScreeningError
from screening.runs import dask_runner
from screening.runs.certificates import Certificate
from screening.runs.config import LimitSettings, ScreenConfig, ShardSettings
from screening.runs.listener import Listener, Progress
from screening.runs.local_cluster import Layout, local_cluster
from screening.runs.screen import screen
from screening.store.schema import Status

COUNT = 300
pytestmark = pytest.mark.timeout(900)
# This crystal waits, so that there is something to do until the test has seen enough.
WAITING = 250


class Site:
    """A scheduler with a worker, as processes of their own, on one port."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.environment = folder, environment or {}
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
        return re.findall(r"t(?:cp|ls)://127.0.0.1:(\d+)", text)

    def _run(self, module: str, *options: str) -> None:
        environment = os.environ | {"PYTHONPATH": ":".join(sys.path)} | self.environment
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
    packed = screens.packed_file(folder / "c.h5", COUNT, marks={WAITING: screens.WAITS})
    (folder / "go").touch()
    model = screens.saved_model(folder / "m.safetensors")
    screens.reference(folder / "right", screens.job_of(folder / "none", packed, model, load=screens.arithmetic))
    return folder


def settings(made: Path, **limits: float) -> ScreenConfig:
    shards = ShardSettings(least=10, most=10)
    return ScreenConfig(model=str(made / "m.safetensors"), shards=shards, limits=LimitSettings(**limits), threads=1)


def test_a_scheduler_that_is_killed_and_comes_back(tmp_path: Path, made: Path, site: Site) -> None:
    """However soon: another one at its address has forgotten everything."""
    happened: list[str] = []

    def kill_in_the_middle(progress: Progress) -> None:
        if progress.rows >= WAITING - 50 and not (tmp_path / "go").exists():
            site.kill()
            site.start()
            (tmp_path / "go").touch()

    listener = Listener(show=kill_in_the_middle, tell=lambda kind, facts: happened.append(kind))
    done = screen(
        [made / "c.h5"],
        tmp_path / "run",
        settings(made),
        cluster=site.address,
        listener=listener,
        load=screens.arithmetic,
    )
    assert done.counts[Status.OK] == COUNT
    assert done.progress.statuses == {"ok": COUNT}, "nothing was done unnoticed"
    assert happened.count("scheduler_lost") >= 1
    assert not {"worker_died", "shard_lost"} & set(happened)
    screens.assert_same_columns(screens.columns_of(tmp_path / "run"), screens.columns_of(made / "right"))


def test_a_scheduler_that_does_not_come_back(
    tmp_path: Path, made: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(progress: Progress) -> None:
        if progress.rows >= WAITING - 50:
            site.kill()

    def attempt(cluster: str, listener: Listener, patience: float) -> int:
        run, config = tmp_path / "run", settings(made, scheduler=patience)
        done = screen([made / "c.h5"], run, config, cluster=cluster, listener=listener, load=screens.arithmetic)
        return done.progress.rows

    with monkeypatch.context() as soon:
        soon.setattr(dask_runner, "CONNECT_S", 1.0)
        words = r"the scheduler is gone, and did not come back within 2 s .*same command"
        with pytest.raises(ResourceError, match=words):
            attempt(site.address, Listener(show=kill), 2.0)
    site.start()
    (tmp_path / "go").touch()
    assert 0 < attempt(str(site.file), Listener(), 60.0) <= COUNT - (WAITING - 50)
    screens.assert_same_columns(screens.columns_of(tmp_path / "run"), screens.columns_of(made / "right"))


def tls_environment(certificate: Certificate, *roles: str) -> dict[str, str]:
    """How Dask's settings name a certificate."""
    found = {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(certificate.certificate)}
    for role in roles:
        found[f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT"] = str(certificate.certificate)
        found[f"DASK_DISTRIBUTED__COMM__TLS__{role}__KEY"] = str(certificate.key)
    return found


def test_a_scheduler_that_speaks_tls_needs_its_certificate(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, another = Certificate.made(tmp_path / "ours"), Certificate.made(tmp_path / "another")
    encrypted = {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True", "DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME": "tls"}
    site = Site(tmp_path, encrypted | tls_environment(ours, "SCHEDULER", "WORKER"))
    (tmp_path / "go").touch()
    try:
        site.start()
        for certificate, outcome in ((None, 2), (another, 2), (ours, 0)):
            for key, value in ({} if certificate is None else tls_environment(certificate, "CLIENT")).items():
                monkeypatch.setenv(key, value)
            words = ["screen", made / "c.h5", "--out", tmp_path / "run", "--model", made / "m.safetensors", "--quiet"]
            code, _, errors = screens.ended(screens.started(tmp_path, "arithmetic", *words, "--cluster", site.file))
            assert code == outcome, errors
            assert ("do not agree on TLS" in errors) == (code == 2), errors
    finally:
        site.kill()
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


def test_a_worker_that_cannot_write_is_let_go_and_the_others_do_its_rows(tmp_path: Path, made: Path) -> None:
    happened: list[str] = []
    listener = Listener(tell=lambda kind, facts: happened.append(kind))
    run, load = tmp_path / "run", screens.unwell_in_one_process
    (tmp_path / "go").touch()
    with local_cluster(Layout(2, 1, 2_000_000_000)) as two:
        done = screen([made / "c.h5"], run, settings(made), cluster=two, listener=listener, load=load)
    assert done.progress.statuses == {"ok": COUNT}
    assert happened.count("worker_unfit") <= 1, "none, if the other was done before this one began"
    assert not {"shard_lost", "shard_refused"} & set(happened)
    screens.assert_same_columns(screens.columns_of(run), screens.columns_of(made / "right"))


def test_a_worker_that_finds_another_model_is_refused(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    model = tmp_path / "m.safetensors"
    model.write_bytes((made / "m.safetensors").read_bytes())
    config = settings(made).model_copy(update={"model": str(model)})
    listener = Listener(tell=lambda kind, facts: kind == "started" and screens.saved_model(model, seed=9))
    with pytest.raises(InputError, match="is not the model that the run began with; put that one back"):
        screen([made / "c.h5"], tmp_path / "run", config, cluster=cluster, listener=listener, load=screens.arithmetic)


def test_too_many_deaths_are_no_accident(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    packed = screens.packed_file(tmp_path / "c.h5", 6, marks=dict.fromkeys(range(4), screens.SEGFAULTS))
    config = settings(made, verdicts=1).model_copy(update={"shards": ShardSettings(least=1, most=1)})
    with pytest.raises(ScreeningError, match="2 crystals killed their worker or took too long; that is rarely their"):
        screen([packed], tmp_path / "run", config, cluster=cluster, load=screens.arithmetic)
