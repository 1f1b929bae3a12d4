"""Killed at random moments, workers and drivers: nothing done is lost or done twice, and the end is the same."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import screens
from distributed import SpecCluster

from screening.runs.config import ScreenConfig, ShardSettings
from screening.runs.listener import Listener, Progress
from screening.runs.local_cluster import Layout, local_cluster
from screening.runs.screen import screen
from screening.store.record import SHARDS
from screening.store.shard import shard_ranges

COUNT = 600
WORKER_KILLS = 10
DRIVER_KILLS = 10
# These crystals wait, so that there is something to do until the test has seen enough.
WAITING = [50 * k + 40 for k in range(11)]
# So many rows wait with the last of them: what its worker holds.
STUCK = 80
pytestmark = pytest.mark.timeout(1200)
OPTIONS = ["--workers", "2", "--threads", "1", "--set", "shards.least=10", "--set", "shards.most=20", "--quiet"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with crystals, a model, and the right results."""
    folder = tmp_path_factory.mktemp("kills")
    marks = {5: screens.RAISES, 77: screens.IS_NAN}
    packed = screens.packed_file(folder / "c.h5", COUNT, marks=marks | dict.fromkeys(WAITING, screens.WAITS))
    (folder / "go").touch()
    model = screens.saved_model(folder / "m.safetensors")
    screens.reference(folder / "right", screens.job_of(folder / "none", packed, model, load=screens.arithmetic))
    return folder


def assert_right(made: Path, run: Path) -> None:
    screens.assert_same_columns(screens.columns_of(run), screens.columns_of(made / "right"))
    assert list(run.rglob("*.part")) == []


def done_in(run: Path) -> int:
    return sum(stop - start for start, stop, _ in shard_ranges(run / SHARDS)) if (run / SHARDS).is_dir() else 0


def times_of(run: Path) -> dict[str, int]:
    """When each shard was written."""
    folder = run / SHARDS
    return {path.name: path.stat().st_mtime_ns for _, _, path in shard_ranges(folder)} if folder.is_dir() else {}


def command(made: Path, run: Path) -> list[object]:
    return ["screen", made / "c.h5", "--out", run, "--model", made / "m.safetensors", *OPTIONS]


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    """Processes below a driver that predict."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # nor one that ended and waits to be collected
                if "spawn_main" in " ".join(child.cmdline()):
                    found.append(child.pid)
    return found


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    screens.end_all()


@pytest.fixture(scope="module")
def cluster() -> Iterator[SpecCluster]:
    with local_cluster(Layout(2, 1, 2_000_000_000)) as found:
        yield found


def let_go(folder: Path, *rows: int) -> None:
    for row in rows:
        (folder / f"go-made-{row:09d}").touch()


def test_workers_killed_at_random_moments(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    """Ten, each as soon as something was done after the last: while workers predict, write, wait or start."""
    chance = random.Random(0)
    killed: list[int] = []
    rows = -1

    def kill_now_and_then(progress: Progress) -> None:
        nonlocal rows
        pids = [nanny.pid for nanny in cluster.workers.values() if nanny.pid]
        if pids and progress.rows > rows and len(killed) < WORKER_KILLS:
            rows = progress.rows
            killed.append(chance.choice(pids))
            os.kill(killed[-1], signal.SIGKILL)
            let_go(tmp_path, WAITING[len(killed)])

    let_go(tmp_path, WAITING[0])
    settings = ScreenConfig(model=str(made / "m.safetensors"), shards=ShardSettings(least=4, most=8))
    listener = Listener(show=kill_now_and_then)
    run = tmp_path / "run"
    screen([made / "c.h5"], run, settings, cluster=cluster, listener=listener, load=screens.arithmetic)
    assert len(killed) == WORKER_KILLS
    assert_right(made, run)


def test_drivers_killed_at_random_moments(tmp_path: Path, made: Path) -> None:
    """Its workers go with a driver; the next one takes over at once, and never does what is done."""
    chance = random.Random(1)
    run = tmp_path / "run"
    before: dict[str, int] = {}
    let_go(tmp_path, *WAITING[:-1])
    for kill in range(DRIVER_KILLS):
        process = screens.started(tmp_path, "slow_arithmetic", *command(made, run))
        # From before there is a folder to long after the first shard.
        if kill % 2:
            seen = min(done_in(run), COUNT - STUCK - 1)
            screens.wait_for(lambda: done_in(run) > seen)  # noqa: B023
        time.sleep(chance.uniform(0.0, 0.4 if kill % 2 else 2.0))
        assert process.poll() is None, screens.ended(process)
        workers = workers_of(process)
        process.kill()
        screens.ended(process)
        screens.wait_for(lambda: not any(map(psutil.pid_exists, workers)))  # noqa: B023
        shards = times_of(run)
        assert before.items() <= shards.items(), "what is done stays as it is"
        before = shards
    assert 0 < done_in(run) < COUNT
    (tmp_path / "go").touch()
    code, _, errors = screens.ended(screens.started(tmp_path, "arithmetic", *command(made, run)))
    assert (code, errors) == (0, "")
    assert before.items() <= times_of(run).items()
    assert_right(made, run)
    lines = [json.loads(line) for line in (run / "provenance.jsonl").read_text().splitlines() if line.endswith("}")]
    assert sum(line["event"] == "start" for line in lines) >= 2


def test_all_killed_at_once(tmp_path: Path, made: Path) -> None:
    run = tmp_path / "run"
    let_go(tmp_path, *WAITING[:-1])
    process = screens.started(tmp_path, "arithmetic", *command(made, run))
    screens.wait_for(lambda: done_in(run) > 50)
    os.killpg(process.pid, signal.SIGKILL)
    screens.ended(process)
    assert 50 < done_in(run) < COUNT
    # What a killed writer leaves is passed over, and swept at the end.
    (run / SHARDS / "rows-000000000000-000000000020.h5.0123abcd.part").write_bytes(b"half")
    (tmp_path / "go").touch()
    code, _, errors = screens.ended(screens.started(tmp_path, "arithmetic", *command(made, run)))
    assert (code, errors) == (0, "")
    assert_right(made, run)
