"""What a cluster is asked for and how it is used: a small TOML file, checked before anything is submitted."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from screening.config import Settings, load
from screening.errors import InputError
from screening.runs.config import ClusterSettings

WALLTIME = re.compile(r"(?:(\d+)-)?(\d{1,2}):(\d\d):(\d\d)")
MEMORY = re.compile(r"([1-9]\d*)([KMGT])")
KIB = {"K": 1, "M": 1 << 10, "G": 1 << 20, "T": 1 << 30}
# What the rendered script says itself; another word on it would win or lose by its place.
OURS = (
    *(
        "--partition",
        "-p",
        "--account",
        "-A",
        "--nodes",
        "-N",
        "--ntasks",
        "-n",
        "--ntasks-per-node",
        "--cpus-per-task",
    ),
    *("-c", "--gpus-per-node", "--gres", "--gpus", "-G", "--gpus-per-task", "--mem", "--mem-per-cpu", "--mem-per-gpu"),
    *("--time", "-t", "--signal", "--requeue", "--no-requeue", "--open-mode", "--output", "-o", "--error", "-e"),
    *("--no-kill", "-k", "--array", "-a", "--job-name", "-J", "--wrap", "--chdir", "-D"),
)
# What stands in a line of the script as it is.
Word = Annotated[str, Field(pattern=r"^\S+$")]


class Profile(Settings):
    """A way to use a cluster. `gpus`, `cores`, `memory` are of one node; `workers` processes share them.

    With GPUs there is a worker for each. `warning` is how many seconds before the walltime a run begins to end.
    `setup` are lines of shell, after `modules` are loaded; `command` is how this package starts on a compute node.
    `scratch` is a folder of each node, by default its TMPDIR; with `stage` the packed input is copied there first.
    """

    partition: Word | None = None
    account: Word | None = None
    nodes: PositiveInt = 1
    gpus: NonNegativeInt = 0
    cores: PositiveInt
    workers: PositiveInt | None = None
    memory: str
    walltime: str
    warning: PositiveInt = 300
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    command: str = "screening"
    interface: Annotated[str, Field(pattern=r"^[\w.:-]+$")] | None = None
    scratch: str | None = None
    stage: bool = False
    directives: tuple[str, ...] = ()

    def require_fit(self, device: str) -> None:
        """Refuse a device that the nodes lack, and GPUs that nobody would use."""
        if device == "cuda" and not self.gpus:
            raise InputError("device is cuda, but the profile asks for no GPUs; set gpus in it, or device to cpu")
        if device == "cpu" and self.gpus:
            raise InputError(
                f"the profile asks for {self.gpus} GPUs, which a run of device cpu would waste; set device to cuda, or "
                "take a profile without gpus"
            )

    @property
    def workers_per_node(self) -> int:
        """Processes that predict on each node."""
        return self.workers or self.gpus or max(1, self.cores // 4)

    @property
    def cores_per_worker(self) -> int:
        """Processors of each of them."""
        return self.cores // self.workers_per_node

    def cluster_settings(self, given: ClusterSettings) -> ClusterSettings:
        """Settings of a run for this cluster; what the profile leaves open stays as it was given."""
        ours = {"interface": self.interface, "scratch": self.scratch, "stage": self.stage or None}
        return given.model_copy(update={key: value for key, value in ours.items() if value is not None})

    @property
    def seconds(self) -> int:
        """The walltime."""
        found = WALLTIME.fullmatch(self.walltime)
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0, 0)
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def memory_bytes(self) -> int:
        """The memory of a node that a job gets."""
        found = MEMORY.fullmatch(self.memory)
        return int(found[1]) * KIB[found[2]] * 1024 if found else 0

    @field_validator("walltime")
    @classmethod
    def _is_walltime(cls, text: str) -> str:
        if not WALLTIME.fullmatch(text):
            raise ValueError("is no time: expected HH:MM:SS or days-HH:MM:SS, such as 24:00:00")
        return text

    @field_validator("memory")
    @classmethod
    def _is_memory(cls, text: str) -> str:
        if not MEMORY.fullmatch(text):
            raise ValueError("is no memory: expected a whole number and one of K, M, G, T, such as 480G")
        return text

    @field_validator("directives")
    @classmethod
    def _are_directives(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            if not line.startswith("-") or "\n" in line:
                raise ValueError(f"{line!r} is no option of sbatch: expected one such as '--constraint=a100'")
            if re.split(r"[=\s]", line)[0] in OURS:
                raise ValueError(f"{line!r} is what other keys or the script itself decide; leave it out")
        return lines

    @model_validator(mode="after")
    def _fits(self) -> "Profile":
        if self.gpus and self.workers is not None and self.workers != self.gpus:
            raise ValueError(f"workers is {self.workers} and gpus {self.gpus}: a GPU has one worker; leave workers out")
        if self.cores < self.workers_per_node:
            raise ValueError(f"cores is {self.cores}, fewer than the {self.workers_per_node} workers of a node")
        if self.seconds < 2 * self.warning:
            raise ValueError(f"walltime {self.walltime} is less than twice the warning, {self.warning} s")
        return self


def load_profile(path: Path) -> Profile:
    """Read a profile; the error names what is wrong and its line."""
    return load(Profile, path)
