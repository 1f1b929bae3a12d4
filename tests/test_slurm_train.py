"""Distributed training on a real Slurm: ranks in worker jobs, and on the nodes of a job of one's own."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import screens
from devcluster import LOOK_S, DevCluster
from slurm_runs import WAIT_S, SlurmRun, command
from test_ranks_command import labelled_crystals

from screening.runs.slurm import asked_jobs, controller

# What is learned is the business of other tests.
WORDS = ["train", "c.toml", "--set", "training.epochs=1"]
pytestmark = pytest.mark.slurm


@pytest.fixture
def run(slurm: DevCluster, tmp_path: Path) -> SlurmRun:
    labelled_crystals(tmp_path)
    return SlurmRun(slurm, tmp_path, tmp_path)


def assert_trained(out: Path) -> None:
    assert json.loads((out / "metrics.json").read_text())["epochs"] == 1
    assert not [path for path in out.rglob("*") if path.suffix in (".pem", ".part") or path.name == "driver.json"]


def test_a_rank_in_a_worker_job(run: SlurmRun) -> None:
    words = ["--out", run.out, "--cluster", "slurm", "--profile", run.profile("arithmetic")]
    ran = command(*WORDS, *words, folder=run.folder)
    assert ran.returncode == 0, ran.stderr + run.log()
    assert_trained(run.out)
    [tag] = asked_jobs.tags_of(run.out)
    screens.wait_for(lambda: not controller.jobs_named(tag), WAIT_S, every=LOOK_S)


def test_ranks_on_the_nodes_of_a_job(run: SlurmRun) -> None:
    words = [*WORDS, "--out", str(run.out), "--cluster", "allocation"]
    script = f"""#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --cpus-per-task=2 --mem=2000M --time=5 --output={run.folder}/job.out
export PYTHONPATH={shlex.quote(":".join(filter(None, sys.path)))}
exec {sys.executable} -m screening {shlex.join(words)}
"""
    ran = subprocess.run(
        ["sbatch", "--parsable", f"--chdir={run.folder}"], input=script, capture_output=True, text=True, check=True
    )
    job = ran.stdout.strip()
    assert run.slurm.wait_for(job, timeout=WAIT_S) == "COMPLETED", (run.folder / "job.out").read_text() + run.log()
    # What workers say is written by srun, which may take a moment longer than they do.
    screens.wait_for(lambda: run.log().count("Start worker at") == 2, WAIT_S, every=LOOK_S)
    assert_trained(run.out)
    run.assert_nothing_left(job)
