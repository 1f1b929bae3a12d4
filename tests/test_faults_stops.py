"""Asked to stop, a run finishes what is at work; asked twice, it stops at once. And there is one driver at a time."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import screens

from screening.runs.claim import CLAIM_FILE
from screening.store.record import SHARDS
from screening.store.shard import shard_ranges

COUNT = 400
# This crystal waits, so that a run is at work until the test has seen enough.
WAITING = 210
pytestmark = pytest.mark.timeout(900)
OPTIONS = ["--workers", "1", "--threads", "1", "--set", "shards.least=40", "--set", "shards.most=40"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with crystals, a model, and the right results."""
    folder = tmp_path_factory.mktemp("stops")
    packed = screens.packed_file(folder / "c.h5", COUNT, marks={WAITING: screens.WAITS})
    (folder / "go").touch()
    screens.packed_file(folder / "hanging.h5", COUNT, marks={100: screens.HANGS})
    model = screens.saved_model(folder / "m.safetensors")
    screens.reference(folder / "right", screens.job_of(folder / "none", packed, model, load=screens.arithmetic))
    return folder


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    screens.end_all()


def start(made: Path, run: Path, *options: object, packed: str = "c.h5") -> "subprocess.Popen[str]":
    run.parent.mkdir(exist_ok=True)
    arguments = ["screen", made / packed, "--out", run, "--model", made / "m.safetensors", *OPTIONS, *options]
    return screens.started(run.parent, "arithmetic", *arguments)


def begun(made: Path, run: Path, *options: object) -> "subprocess.Popen[str]":
    """A run that has done four shards or five, is at the sixth, and has the one before or behind it in work too."""
    process = start(made, run, *options)
    screens.wait_for(lambda: (done_in(run) >= 160 and (run.parent / "waits").exists()) or process.poll() is not None)
    assert process.poll() is None, screens.ended(process)
    return process


def hanging(made: Path, run: Path, *options: object) -> "subprocess.Popen[str]":
    """A run whose worker hangs."""
    process = start(made, run, *options, packed="hanging.h5")
    screens.wait_for(lambda: (run.parent / "hangs").exists() or process.poll() is not None)
    assert process.poll() is None, screens.ended(process)
    return process


def events_in(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def stopping(log: Path) -> bool:
    return any(event["event"] == "stopping" for event in events_in(log))


def done_in(run: Path) -> int:
    return sum(stop - start for start, stop, _ in shard_ranges(run / SHARDS)) if (run / SHARDS).is_dir() else 0


def finish(made: Path, run: Path) -> None:
    (run.parent / "go").touch()
    assert screens.ended(start(made, run, "--quiet")) == (0, "", "")
    screens.assert_same_columns(screens.columns_of(run), screens.columns_of(made / "right"))


def children_of(process: "subprocess.Popen[str]") -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


def test_sigterm_finishes_what_is_at_work_and_says_how_to_go_on(tmp_path: Path, made: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.jsonl"
    process = begun(made, run, "--log", log)
    children = children_of(process)
    process.terminate()
    screens.wait_for(lambda: stopping(log))
    (tmp_path / "go").touch()
    code, output, errors = screens.ended(process)
    assert (code, output) == (75, "")
    told = re.search(r"stopped after (\d+) of 400 crystals; what is done is kept, and the same command goes", errors)
    assert told, errors
    # The driver may not have heard yet that a shard is done and the next begun, which it then gives up.
    assert 0 < int(told[1]) <= done_in(run) < 400
    assert not (run / CLAIM_FILE).exists()
    assert [path.name for path in (run / SHARDS).iterdir() if path.suffix == ".part"] == []
    screens.wait_for(lambda: not any(map(psutil.pid_exists, children)))
    # Every ten seconds comes a word of progress.
    events = [event for event in events_in(log) if event["event"] != "progress"]
    (stop,) = (place for place, event in enumerate(events) if event["event"] == "stopping")
    *shards, last = (event["event"] for event in events[stop + 1 :])
    assert last == "ended"
    assert shards == ["shard"] * len(shards)
    assert 0 < len(shards) <= events[stop]["leases"], "what was at work is finished, and nothing else is begun"
    before = [event["event"] for event in events[:stop]].count("shard")
    assert done_in(run) <= 40 * (before + events[stop]["leases"])
    finish(made, run)


def test_ctrl_c_reaches_workers_too_and_yet_they_finish(tmp_path: Path, made: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.jsonl"
    process = begun(made, run, "--log", log)
    os.killpg(process.pid, signal.SIGINT)
    screens.wait_for(lambda: stopping(log))
    (tmp_path / "go").touch()
    code, _, errors = screens.ended(process)
    assert code == 75, errors
    assert "Traceback" not in errors
    assert not [event for event in events_in(log) if event["event"] == "worker_died"]


def test_the_grace_time_ends(tmp_path: Path, made: Path) -> None:
    process = hanging(made, tmp_path / "run", "--set", "limits.grace=2")
    process.terminate()
    assert screens.ended(process)[0] == 75


def test_a_second_signal_ends_at_once(tmp_path: Path, made: Path) -> None:
    log = tmp_path / "log.jsonl"
    process = hanging(made, tmp_path / "run", "--set", "limits.grace=10000", "--log", log)
    children = children_of(process)
    process.terminate()
    # Two signals at once are one.
    screens.wait_for(lambda: stopping(log))
    process.terminate()
    code, _, errors = screens.ended(process)
    assert (code, errors.splitlines()[-1]) == (143, "screening: stopped by SIGTERM")
    screens.wait_for(lambda: not any(map(psutil.pid_exists, children)))


def test_of_two_drivers_the_second_is_refused_until_the_first_is_dead(tmp_path: Path, made: Path) -> None:
    run = tmp_path / "run"
    first = begun(made, run)
    code, _, errors = screens.ended(start(made, run))
    assert code == 4
    assert f"another driver is at work there (process {first.pid} on " in errors
    assert first.poll() is None
    first.kill()
    screens.ended(first)
    finish(made, run)
