"""Batch runs on a real Slurm: they predict, drain, go on, and survive the loss of whatever they are made of."""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import screens
from devcluster import NODES, DevCluster
from slurm_runs import COUNT, SlurmRun, command, made_input

from screening.runs.certificates import Certificate
from screening.runs.claim import holder_of, lives

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_input(tmp_path_factory.mktemp("made"))


@pytest.fixture
def run(slurm: DevCluster, tmp_path: Path, made: Path) -> SlurmRun:
    return SlurmRun(slurm, tmp_path, made)


def test_a_run_on_two_nodes_gives_what_one_process_gives(run: SlurmRun) -> None:
    job = run.submit(run.profile("arithmetic", nodes=2))
    run.finished(job)
    workers = {event["worker"] for event in run.events("worker_joined")}
    assert len(workers) == 2
    assert all(worker.startswith("tls://") for worker in workers)
    # Recomputation is counted: each shard once.
    shards = run.events("shard")
    assert sum(event["stop"] - event["start"] for event in shards) == COUNT
    assert run.out.stat().st_mode & 0o777 == 0o700
    run.assert_nothing_left(job)


def test_a_run_that_is_warned_drains_goes_back_into_the_queue_and_goes_on(run: SlurmRun) -> None:
    job = run.submit(run.profile())
    run.wait_at_the_gate(job)
    run.slurm.run("scancel", "--batch", "-s", "USR1", job)
    screens.wait_for(lambda: run.events("stopping"), 60)
    run.open_gate()
    run.slurm.wait_for(job, "PENDING")
    assert f"job {job} goes back into the queue" in run.log()
    assert 50 < run.done() < COUNT
    run.finished(job)
    assert run.slurm.facts(job)["Restarts"] == "1"
    assert [event["done"] > 0 for event in run.events("started")] == [False, True]
    shards = [(event["start"], event["stop"]) for event in run.events("shard")]
    assert len(shards) == len(set(shards)) == COUNT // 10, "what was at work was finished; nothing is done twice"
    run.assert_nothing_left(job)


def test_a_job_whose_node_fails_starts_anew(run: SlurmRun) -> None:
    job = run.submit(run.profile())
    run.wait_at_the_gate(job)
    node = run.slurm.facts(job)["NodeList"]
    run.slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    run.open_gate()
    run.finished(job)
    assert run.slurm.facts(job)["Restarts"] == "1"
    run.assert_nothing_left(job)


def test_of_two_live_incarnations_of_a_job_the_later_one_has_the_run(run: SlurmRun) -> None:
    """The node loses its connection: its slurmd is gone, what it runs lives on, and the job begins elsewhere."""
    job = run.submit(run.profile())
    run.wait_at_the_gate(job)
    node = run.slurm.facts(job)["NodeList"]
    first = holder_of(run.out)
    run.slurm.kill(f"slurmd-{node}")
    run.slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    screens.wait_for(lambda: holder_of(run.out).get("restart") == 1, 150)
    assert (first["job"], first["restart"]) == (job, 0)
    # The earlier driver goes by itself, because the run is another's by now, or because srun has noticed first.
    screens.wait_for(lambda: not lives(first), 60)
    said = ("another driver has taken this run over", "every worker ended")
    assert any(words in run.log() for words in said), run.log()
    screens.wait_for(lambda: len(list(run.out.glob("cluster/*-[01]"))) == 2)
    run.open_gate()
    run.finished(job)


def test_a_partition_of_more_worth_takes_the_nodes_and_gives_them_back(run: SlurmRun) -> None:
    job = run.submit(run.profile())
    run.wait_at_the_gate(job)
    run.slurm.run("srun", "-p", "high", "-N2", "--exclusive", "-t", "1", "true")
    run.open_gate()
    run.finished(job)
    assert run.slurm.facts(job)["Restarts"] == "1"


def test_a_cancelled_job_leaves_nothing_and_another_goes_on(run: SlurmRun) -> None:
    job = run.submit(run.profile())
    run.wait_at_the_gate(job)
    refused = command("submit", run.config(), "--profile", run.profile())
    assert refused.returncode == 2
    assert f"job {job} of this run is RUNNING already" in refused.stderr
    shown = command("status", run.out)
    assert f"{run.out}: running\n" in shown.stdout
    assert f"job {job}: alive, 1 workers, dashboard " in shown.stdout
    told = json.loads(command("status", run.out, "--json").stdout)
    assert (told["rows"], told["done"], told["statuses"]) == (COUNT, run.done(), {"ok": run.done()})
    assert [one["state"] for one in told["jobs"]] == ["RUNNING"]
    assert command("cancel", run.out).stdout == f"cancelled job {job} (running)\n"
    run.slurm.wait_for(job)
    run.assert_nothing_left(job)
    assert 50 <= run.done() < COUNT
    assert command("cancel", run.out).stdout == f"nothing of {run.out} is queued, and nobody works there\n"
    run.finished(run.submit(run.profile("arithmetic")))
    assert f"{run.out}: finished\n" in command("status", run.out).stdout


