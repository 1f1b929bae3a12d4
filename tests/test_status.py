"""How a run is, without Slurm: from its folder alone, whatever state that is in."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import screens
from slurm_runs import command
from typer.testing import CliRunner

from screening.cli import app
from screening.errors import InputError, ResourceError
from screening.runs import status
from screening.runs.claim import Claim
from screening.runs.slurm import asked_jobs, controller
from screening.runs.slurm.controller import Job, SilentError
from screening.runs.status import Cancelled, cancelled, status_of
from screening.store.record import SHARDS, SLURM_JOBS

COUNT = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run half of which is done, with two failures in it."""
    from screening.crystals.packed import PackedCrystals
    from screening.store.record import record_of, write_record

    marks = {3: screens.RAISES, 11: screens.IS_NAN}
    packed = screens.packed_file(tmp_path / "c.h5", COUNT, marks=marks)
    model = screens.saved_model(tmp_path / "m.safetensors")
    run = tmp_path / "run"
    run.mkdir()
    job = screens.job_of(run / SHARDS, packed, model, load=screens.arithmetic)
    with PackedCrystals(packed) as crystals:
        write_record(record_of(run, job.stamp, packed, len(crystals)))
    screens.compute(job, (0, 10), (10, 20), (15, 30))
    return run


def test_what_is_done_is_counted_once(folder: Path) -> None:
    found = status_of(folder)
    assert (found.rows, found.done, found.shards) == (COUNT, 30, 3)
    assert (found.statuses, found.looked_at) == ({"ok": 28, "failed": 2}, 30)
    assert found.word == "stopped: the same command goes on"
    assert found.silence == ""


def test_a_driver_says_how_it_goes(folder: Path) -> None:
    with Claim(folder, beat_s=0.05) as claim:
        claim.facts = {"rate": 5.0, "workers": 3, "dashboard": "http://127.0.0.1:1/status"}
        screens.wait_for(lambda: status_of(folder).rate == 5.0)
        found = status_of(folder)
        assert (found.word, found.seconds_left) == ("running", 6.0)
        assert "alive, 3 workers, dashboard http://127.0.0.1:1/status" in found.drivers[0].words
    assert status_of(folder).drivers == ()


def test_a_silent_controller_is_said_and_the_rest_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*names: str) -> list[Job]:
        raise SilentError("squeue: no answer")

    asked_jobs.note(folder, "submitting", tag="screening-a", way="batch")
    monkeypatch.setattr(controller, "is_there", lambda: True)
    monkeypatch.setattr(controller, "jobs_named", silent)
    found = status_of(folder)
    assert (found.done, found.silence) == (30, "jobs are unknown: squeue: no answer")
    monkeypatch.setattr(controller, "is_there", lambda: False)
    assert status_of(folder).silence == "jobs are unknown: this machine has no squeue"


CLAIMING = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from screening.runs.claim import Claim
with Claim(Path(sys.argv[1])):
    print("has it", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("job", [None, "17"], ids=["a driver of elastic workers", "a driver in a job"])
def test_a_driver_here_is_stopped_whatever_slurm_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, job: str | None
) -> None:
    def silent(*names: str) -> list[Job]:
        raise SilentError("squeue: no answer")

    asked_jobs.note(folder, "submitting", tag="screening-a", way="elastic")
    monkeypatch.setattr(controller, "is_there", lambda: True)
    monkeypatch.setattr(controller, "jobs_named", silent)
    others = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    command = [sys.executable, "-c", CLAIMING.format(path=sys.path), str(folder)]
    environment = others | ({} if job is None else {"SLURM_JOB_ID": job})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "has it\n"
        done = cancelled(folder)
        assert process.wait(60) == -signal.SIGTERM
    assert done == Cancelled((f"asked process {process.pid} to stop",), "jobs are unknown: squeue: no answer")


def test_jobs_that_slurm_did_not_cancel_are_told_and_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(jobs: Iterable[str]) -> None:
        raise SilentError("scancel: no answer")

    asked_jobs.note(folder, "submitting", tag="screening-a", way="batch")
    monkeypatch.setattr(controller, "is_there", lambda: True)
    monkeypatch.setattr(controller, "jobs_named", lambda *names: [Job("7", *["x"] * 10)])
    monkeypatch.setattr(controller, "cancel", silent)
    assert cancelled(folder) == Cancelled((), "jobs may go on: scancel: no answer")
    found = CliRunner().invoke(app, ["cancel", str(folder)])
    assert found.stdout == ""
    assert isinstance(found.exception, ResourceError)
    assert "jobs may go on: scancel: no answer; give the same command again" in str(found.exception)


def test_of_very_many_shards_some_are_looked_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "LOOK_S", -1.0)
    found = status_of(folder)
    assert (found.done, found.looked_at, found.statuses) == (30, 0, {})


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run\.json, so it is no folder of a run"):
        status_of(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        status_of(tmp_path / "none")


def test_no_job_that_was_asked_for_is_forgotten_for_a_broken_line(tmp_path: Path) -> None:
    assert asked_jobs.tags_of(tmp_path) == []
    asked_jobs.note(tmp_path, "submitting", tag="a")
    asked_jobs.note(tmp_path, "submitted", tag="a", job="1")
    asked_jobs.note(tmp_path, "submitting", tag="b")
    with (tmp_path / SLURM_JOBS).open("a") as file:
        file.write('{"event": "subm')
    assert asked_jobs.tags_of(tmp_path) == ["a", "b"]
    asked_jobs.note(tmp_path, "submitting", tag="c")
    assert asked_jobs.tags_of(tmp_path) == ["a", "b", "c"]
    asked_jobs.note(tmp_path, "submitting", tag="d", way="elastic")
    assert asked_jobs.tags_of(tmp_path, way="elastic") == ["d"]


def test_the_command_prints_and_loads_no_torch(folder: Path) -> None:
    ran = command("status", folder)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[:2] == [
        f"{folder}: stopped: the same command goes on",
        "  crystals  30 of 60 (50.0%), in 3 shards",
    ]
    assert json.loads(command("status", folder, "--json").stdout)["done"] == 30
