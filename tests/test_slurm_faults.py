"""What goes wrong around a run on a real Slurm: folders, job ids, networks, warnings at the wrong moment."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import screens
from devcluster import DevCluster
from slurm_runs import COUNT, SlurmRun, command, made_input

from screening.runs.claim import holder_of, lives
from screening.runs.slurm import journal
from screening.store.record import SHARDS

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

# Refuses every connection but to this machine, and notes it. Python loads it at its start, from its path.
OFFLINE = """
import socket
before = socket.socket.connect
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        with open({note!r}, "a") as file:
            print(address, file=file)
        raise OSError("this node is offline")
    return before(self, address)
socket.socket.connect = connect
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_input(tmp_path_factory.mktemp("made"))


@pytest.fixture
def run(slurm: DevCluster, tmp_path: Path, made: Path) -> SlurmRun:
    return SlurmRun(slurm, tmp_path, made)


Mount = Callable[..., None]


@pytest.fixture
def mount(run: SlurmRun) -> Iterator[Mount]:
    """Mount something on a folder of the run, or change what is mounted there; all of it goes afterwards."""
    mounted: list[Path] = []

    def act(*options: str | Path) -> None:
        ran = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            pytest.skip(f"this machine lets nobody mount anything: {ran.stderr.strip()}")
        mounted.append(Path(options[-1]))

    yield act
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], capture_output=True, check=False)


def test_a_full_folder_ends_a_job_and_the_next_one_goes_on(run: SlurmRun, mount: Mount) -> None:
    run.out.mkdir(mode=0o700)
    mount("-t", "tmpfs", "-o", "size=320k,mode=700", "tmpfs", run.out)
    job = run.submit(run.profile("arithmetic"))
    assert run.slurm.wait_for(job) == "FAILED"
    assert run.slurm.facts(job)["ExitCode"] == "4:0", run.log()
    assert 0 < run.done() < COUNT
    assert not list(run.out.glob("shards/*.part"))
    run.assert_nothing_left(job)
    mount("-o", "remount,size=50m", run.out)
    run.finished(run.submit(run.profile("arithmetic")))


def test_a_folder_that_becomes_read_only_ends_a_job_and_the_next_one_goes_on(run: SlurmRun, mount: Mount) -> None:
    job = run.submit(run.profile())
    run.wait_at_the_gate(job)
    shards = run.out / SHARDS
    mount("--bind", shards, shards)
    mount("-o", "remount,bind,ro", shards)
    run.open_gate()
    assert run.slurm.wait_for(job) == "FAILED"
    assert run.slurm.facts(job)["ExitCode"] == "4:0", run.log()
    assert "Read-only file system" in run.log()
    assert 50 <= run.done() < COUNT
    run.assert_nothing_left(job)
    mount("-o", "remount,bind,rw", shards)
    run.finished(run.submit(run.profile("arithmetic")))


def test_a_job_with_the_id_of_an_earlier_one_is_another_job(run: SlurmRun) -> None:
    """A controller that lost its state gives ids once more."""
    run.slurm.forget()
    first = run.submit(run.profile())
    run.wait_at_the_gate(first)
    before = holder_of(run.out)
    [tag] = journal.tags_of(run.out)
    run.slurm.forget()
    # The job that the controller does not know is ended by it, or by this test: a node may not say that it is there.
    for pid in run.slurm.processes(first):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    screens.wait_for(lambda: not lives(before), 60)
    assert (before["job"], before["job_name"]) == (first, tag)
    second = run.submit(run.profile("arithmetic"))
    assert second == first
    assert len(journal.tags_of(run.out)) == 2
    run.finished(second)


def test_nothing_is_downloaded_where_a_job_runs(run: SlurmRun) -> None:
    """With the real predictor, so that all that it loads is there too."""
    note, place = run.folder / "asked", run.folder / "offline"
    place.mkdir()
    (place / "sitecustomize.py").write_text(OFFLINE.format(note=str(note)))
    probe = "import socket; socket.create_connection(('192.0.2.1', 80))"
    profile = run.profile(
        "load_predictor", setup=f"export PYTHONPATH={place}:$PYTHONPATH; {{ {command_of(probe)} || true; }}"
    )
    job = run.submit(profile)
    assert run.slurm.wait_for(job, timeout=300) == "COMPLETED", run.log()
    assert command("status", run.out).stdout.startswith(f"{run.out}: finished")
    assert note.read_text() == "('192.0.2.1', 80)\n", "the probe alone"


def command_of(code: str) -> str:
    """A line of shell."""
    return shlex.join([sys.executable, "-c", code])


def test_a_warning_before_the_command_has_started_ends_nothing(run: SlurmRun) -> None:
    ready, go = run.folder / "ready", run.folder / "set-out"
    profile = run.profile("arithmetic", setup=f"touch {ready}; until [ -e {go} ]; do sleep 0.1; done")
    job = run.submit(profile)
    screens.wait_for(ready.exists)
    for _ in range(3):
        run.slurm.run("scancel", "--batch", "-s", "USR1", job)
    go.touch()
    run.finished(job)


def test_a_part_and_a_driver_of_the_whole_run_are_not_at_work_together(run: SlurmRun) -> None:
    job = run.submit(run.profile("gated", cores=1), "--parts", "1")
    run.wait_at_the_gate(job)
    words = ["screen", run.made / "c.h5", "--out", run.out, "--model", run.made / "m.safetensors"]
    refused = command(*words)
    assert (refused.returncode, "another driver is at work there" in refused.stderr) == (4, True), refused.stderr
    run.open_gate()
    screens.wait_for(lambda: not run.slurm.run("squeue", "-h", "-j", job, "-o", "%T"), 200)
    assert run.done() == COUNT, run.log()
