"""A real Slurm on this machine for tests marked `slurm`: two nodes with fake GPUs, made by slurm/devcluster."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import screens
from patience import PATIENCE

SCRIPTS = Path(__file__).resolve().parent.parent / "slurm/devcluster"
NODES = ("n1", "n2")
# Longer than a job takes to end in the proper way; one that is cancelled while it starts can stay for minutes.
STUCK_S = 12.0
# To look is a process, and work for the controller.
LOOK_S = 0.25
# What is not there any more, to squeue or scontrol.
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL")


def absence() -> str:
    """Say why tests marked slurm cannot run here; empty when they can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(name, path=path) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)} missing); slurm/devcluster/up.sh --install installs it"
    return "" if os.geteuid() == 0 else "only root can start Slurm's daemons"


class DevCluster:
    """The cluster of a test session, in a folder of its own and on free ports."""

    def __init__(self) -> None:
        # Not in pytest's folder, which is private: munge's socket must be open to all.
        self.folder = Path(tempfile.mkdtemp(prefix="devcluster-"))
        first = free_ports(2 + len(NODES))
        self._settings = {
            "DEVCLUSTER_DIR": str(self.folder),
            "DEVCLUSTER_PORT": str(first),
            "DEVCLUSTER_NODE_PORT": str(first + 1),
        }

    @property
    def configuration(self) -> str:
        """What SLURM_CONF must be."""
        return str(self.folder / "etc/slurm.conf")

    def start(self) -> None:
        """Bring up what is not up; bring back nodes that a test set down."""
        self._script("up.sh")

    def stop(self) -> None:
        """End everything."""
        self._script("down.sh", "--purge")

    def tidy(self) -> None:
        """Cancel what a test left, and have all nodes idle again; a cluster that is stuck is made anew."""
        self.start()
        until = time.monotonic() + STUCK_S * PATIENCE
        while not self._is_idle():
            if time.monotonic() > until:
                self._script("down.sh")
                self.start()
                until = time.monotonic() + STUCK_S * PATIENCE
            time.sleep(LOOK_S)

    def _is_idle(self) -> bool:
        jobs = self.run("squeue", "-h", "-o", "%A").split()
        for job in jobs:
            self._try("scancel", job)
        busy = [node for node in NODES if self.node_state(node) != "idle"]
        for node in busy if not jobs else []:
            self.resume(node)
        return not jobs and not busy

    def fail(self, node: str) -> None:
        """Let the controller think that a node has failed."""
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def resume(self, node: str) -> None:
        """Take a node back that failed."""
        self._try("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def run(self, *command: str) -> str:
        """What a command of Slurm prints."""
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=300 * PATIENCE
        ).stdout.strip()

    def _try(self, *command: str) -> None:
        subprocess.run(command, check=False, capture_output=True, timeout=300 * PATIENCE)

    def node_state(self, node: str) -> str:
        """The state of a node, as sinfo has it."""
        return self.run("sinfo", "-h", "-N", "-p", "main", "-n", node, "-o", "%T")

    def facts(self, job: str) -> dict[str, str]:
        """What the controller knows of a job."""
        shown = self.run("scontrol", "show", "job", "-o", job)
        return dict(re.findall(r"(\S+?)=(\S*)", shown))

    def state(self, job: str) -> str:
        """The state of a job."""
        return self.facts(job)["JobState"]

    def wait_for(self, job: str, *states: str, timeout: float = 120) -> str:
        """Wait until a job is in one of some states, by default at its end, and tell which."""
        wanted = states or ENDED
        screens.wait_for(lambda: self.state(job) in wanted, timeout, every=LOOK_S)
        return self.state(job)

    def pid(self, daemon: str) -> int:
        """The process of a daemon: slurmctld, or slurmd-n1."""
        return int((self.folder / f"pid/{daemon}.pid").read_text())

    def kill(self, daemon: str) -> None:
        """Kill a daemon; `start` brings it back."""
        pid = self.pid(daemon)
        os.kill(pid, signal.SIGKILL)
        screens.wait_for(lambda: _is_dead(pid))

    def forget(self) -> None:
        """Crash the controller and lose its state, so that it gives ids of jobs once more."""
        self.kill("slurmctld")
        shutil.rmtree(self.folder / "state")
        (self.folder / "state").mkdir()
        self.start()

    def processes(self, job: str) -> list[int]:
        """Processes on this machine that belong to a job."""
        mark = f"SLURM_JOB_ID={job}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                belongs = mark in (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if belongs and not _is_dead(int(folder.name)):
                found.append(int(folder.name))
        return found

    def keepers(self, job: str) -> list[int]:
        """The processes by which Slurm looks after those of a job; while one is there, its id cannot be used again."""
        mark = f"slurmstepd: [{job}.".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(mark) and not _is_dead(int(folder.name)):
                    found.append(int(folder.name))
        return found

    def _script(self, name: str, *options: str) -> None:
        command = [str(SCRIPTS / name), *options]
        ran = subprocess.run(
            command,
            env=os.environ | self._settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=300 * PATIENCE,
        )
        assert ran.returncode == 0, f"{name} failed:\n{ran.stdout}{ran.stderr}"


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody uses; below those that the system hands out."""
    for first in range(20_000 + os.getpid() % 500 * 20, 32_000):
        with ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
