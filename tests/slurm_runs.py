"""Runs on the Slurm of a test session: small, without torch, each in a folder of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import screens
from devcluster import LOOK_S, DevCluster
from patience import PATIENCE

from screening.config import load
from screening.runs.claim import holder_of, lives
from screening.runs.slurm.batch import BatchRun
from screening.runs.slurm.profile import load_profile
from screening.runs.slurm.submit import Submitted, submit
from screening.store.record import SHARDS
from screening.store.shard import shard_ranges

COUNT = 300
SHARD = 10
# A job in one of these does not begin again by itself.
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
# Until a job has started on a busy machine, or has ended.
WAIT_S = 240.0
PROFILE = """
nodes = {nodes}
cores = {cores}
workers = 1
memory = "2000M"
walltime = "{walltime}"
warning = 20
interface = "lo"
setup = ["export PYTHONPATH={path}", {setup}]
command = "{command}"
{more}
"""


@dataclass
class SlurmRun:
    """A run folder, and what is submitted into it."""

    slurm: DevCluster
    folder: Path
    made: Path

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def profile(
        self,
        load: str = "gated",
        *,
        nodes: int = 1,
        walltime: str = "00:30:00",
        cores: int = 2,
        setup: str = "true",
        more: str = "",
    ) -> Path:
        """A profile whose jobs predict with a predictor of tests/screens.py, after a line of shell."""
        script = self.folder / f"run_{load}.py"
        script.write_text(screens.SCRIPT.format(path=sys.path, load=load, before="pass"), encoding="utf-8")
        path = self.folder / f"{load}.toml"
        text = PROFILE.format(
            nodes=nodes,
            cores=cores,
            walltime=walltime,
            path=":".join(filter(None, sys.path)),
            command=f"{sys.executable} {script}",
            setup=json.dumps(setup),
            more=more,
        )
        path.write_text(text)
        return path

    def config(self, **settings: Any) -> Path:
        """What is screened."""
        given = {"inputs": [str(self.made / "c.h5")], "out": str(self.out), "model": str(self.made / "m.safetensors")}
        given |= {"shards.least": SHARD, "shards.most": SHARD, "limits.patience": 1000} | settings
        path = self.folder / "run.toml"
        path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items()))
        return path

    def submitted(self, profile: Path, *, config: Path | None = None, parts: int | None = None) -> Submitted:
        """Submit."""
        return submit(load(BatchRun, config or self.config()), load_profile(profile), parts=parts)

    def submit(self, profile: Path, *, config: Path | None = None) -> str:
        """Submit, and give the id of the job."""
        return self.submitted(profile, config=config).job

    def done(self) -> int:
        """How many rows are done."""
        shards = shard_ranges(self.out / SHARDS) if (self.out / SHARDS).is_dir() else []
        return sum(stop - start for start, stop, _ in shards)

    def has_done(self, rows: int) -> bool:
        """Whether so many rows are done."""
        return self.done() >= rows

    def wait_at_the_gate(self, job: str, shards: int = screens.FREE) -> None:
        """Wait until a gated job has done so many shards, as many as the gate lets through, and waits itself."""
        rows = shards * SHARD
        screens.wait_for(lambda: self.done() >= rows or self.slurm.state(job) in OVER, WAIT_S, every=LOOK_S)
        assert rows <= self.done() < COUNT, self.log()

    def open_gate(self, shards: int | None = None) -> None:
        """Let gated jobs go on, until so many shards are there in all."""
        new = self.folder / "gate.new"
        new.write_text("" if shards is None else str(shards))
        new.replace(self.folder / "gate")

    def wait_for_incarnation(self, restart: int) -> None:
        """Wait until a job that began anew, so many times, has the run."""
        screens.wait_for(lambda: holder_of(self.out).get("restart") == restart, WAIT_S, every=LOOK_S)

    def finished(self, job: str) -> None:
        """Wait until a job is done, and compare what it did with the right results."""
        state = self.slurm.wait_for(job, timeout=WAIT_S)
        assert state == "COMPLETED", self.log()
        self.assert_right()

    def kill_driver(self, job: str) -> None:
        """Kill all that a job has on this machine, and wait until its driver is dead."""
        holder = holder_of(self.out)
        for pid in self.slurm.processes(job):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        screens.wait_for(lambda: not lives(holder) and not self.slurm.keepers(job), WAIT_S, every=LOOK_S)

    def assert_right(self) -> None:
        """The results are those of an undisturbed run, and nothing is left of this one."""
        screens.assert_same_columns(screens.columns_of(self.out), screens.columns_of(self.made / "right"))
        assert not list(self.out.glob("driver*.json"))
        assert not [path for path in self.out.rglob("*") if path.suffix in (".part", ".pem")]

    def assert_nothing_left(self, job: str) -> None:
        """No process of a job lives on."""
        screens.wait_for(lambda: not self.slurm.processes(job), WAIT_S, every=LOOK_S)

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """What the drivers logged, of some kinds."""
        path = self.out / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] in kinds]

    def log(self) -> str:
        """What the jobs printed."""
        logs = [*self.out.glob("*.out"), *self.out.glob("cluster/*/*.log"), *self.out.glob("cluster/*/*.err")]
        return "\n".join(f"{path}:\n{path.read_text()[-3000:]}" for path in logs)


def made_input(folder: Path) -> Path:
    """A folder with crystals, a model, and the right results."""
    packed = screens.packed_file(folder / "c.h5", COUNT)
    model = screens.saved_model(folder / "m.safetensors")
    screens.reference(folder / "right", screens.job_of(folder / "none", packed, model, load=screens.arithmetic))
    return folder


def command(*arguments: object, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run `screening`."""
    root = str(Path(__file__).resolve().parent.parent)
    return subprocess.run(
        [sys.executable, "-m", "screening", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300 * PATIENCE,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": root},
    )
