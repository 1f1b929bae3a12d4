"""Submission to a real Slurm: once, whatever the controller does; arrays; elastic workers; what could never start."""

import json
import os
import re
import signal
from functools import partial

import pytest
import screens
from devcluster import LOOK_S
from slurm_runs import COUNT, SHARD, WAIT_S, SlurmRun, command

from screening.errors import InputError
from screening.runs.claim import holder_of
from screening.runs.slurm import asked_jobs, controller
from screening.runs.slurm.controller import SilentError

pytestmark = pytest.mark.slurm


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
    with pytest.raises(InputError, match=words):
        run.submit(profile)
    assert run.slurm.run("squeue", "-h", "-o", "%A") == ""


def test_an_array_of_parts_needs_no_dask_between_nodes_and_merges(run: SlurmRun) -> None:
    ran = command("submit", run.config(), "--profile", run.profile(cores=1), "--parts", 2)
    assert ran.returncode == 0, ran.stderr
    job = ran.stdout.split()[1]
    run.wait_at_the_gate(f"{job}_1")
    refused = command("screen", run.made / "c.h5", "--out", run.out, "--model", run.made / "m.safetensors")
    assert (refused.returncode, "another driver is at work there" in refused.stderr) == (4, True), refused.stderr
    log = run.out / "events-1.jsonl"

    def says(event: str) -> bool:
        return log.exists() and f'"{event}"' in log.read_text()

    screens.wait_for(lambda: says("worker_joined"), WAIT_S, every=LOOK_S)
    # The first part has done something, or would not be queued again, and has most of its fifteen shards before it.
    for shards in range(screens.FREE, 14):
        run.open_gate(shards)
        screens.wait_for(partial(run.has_done, shards * SHARD), WAIT_S, every=LOOK_S)
        if says("shard"):
            break
    run.slurm.run("scancel", "--batch", "-s", "USR1", f"{job}_1")
    screens.wait_for(lambda: says("stopping"), WAIT_S, every=LOOK_S)
    run.open_gate()
    screens.wait_for(lambda: not run.slurm.run("squeue", "-h", "-j", job, "-o", "%T"), WAIT_S, every=LOOK_S)
    assert run.slurm.facts(f"{job}_1")["Restarts"] == "1", run.log()
    assert run.done() == COUNT, run.log()
    assert command("status", run.out).stdout.startswith(f"{run.out}: predicted, not merged\n")
    assert command("merge", run.out, "--quiet").returncode == 0
    run.assert_right()


def test_elastic_workers_are_replaced_when_they_are_killed_and_go_with_their_driver(run: SlurmRun) -> None:
    words = ["screen", run.made / "c.h5", "--out", run.out, "--model", run.made / "m.safetensors", "--quiet"]
    words += ["--cluster", "slurm", "--profile", run.profile("gated", nodes=2)]
    words += ["--set", "shards.least=10", "--set", "shards.most=10", "--set", "limits.patience=1000"]
    try:
        killed = screens.started(run.folder, "gated", *words)
        screens.wait_for(lambda: run.done() >= 50 or killed.poll() is not None, WAIT_S, every=LOOK_S)
        assert killed.poll() is None, screens.ended(killed)
        [tag] = asked_jobs.tags_of(run.out)
        left = controller.jobs_named(tag)
        assert 1 <= len(left) <= 2
        assert holder_of(run.out)["pid"] == killed.pid
        os.killpg(killed.pid, signal.SIGKILL)
        screens.ended(killed)

        # The same command ends what that one left behind, which would wait for it until their time is over.
        process = screens.started(run.folder, "gated", *words)
        screens.wait_for(
            lambda: len(asked_jobs.tags_of(run.out)) == 2 or process.poll() is not None, WAIT_S, every=LOOK_S
        )
        assert process.poll() is None, screens.ended(process)
        assert {job.state for job in controller.jobs_named(tag)} <= {"COMPLETING"}
        [_, tag] = asked_jobs.tags_of(run.out)
        run.open_gate(10)
        screens.wait_for(lambda: run.done() >= 100 or process.poll() is not None, WAIT_S, every=LOOK_S)
        assert process.poll() is None, screens.ended(process)
        jobs = [job.id for job in controller.jobs_named(tag)]
        # Every worker is killed.
        controller.cancel(jobs)
        new = lambda: {job.id for job in controller.jobs_named(tag)} - set(jobs)  # noqa: E731
        screens.wait_for(new, WAIT_S, every=LOOK_S)
        run.open_gate()
        code, out, errors = screens.ended(process, WAIT_S)
        assert (code, out) == (0, ""), errors
        run.assert_right()
        screens.wait_for(lambda: not controller.jobs_named(tag), WAIT_S, every=LOOK_S)
    finally:
        screens.end_all()