def test_a_run_without_any_worker_ends_with_a_reason(run: SlurmRun) -> None:
    job = run.submit(run.profile())
    run.wait_at_the_gate(job)
    # COMPLETED or not, what Slurm says of a step proves nothing: the shards do.
    run.slurm.run("scancel", f"{job}.0")
    assert run.slurm.wait_for(job) == "FAILED"
    assert "srun, and so every worker ended with code" in run.log()
    run.assert_nothing_left(job)


def test_a_node_that_is_lost_takes_its_workers_and_not_the_run(run: SlurmRun) -> None:
    job = run.submit(run.profile(nodes=2))
    run.wait_at_the_gate(job)
    screens.wait_for(lambda: len(run.events("worker_joined")) == 2)
    node = lost_node(run, job)
    # Its workers go with it, as they would with the machine.
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


def lost_node(run: SlurmRun, job: str) -> str:
    """The node that does not hold the driver."""
    driver = Path(f"/proc/{holder_of(run.out)['pid']}/environ").read_bytes()
    return next(node for node in NODES if f"SLURMD_NODENAME={node}".encode() not in driver)


def test_a_worker_on_a_slow_node_holds_nobody_up(run: SlurmRun) -> None:
    job = run.submit(run.profile("slow_or_quick", nodes=2), config=run.config(**{"limits.slow": 1}))
    run.finished(job)
    again = run.events("shard_again")
    assert again
    # Executions are shards and deliberate repetitions; rows count once.
    assert sum(event["stop"] - event["start"] for event in run.events("shard")) == COUNT
    assert not (run.folder / "gate").exists()


def test_the_walltime_is_no_end(run: SlurmRun) -> None:
    """The only test that waits for a real walltime."""
    profile = run.profile(walltime="00:02:00")
    profile.write_text(profile.read_text().replace("warning = 20", "warning = 55"))
    job = run.submit(profile)
    run.wait_at_the_gate(job)
    screens.wait_for(lambda: run.events("stopping"), 150)
    run.open_gate()
    run.slurm.wait_for(job, "PENDING")
    # Once is enough, however slow this machine is.
    run.slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    run.finished(job)
    assert run.slurm.facts(job)["Restarts"] == "1"


def test_nobody_reaches_the_scheduler_without_the_certificate(run: SlurmRun) -> None:
    job = run.submit(run.profile())
    run.wait_at_the_gate(job)
    [file] = run.out.glob("cluster/*/scheduler.json")
    place = file.parent
    assert place.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in place.glob("*.pem")} == {0}
    address = json.loads(file.read_text())["address"]
    assert address.startswith("tls://")
    from distributed import Client
    from distributed.security import Security

    with pytest.raises((OSError, TimeoutError)):
        Client(address.replace("tls://", "tcp://"), timeout=3)
    stranger = Certificate.made(run.folder / "stranger")
    with pytest.raises((OSError, TimeoutError)):
        Client(address, security=stranger.security(), timeout=3)
    with pytest.raises((TypeError, OSError, TimeoutError)):
        Client(
            address, security=Security(require_encryption=True, tls_ca_file=str(place / "certificate.pem")), timeout=3
        )
    with Client(address, security=Certificate(place).security(), timeout=30) as client:
        assert client.scheduler_info()["workers"]
        page = client.scheduler_info()["services"]["dashboard"]
    listening = subprocess.run(["ss", "-ltn"], capture_output=True, text=True, check=False).stdout
    if listening:
        assert f"127.0.0.1:{page} " in listening


def test_gpus_are_given_one_to_each_worker_and_the_input_is_staged(run: SlurmRun) -> None:
    scratch = run.folder / "scratch"
    more = f'gpus = 2\nstage = true\nscratch = "{scratch}"'
    profile = run.profile("seen_gpus", nodes=2, cores=2, more=more)
    profile.write_text(profile.read_text().replace("workers = 1\n", ""))
    job = run.submit(profile, "--set", "device=cuda")
    state = run.slurm.wait_for(job)
    assert state == "COMPLETED", run.log()
    assert len(run.events("worker_joined")) == 4
    seen = sorted(path.read_text() for path in run.out.glob("gpu-*"))
    assert seen == ["n1 0", "n1 1", "n2 0", "n2 1"]
    [copy] = scratch.glob("screening-input-*/*.h5")
    assert copy.read_bytes() == (run.made / "c.h5").read_bytes()
