"""What goes wrong around a run on a real Slurm: folders, job ids, networks, warnings at the wrong moment."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import screens
from devcluster import LOOK_S
from slurm_runs import COUNT, SHARD, WAIT_S, SlurmRun, command

from screening.runs.claim import holder_of
from screening.runs.slurm import asked_jobs
from screening.store.record import SHARDS

pytestmark = pytest.mark.slurm

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


def test_a_full_and_a_read_only_folder_end_a_job_and_the_next_one_goes_on(run: SlurmRun, mount: Mount) -> None:
    run.out.mkdir(mode=0o700)
    mount("-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", run.out)
    first = run.submit(run.profile("arithmetic"))
    assert_failed(run, first, "the disk is full")
    assert 0 < run.done() < COUNT
    assert not list(run.out.glob("shards/*.part"))
    mount("-o", "remount,size=50m", run.out)

    before = run.done() // SHARD
    run.open_gate(before + 3)
    second = run.submit(run.profile())
    run.wait_at_the_gate(second, before + 3)
    shards = run.out / SHARDS
    mount("--bind", shards, shards)
    mount("-o", "remount,bind,ro", shards)
    run.open_gate()
    assert_failed(run, second, "Read-only file system")
    assert before * SHARD < run.done() < COUNT
    mount("-o", "remount,bind,rw", shards)
    run.finished(run.submit(run.profile()))


def assert_failed(run: SlurmRun, job: str, words: str) -> None:
    """A job ended in order, with the code of a lack of resources and a reason."""
    assert run.slurm.wait_for(job, timeout=WAIT_S) == "FAILED", run.log()
    assert run.slurm.facts(job)["ExitCode"] == "4:0", run.log()
    assert words in run.log()
    run.assert_nothing_left(job)


def test_a_job_with_the_id_of_an_earlier_one_is_another_job(run: SlurmRun) -> None:
    """A controller that lost its state gives ids once more."""
    run.slurm.forget()
    first = run.submit(run.profile())
    run.wait_at_the_gate(first)
    before = holder_of(run.out)
    [tag] = asked_jobs.tags_of(run.out)
    run.slurm.forget()
    # The job that the controller does not know is ended by it, or by this test: a node may not say that it is there.
    run.kill_driver(first)
    assert (before["job"], before["job_name"]) == (first, tag)
    run.open_gate()
    second = run.submit(run.profile())
    assert second == first
    assert len(asked_jobs.tags_of(run.out)) == 2
    run.finished(second)


def test_a_job_is_warned_before_it_has_started_and_downloads_nothing(run: SlurmRun) -> None:
    """With the real predictor, so that all that it loads is there too."""
    note, place, ready, go = (run.folder / name for name in ("asked", "offline", "ready", "set-out"))
    place.mkdir()
    (place / "sitecustomize.py").write_text(OFFLINE.format(note=str(note)))
    probe = "import socket; socket.create_connection(('192.0.2.1', 80))"
    setup = f"touch {ready}; until [ -e {go} ]; do sleep 0.1; done; export PYTHONPATH={place}:$PYTHONPATH; "
    job = run.submit(run.profile("load_predictor", setup=f"{setup} {{ {command_of(probe)} || true; }}"))
    screens.wait_for(ready.exists, WAIT_S, every=LOOK_S)
    for _ in range(3):
        run.slurm.run("scancel", "--batch", "-s", "USR1", job)
    go.touch()
    assert run.slurm.wait_for(job, timeout=WAIT_S) == "COMPLETED", run.log()
    assert run.slurm.facts(job)["Restarts"] == "0"
    assert command("status", run.out).stdout.startswith(f"{run.out}: finished")
    assert note.read_text() == "('192.0.2.1', 80)\n", "the probe alone"


def command_of(code: str) -> str:
    """A line of shell."""
    return shlex.join([sys.executable, "-c", code])
