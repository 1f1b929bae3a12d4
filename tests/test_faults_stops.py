"""Asked to stop, a run finishes what is at work; asked twice, it stops at once. And there is one driver at a time."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import screens

from screening.runs.claim import CLAIM_FILE
from screening.store.record import SHARDS
from screening.store.shard import shard_ranges

COUNT = 400
OPTIONS = ["--workers", "1", "--threads", "1", "--set", "shards.least=40", "--set", "shards.most=40"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with crystals, a model, and the right results."""
    folder = tmp_path_factory.mktemp("stops")
    packed = screens.packed_file(folder / "c.h5", COUNT)
    screens.packed_file(folder / "hanging.h5", COUNT, marks={100: screens.HANGS})
    model = screens.saved_model(folder / "m.safetensors")
    screens.reference(folder / "right", screens.job_of(folder / "none", packed, model, load=screens.arithmetic))
    return folder


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    screens.end_all()


def start(
    made: Path, run: Path, *options: object, load: str = "very_slow_arithmetic", packed: str = "c.h5"
) -> "subprocess.Popen[str]":
    arguments = ["screen", made / packed, "--out", run, "--model", made / "m.safetensors", *OPTIONS, *options]
    return screens.started(run.parent, load, *arguments)


def begun(made: Path, run: Path, *options: object, **others: str) -> "subprocess.Popen[str]":
    """A run that has done something, and is at more."""
    process = start(made, run, *options, **others)
    screens.wait_for(lambda: done_in(run) or process.poll() is not None)
    assert process.poll() is None, screens.ended(process)
    return process


def done_in(run: Path) -> int:
    return sum(stop - start for start, stop, _ in shard_ranges(run / SHARDS)) if (run / SHARDS).is_dir() else 0


def finish(made: Path, run: Path) -> None:
    process = start(made, run, "--quiet", load="arithmetic")
    assert screens.ended(process) == (0, "", "")
    screens.assert_same_columns(screens.columns_of(run), screens.columns_of(made / "right"))


def children_of(process: "subprocess.Popen[str]") -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


def test_sigterm_finishes_what_is_at_work_and_says_how_to_go_on(tmp_path: Path, made: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.jsonl"
    process = begun(made, run, "--log", log)
    children = children_of(process)
    process.terminate()
    code, output, errors = screens.ended(process)
    assert (code, output) == (75, "")
    assert f"stopped after {done_in(run):,} of 400 crystals; what is done is kept, and the same command goes" in errors
    assert 40 <= done_in(run) < COUNT
    assert not (run / CLAIM_FILE).exists()
    assert [path.name for path in (run / SHARDS).iterdir() if path.suffix == ".part"] == []
    screens.wait_for(lambda: not any(map(psutil.pid_exists, children)))
    events = [json.loads(line) for line in log.read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.index("stopping") < kinds.index("ended")
    stopping = next(event for event in events if event["event"] == "stopping")
    after = [event["event"] for event in events[kinds.index("stopping") :]]
    assert 1 <= after.count("shard") <= stopping["leases"], "what was at work is finished, and nothing else is begun"
    finish(made, run)


def test_ctrl_c_reaches_workers_too_and_yet_they_finish(tmp_path: Path, made: Path) -> None:
    run = tmp_path / "run"
    process = begun(made, run, "--log", tmp_path / "log.jsonl")
    os.killpg(process.pid, signal.SIGINT)
    code, _, errors = screens.ended(process)
    assert code == 75, errors
    assert "Traceback" not in errors
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert not [event for event in events if event["event"] == "worker_died"]


def test_the_grace_time_ends_and_a_second_signal_ends_at_once(tmp_path: Path, made: Path) -> None:
    run = tmp_path / "run"
    process = begun(made, run, "--set", "limits.grace=2", packed="hanging.h5")
    time.sleep(3)  # until it hangs
    process.terminate()
    start_of_end = time.monotonic()
    assert screens.ended(process)[0] == 75
    assert time.monotonic() - start_of_end < 20

    process = begun(made, tmp_path / "other", "--set", "limits.grace=1000", packed="hanging.h5")
    time.sleep(3)
    children = children_of(process)
    process.terminate()
    time.sleep(0.5)
    process.terminate()
    code, _, errors = screens.ended(process, timeout=20)
    assert (code, errors.splitlines()[-1]) == (143, "screening: stopped by SIGTERM")
    screens.wait_for(lambda: not any(map(psutil.pid_exists, children)))


def test_of_two_drivers_the_second_is_refused_until_the_first_is_dead(tmp_path: Path, made: Path) -> None:
    run = tmp_path / "run"
    first = begun(made, run)
    second = start(made, run, load="arithmetic")
    code, _, errors = screens.ended(second)
    assert code == 4
    assert f"another driver is at work there (process {first.pid} on " in errors
    assert first.poll() is None
    first.kill()
    screens.ended(first)
    finish(made, run)
