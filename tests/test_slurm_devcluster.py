"""The cluster that tests run on is a real one: jobs, GPUs, requeues, and nothing left when it ends."""

import subprocess
from pathlib import Path

import pytest
import screens
from devcluster import DevCluster

pytestmark = pytest.mark.slurm


def test_tasks_run_on_both_nodes_each_with_its_gpu(slurm: DevCluster) -> None:
    command = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
    out = slurm.run("srun", "-N2", "--ntasks-per-node=2", "--gpus-per-task=1", "-t", "2", "bash", "-c", command)
    assert sorted(out.splitlines()) == ["n1 0", "n1 1", "n2 0", "n2 1"]


def test_a_job_starts_anew_when_its_node_fails(slurm: DevCluster, tmp_path: Path) -> None:
    written = tmp_path / "out"
    job = slurm.run(
        *("sbatch", "--parsable", "--requeue", "-t", "2", "-o", "/dev/null"),
        *("--wrap", f"echo ${{SLURM_RESTART_COUNT-none}} >>{written}; sleep 1000"),
    )
    screens.wait_for(lambda: written.exists() and written.read_text() == "none\n")
    node = slurm.facts(job)["NodeList"]
    slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    screens.wait_for(lambda: written.read_text() == "none\n1\n")
    assert slurm.facts(job)["Restarts"] == "1"


def test_up_is_idempotent_and_brings_back_what_died(slurm: DevCluster) -> None:
    before = [slurm.pid(name) for name in ("munged", "slurmctld", "slurmd-n1", "slurmd-n2")]
    slurm.start()
    assert [slurm.pid(name) for name in ("munged", "slurmctld", "slurmd-n1", "slurmd-n2")] == before
    slurm.kill("slurmd-n2")
    slurm.start()
    assert slurm.run("srun", "-w", "n2", "-t", "2", "echo", "back") == "back"


def test_it_refuses_to_start_without_root() -> None:
    script = Path(__file__).resolve().parent.parent / "slurm/devcluster/up.sh"
    ran = subprocess.run(["setpriv", "--reuid=65534", "bash", script], capture_output=True, text=True, check=False)
    assert (ran.returncode, "must be root" in ran.stderr) == (1, True)
