"""Batch runs on a real Slurm: they predict, drain, go on, and survive the loss of whatever they are made of.

A job takes seconds of a processor to begin, so a test takes a run from one trouble to the next where it can; a gate
lets some more shards through each time, so that every job has done something when the next trouble comes.
"""

import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import screens
from devcluster import LOOK_S, NODES, DevCluster
from slurm_runs import COUNT, SHARD, WAIT_S, SlurmRun, command

from screening.runs.certificates import Certificate
from screening.runs.claim import holder_of, lives
from screening.runs.slurm import asked_jobs, controller

pytestmark = pytest.mark.slurm

# An sbatch whose controller hangs for as long as it waits for an answer.
HANGING = """#!/bin/sh
case "$*" in *--test-only*) exec {sbatch} "$@" ;; esac
kill -STOP {pid}
{sbatch} "$@"
code=$?
kill -CONT {pid}
exit $code
"""


def test_a_run_outlives_its_jobs(run: SlurmRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose submission seems to fail and that is cancelled, one whose workers are lost; another goes on."""
    with monkeypatch.context() as patch:
        hang(run.slurm, run.folder, patch)
        submitted = run.submitted(run.profile())
    job, [tag] = submitted.job, asked_jobs.tags_of(run.out)
    assert submitted.warning.endswith("the job was accepted all the same")
    run.wait_at_the_gate(job)
    assert run.slurm.run("squeue", "-h", "-t", "all", "-o", "%j").split().count(tag) == 1
    assert_told(run, job)
    assert command("cancel", run.out).stdout == f"cancelled job {job} (running)\n"
    run.slurm.wait_for(job)
    run.assert_nothing_left(job)
    assert command("cancel", run.out).stdout == f"nothing of {run.out} is queued, and nobody works there\n"

    run.open_gate(10)
    second = run.submit(run.profile())
    run.wait_at_the_gate(second, 10)
    # COMPLETED or not, what Slurm says of a step proves nothing: the shards do.
    run.slurm.run("scancel", f"{second}.0")
    assert run.slurm.wait_for(second) == "FAILED"
    assert "srun, and so every worker ended with code" in run.log()
    run.assert_nothing_left(second)

    run.open_gate()
    run.finished(run.submit(run.profile()))
    assert f"{run.out}: finished\n" in command("status", run.out).stdout


def hang(slurm: DevCluster, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have the controller hang at the next submission, until sbatch has given up."""
    sbatch = shutil.which("sbatch")
    (folder / "bin").mkdir()
    script = folder / "bin/sbatch"
    script.write_text(HANGING.format(sbatch=sbatch, pid=slurm.pid("slurmctld")))
    script.chmod(0o700)
    patch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    patch.setattr(controller, "LIMIT_S", 300.0)


def assert_told(run: SlurmRun, job: str) -> None:
    """A job at work is told of, and keeps others from being submitted."""
    refused = command("submit", run.config(), "--profile", run.profile())
    assert refused.returncode == 2
    assert f"job {job} of this run is RUNNING already" in refused.stderr
    assert f"{run.out}: running\n" in command("status", run.out).stdout
    # The driver writes what it knows of its workers at each beat, and the first shards may be there before the first.
    told_of = f"job {job}: alive, 1 workers, dashboard "
    screens.wait_for(lambda: told_of in command("status", run.out).stdout, 60, every=LOOK_S)
    told = json.loads(command("status", run.out, "--json").stdout)
    assert (told["rows"], told["done"], told["statuses"]) == (COUNT, run.done(), {"ok": run.done()})
    assert [one["state"] for one in told["jobs"]] == ["RUNNING"]


def test_a_job_outlives_its_nodes(run: SlurmRun) -> None:
    """One fails, one is taken by another partition, and one comes back with an earlier incarnation alive."""
    job = run.submit(run.profile())
    run.wait_at_the_gate(job)
    node = run.slurm.facts(job)["NodeList"]
    run.slurm.fail(node)
    run.wait_for_incarnation(1)
    run.slurm.resume(node)
    run.open_gate(10)
    run.wait_at_the_gate(job, 10)

    node = run.slurm.facts(job)["NodeList"]
    run.slurm.run("srun", "-p", "high", "-w", node, "--exclusive", "-t", "1", "true")
    run.wait_for_incarnation(2)
    run.open_gate(15)
    run.wait_at_the_gate(job, 15)

    # The node loses its connection: its slurmd is gone, what it runs lives on, and the job begins elsewhere.
    node, third = run.slurm.facts(job)["NodeList"], holder_of(run.out)
    run.slurm.kill(f"slurmd-{node}")
    run.slurm.fail(node)
    run.wait_for_incarnation(3)
    assert (third["job"], third["restart"]) == (job, 2)
    # The earlier driver goes by itself, because the run is another's by now, or because srun has noticed first.
    screens.wait_for(lambda: not lives(third), WAIT_S, every=LOOK_S)
    said = ("another driver has taken this run over", "every worker ended")
    assert any(words in run.log() for words in said), run.log()
    # None of them has read what an earlier one left.
    screens.wait_for(lambda: len(list(run.out.glob(f"cluster/{job}-[0-3]"))) == 4)

    run.open_gate()
    run.finished(job)
    assert run.slurm.facts(job)["Restarts"] == "3"
    run.assert_nothing_left(job)


def test_the_walltime_is_no_end(run: SlurmRun) -> None:
    """Warned in time, a job drains, goes back into the queue and goes on. The only test that waits for a walltime."""
    profile = run.profile()
    profile.write_text(profile.read_text().replace("warning = 20", "warning = 55"))
    job = run.submit(profile)
    run.wait_at_the_gate(job)
    # However slow this machine was until now, the end is one or two minutes away.
    hours, minutes, _ = map(int, run.slurm.facts(job)["RunTime"].split(":"))
    run.slurm.run("scontrol", "update", f"JobId={job}", f"TimeLimit={60 * hours + minutes + 2}")
    screens.wait_for(lambda: run.events("stopping"), WAIT_S, every=LOOK_S)
    # Once is enough.
    run.slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    run.open_gate()
    run.slurm.wait_for(job, "PENDING")
    assert f"job {job} goes back into the queue" in run.log()
    assert screens.FREE * SHARD <= run.done() < COUNT
    run.finished(job)
    assert run.slurm.facts(job)["Restarts"] == "1"
    assert [event["done"] > 0 for event in run.events("started")] == [False, True]
    shards = [(event["start"], event["stop"]) for event in run.events("shard")]
    assert len(shards) == len(set(shards)) == COUNT // SHARD, "what was at work was finished; nothing is done twice"
    run.assert_nothing_left(job)


def test_two_nodes_are_of_this_run_alone_and_one_of_them_may_go(run: SlurmRun) -> None:
    scratch = run.folder / "scratch"
    more = f'gpus = 2\nstage = true\nscratch = "{scratch}"'
    profile = run.profile("seen_gpus", nodes=2, cores=2, more=more)
    profile.write_text(profile.read_text().replace("workers = 1\n", ""))
    job = run.submit(profile, config=run.config(device="cuda"))
    run.wait_at_the_gate(job)
    screens.wait_for(lambda: len(run.events("worker_joined")) == 4, WAIT_S, every=LOOK_S)
    assert all(event["worker"].startswith("tls://") for event in run.events("worker_joined"))
    seen = sorted(path.read_text() for path in run.out.glob("gpu-*"))
    assert seen == ["n1 0", "n1 1", "n2 0", "n2 1"]
    [copy] = scratch.glob("screening-input-*/*.h5")
    assert copy.read_bytes() == (run.made / "c.h5").read_bytes()
    assert_private(run)

    # The processes of a node go with it, as they would with the machine.
    node = lost_node(run)
    mark = f"SLURMD_NODENAME={node}".encode()
    victims = [pid for pid in run.slurm.processes(job) if mark in Path(f"/proc/{pid}/environ").read_bytes()]
    assert victims
    run.slurm.kill(f"slurmd-{node}")
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.open_gate()
    run.finished(job)
    assert run.slurm.facts(job)["Restarts"] == "0"
    run.assert_nothing_left(job)


def assert_private(run: SlurmRun) -> None:
    """Nobody reaches the scheduler without the certificate, which the owner alone may read, or the page from afar."""
    from distributed import Client
    from distributed.security import Security

    [file] = run.out.glob("cluster/*/scheduler.json")
    place = file.parent
    assert {folder.stat().st_mode & 0o777 for folder in (run.out, place)} == {0o700}
    assert {path.stat().st_mode & 0o077 for path in place.glob("*.pem")} == {0}
    address = json.loads(file.read_text())["address"]
    assert address.startswith("tls://")
    with pytest.raises((OSError, TimeoutError)):
        Client(address.replace("tls://", "tcp://"), timeout=3)
    stranger = Certificate.made(run.folder / "stranger")
    with pytest.raises((OSError, TimeoutError)):
        Client(address, security=stranger.security(), timeout=3)
    with pytest.raises((TypeError, OSError, TimeoutError)):
        Client(
            address, security=Security(require_encryption=True, tls_ca_file=str(place / "certificate.pem")), timeout=3
        )
    # Clients that were refused close themselves when collected; in the thread of the next one's loop, they wait for it.
    gc.collect()
    with Client(address, security=Certificate(place).security(), timeout=30) as client:
        assert client.scheduler_info()["workers"]
        page = client.scheduler_info()["services"]["dashboard"]
    listening = subprocess.run(["ss", "-ltn"], capture_output=True, text=True, check=False).stdout
    if listening:
        assert f"127.0.0.1:{page} " in listening


def lost_node(run: SlurmRun) -> str:
    """The node that does not hold the driver."""
    driver = Path(f"/proc/{holder_of(run.out)['pid']}/environ").read_bytes()
    return next(node for node in NODES if f"SLURMD_NODENAME={node}".encode() not in driver)


def test_a_worker_on_a_slow_node_holds_nobody_up(run: SlurmRun) -> None:
    job = run.submit(run.profile("slow_or_quick", nodes=2), config=run.config(**{"limits.slow": 1}))
    run.finished(job)
    assert len({event["worker"] for event in run.events("worker_joined")}) == 2
    assert run.events("shard_again")
    # Executions are shards and deliberate repetitions; rows count once.
    assert sum(event["stop"] - event["start"] for event in run.events("shard")) == COUNT
    assert not (run.folder / "gate").exists()
    run.assert_nothing_left(job)