def test_an_elastic_worker_ends_before_its_walltime_and_another_goes_on(run: SlurmRun) -> None:
    words = ["screen", run.made / "c.h5", "--out", run.out, "--model", run.made / "m.safetensors", "--quiet"]
    # Of a minute, it has twenty seconds left when it goes: the warning, and at most twice three of stagger.
    words += ["--cluster", "slurm", "--profile", run.profile("gated", walltime="00:01:00"), "--workers", "1"]
    log = run.folder / "log.jsonl"
    words += ["--log", log]
    words += ["--set", "shards.least=10", "--set", "shards.most=10", "--set", "limits.patience=1000"]
    try:
        process = screens.started(run.folder, "gated", *words)
        screens.wait_for(lambda: run.done() >= 50 or process.poll() is not None, WAIT_S, every=LOOK_S)
        assert process.poll() is None, screens.ended(process)
        [tag] = asked_jobs.tags_of(run.out)
        [first] = controller.jobs_named(tag)
        jobs = lambda: {job.id for job in controller.jobs_named(tag) if job.state == "RUNNING"}  # noqa: E731
        screens.wait_for(lambda: jobs() - {first.id}, WAIT_S, every=LOOK_S)
        # By itself, or cancelled when the driver saw it go; not by its walltime.
        assert run.slurm.wait_for(first.id) in ("COMPLETED", "CANCELLED")
        assert "00:00:30" < run.slurm.facts(first.id)["RunTime"] < "00:01:00"
        run.open_gate()
        code, out, errors = screens.ended(process, WAIT_S)
        assert (code, out) == (0, ""), errors
        run.assert_right()
        assert log.read_text().count('"event": "shard"') == COUNT // 10
        screens.wait_for(lambda: not controller.jobs_named(tag), WAIT_S, every=LOOK_S)
    finally:
        screens.end_all()


def test_elastic_workers_of_one_part_are_left_alone_by_the_driver_of_another(run: SlurmRun) -> None:
    words = ["screen", run.made / "c.h5", "--out", run.out, "--model", run.made / "m.safetensors", "--quiet"]
    words += ["--cluster", "slurm", "--profile", run.profile("gated"), "--workers", "1"]
    words += ["--set", "shards.least=10", "--set", "shards.most=10", "--set", "limits.patience=1000"]
    try:
        one = screens.started(run.folder, "gated", *words, "--part", "1/2")
        screens.wait_for(lambda: run.done() >= 50 or one.poll() is not None, WAIT_S, every=LOOK_S)
        assert one.poll() is None, screens.ended(one)
        [tag] = asked_jobs.tags_of(run.out)
        [job] = controller.jobs_named(tag)
        other = screens.started(run.folder, "gated", *words, "--part", "2/2")
        others = lambda: set(asked_jobs.tags_of(run.out)) - {tag}  # noqa: E731
        screens.wait_for(
            lambda: (
                other.poll() is not None
                or any(found.state == "RUNNING" for name in others() for found in controller.jobs_named(name))
            ),
            WAIT_S,
            every=LOOK_S,
        )
        assert other.poll() is None, screens.ended(other)
        assert run.slurm.state(job.id) == "RUNNING"
        run.open_gate()
        for process in (one, other):
            code, out, errors = screens.ended(process, WAIT_S)
            assert (code, out) == (0, ""), errors
        assert run.done() == COUNT
        assert command("merge", run.out, "--quiet").returncode == 0
        run.assert_right()
    finally:
        screens.end_all()


def test_elastic_workers_that_cannot_start_end_the_run(run: SlurmRun) -> None:
    profile = run.profile("arithmetic", walltime="2-00:00:00")
    options = ["--out", run.out, "--model", run.made / "m.safetensors", "--cluster", "slurm", "--profile", profile]
    ran = command("screen", run.made / "c.h5", *options)
    assert ran.returncode == 2
    assert re.search("could never start: .* than the partition allows", ran.stderr), ran.stderr
    assert run.slurm.run("squeue", "-h", "-o", "%A") == ""


def test_an_elastic_worker_that_cannot_work_makes_room_for_another(run: SlurmRun) -> None:
    words = ["screen", run.made / "c.h5", "--out", run.out, "--model", run.made / "m.safetensors", "--workers", "1"]
    words += ["--cluster", "slurm", "--profile", run.profile("unfit_in_one_process"), "--log", run.folder / "log.jsonl"]
    try:
        code, _, errors = screens.ended(screens.started(run.folder, "unfit_in_one_process", *words), WAIT_S)
    finally:
        screens.end_all()
    assert code == 0, errors
    assert "no worker can work so far, others may come; of the last: /scratch: no space" in errors
    log = (run.folder / "log.jsonl").read_text()
    assert (log.count('"worker_unfit"'), log.count('"worker_joined"')) == (1, 1)
    run.assert_right()


def test_elastic_jobs_that_all_end_before_their_worker_joins_end_the_run(run: SlurmRun) -> None:
    profile = run.profile("arithmetic", setup="exit 7")
    options = ["--out", run.out, "--model", run.made / "m.safetensors", "--cluster", "slurm", "--profile", profile]
    quick = "from screening.runs.slurm import elastic; elastic.LOOK_S, elastic.MOST_STILLBORN = 1.0, 2"
    try:
        process = screens.started(run.folder, "arithmetic", "screen", run.made / "c.h5", *options, before=quick)
        code, _, errors = screens.ended(process, WAIT_S)
    finally:
        screens.end_all()
    assert (code, "4 worker jobs in a row ended before their worker joined; see " in errors) == (4, True), errors
    assert run.slurm.run("squeue", "-h", "-o", "%A") == ""
