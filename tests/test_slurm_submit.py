"""Submission to a real Slurm: once, whatever the controller does; arrays; elastic workers; what could never start."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import screens
from devcluster import DevCluster
from slurm_runs import COUNT, SlurmRun, command, made_input

from screening.runs.claim import holder_of
from screening.runs.slurm import controller, journal
from screening.runs.slurm.controller import SilentError

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_input(tmp_path_factory.mktemp("made"))


@pytest.fixture
def run(slurm: DevCluster, tmp_path: Path, made: Path) -> SlurmRun:
    return SlurmRun(slurm, tmp_path, made)


def test_a_controller_that_hangs_and_accepts_all_the_same_gets_one_job(run: SlurmRun) -> None:
    profile = run.profile("arithmetic")
    pid = run.slurm.pid("slurmctld")
    folder = run.out
    process = subprocess.Popen(
        [sys.executable, "-m", "screening", "submit", str(run.config()), "--profile", str(profile)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    # The name is written before sbatch is called; the controller hangs from then on, until sbatch has given up.
    screens.wait_for(lambda: journal.tags_of(folder) or process.poll() is not None)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(8)
    finally:
        os.kill(pid, signal.SIGCONT)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    job = out.split()[1]
    assert len(journal.tags_of(folder)) == 1
    run.finished(job)
    names = run.slurm.run("squeue", "-h", "-t", "all", "-o", "%j").split()
    assert names.count(journal.tags_of(folder)[0]) == 1


def test_a_controller_that_is_silent_is_no_answer(run: SlurmRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "LIMIT_S", 1.0)
    pid = run.slurm.pid("slurmctld")
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(SilentError, match="no answer from Slurm's controller within 1 s"):
            controller.jobs_named("anything")
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("walltime", "3-00:00:00"), "could never start: .* than the partition allows"),
        (("nodes", 5), "refused by Slurm: .*(Node count|node configuration)"),
        (("memory", "900G"), "refused by Slurm: .*configuration is not available"),
        (("partition", "nowhere"), "refused by Slurm: .*invalid partition"),
    ],
)
def test_what_can_never_start_is_told_at_once_and_not_left_in_the_queue(
    run: SlurmRun, change: tuple[str, object], words: str
) -> None:
    profile = run.profile("arithmetic")
    lines = [line for line in profile.read_text().splitlines() if not line.startswith(change[0])]
    profile.write_text("\n".join([f"{change[0]} = {json.dumps(change[1])}", *lines]))
    ran = command("submit", run.config(), "--profile", profile)
    assert ran.returncode == 2
    assert re.search(words, ran.stderr), ran.stderr
    assert run.slurm.run("squeue", "-h", "-o", "%A") == ""


def test_an_array_of_parts_needs_no_dask_between_nodes_and_merges(run: SlurmRun) -> None:
    job = run.submit(run.profile("arithmetic", cores=1), "--parts", "3")
    screens.wait_for(lambda: not run.slurm.run("squeue", "-h", "-j", job, "-o", "%T"), 200)
    assert run.done() == COUNT, run.log()
    assert command("status", run.out).stdout.startswith(f"{run.out}: predicted, not merged\n")
    assert command("merge", run.out, "--quiet").returncode == 0
    run.assert_right()


def test_elastic_workers_come_are_replaced_when_they_are_killed_and_go(run: SlurmRun) -> None:
    profile = run.profile("gated", nodes=2)
    process = screens.started(
        run.folder,
        "gated",
        *("screen", run.made / "c.h5", "--out", run.out, "--model", run.made / "m.safetensors"),
        *("--cluster", "slurm", "--profile", profile, "--log", run.out.with_suffix(".jsonl"), "--quiet"),
        *("--set", "shards.least=10", "--set", "shards.most=10", "--set", "limits.patience=1000"),
    )
    try:
        screens.wait_for(lambda: run.done() >= 50 or process.poll() is not None, 200)
        assert process.poll() is None, screens.ended(process)
        [tag] = journal.tags_of(run.out)
        jobs = [job.id for job in controller.jobs_named(tag)]
        assert 1 <= len(jobs) <= 2
        assert holder_of(run.out)["pid"] == process.pid
        # Every worker is killed.
        controller.cancel(jobs)
        screens.wait_for(lambda: {job.id for job in controller.jobs_named(tag)} - set(jobs), 120)
        run.open_gate()
        code, out, errors = screens.ended(process, 200)
        assert (code, out) == (0, ""), errors
        screens.assert_same_columns(screens.columns_of(run.out), screens.columns_of(run.made / "right"))
        screens.wait_for(lambda: not controller.jobs_named(tag), 60)
        assert not list(run.out.glob("cluster/*/*.pem"))
    finally:
        screens.end_all()


def test_elastic_workers_that_cannot_start_end_the_run(run: SlurmRun) -> None:
    profile = run.profile("arithmetic", walltime="2-00:00:00")
    options = ["--out", run.out, "--model", run.made / "m.safetensors", "--cluster", "slurm", "--profile", profile]
    ran = command("screen", run.made / "c.h5", *options)
    assert ran.returncode == 2
    assert re.search("could never start: .* than the partition allows", ran.stderr), ran.stderr
    assert run.slurm.run("squeue", "-h", "-o", "%A") == ""


def test_an_elastic_run_needs_a_profile(run: SlurmRun) -> None:
    ran = command("screen", run.made / "c.h5", "--out", run.out, "-m", run.made / "m.safetensors", "--cluster", "slurm")
    assert (ran.returncode, "--cluster slurm: needs --profile FILE.toml" in ran.stderr) == (2, True)
