"""What the controller of a cluster is asked and told, each call under a time limit; needs no accounting database."""

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from screening.errors import InputError, ResourceError

LIMIT_S = 20.0
# Unlikely in any file, unlike commas and spaces.
SEPARATOR = "\x1f"
FORMAT = SEPARATOR.join(("%A", "%F", "%K", "%j", "%T", "%r", "%D", "%N", "%M", "%L", "%P"))
# Reasons for which a job pends until somebody changes the request or the cluster.
HOPELESS = {
    "PartitionTimeLimit": "its walltime is longer than the partition allows",
    "PartitionNodeLimit": "it asks for more nodes than the partition allows",
    "PartitionConfig": "it asks for more time or nodes than the partition allows",
    "PartitionInactive": "the partition is inactive",
    "PartitionDown": "the partition is down",
    "BadConstraints": "no node has what it asks for",
    "DependencyNeverSatisfied": "it waits for a job that failed",
    "AccountNotAllowed": "the account may not use this partition",
    "QOSNotAllowed": "the quality of service may not be used here",
    "InvalidAccount": "the account is unknown",
    "InvalidQOS": "the quality of service is unknown",
    "AssocMaxWallDurationPerJobLimit": "its walltime is longer than the account may have",
    "QOSMaxWallDurationPerJobLimit": "its walltime is longer than the quality of service allows",
    "AssocMaxNodePerJobLimit": "it asks for more nodes than the account may have",
    "QOSMaxNodePerJobLimit": "it asks for more nodes than the quality of service allows",
}


class SilentError(ResourceError):
    """The controller did not answer, or not in time; what was asked of it may have happened all the same."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the queue shows it; `array` is the id of its array and `task` its place in it, if it is of one."""

    id: str
    array: str
    task: str
    name: str
    state: str
    reason: str
    nodes: str
    node_list: str
    elapsed: str
    left: str
    partition: str

    @property
    def shown(self) -> str:
        """Its name among jobs."""
        return self.id if self.task in ("N/A", "") else f"{self.array}_{self.task}"

    @property
    def hopeless(self) -> str:
        """Why it can never start, in words; empty if it can."""
        return HOPELESS.get(self.reason, "") if self.state == "PENDING" else ""


def is_there() -> bool:
    """Tell whether this machine has the commands of Slurm."""
    return shutil.which("squeue") is not None


def new_tag() -> str:
    """A name that no other job has or had."""
    return f"screening-{uuid.uuid4().hex[:12]}"


def jobs_named(*names: str) -> list[Job]:
    """Look jobs up by their names, pending or running; those that ended are gone."""
    if not names:
        return []
    # One array task a line, and only this user's.
    shown = _asked(["squeue", "--me", "-h", "-r", "-n", ",".join(names), "-o", FORMAT])
    return [Job(*line.split(SEPARATOR)) for line in shown.splitlines() if line]


def submitted(script: str, *options: str) -> str:
    """Hand a script to sbatch and give the id of the job; refusals are errors of the request."""
    return _asked(["sbatch", "--parsable", *options], text=script).strip().split(";")[0]


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs; those that are gone already are no error."""
    wanted = sorted(set(jobs))
    if wanted:
        with contextlib.suppress(InputError):
            _asked(["scancel", "--quiet", *wanted])


def requeue(job: str) -> None:
    """Put a job into the queue again; it ends soon after."""
    _asked(["scontrol", "requeue", job])


def most_tasks() -> int | None:
    """How many tasks an array may have; None where the controller does not say."""
    for line in _asked(["scontrol", "show", "config"]).splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize" and value.strip().isdecimal():
            return int(value) - 1
    return None


def _asked(command: Sequence[str], *, text: str | None = None) -> str:
    # What a job that this process is in was given must not decide what another gets.
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SBATCH_", "SLURM_")) or key == "SLURM_CONF"
    }
    try:
        ran = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False
        )
    except FileNotFoundError as error:
        raise InputError(f"{command[0]}: no such command; this is no machine of a Slurm cluster") from error
    except subprocess.TimeoutExpired as error:
        raise SilentError(f"{command[0]}: no answer from Slurm's controller within {LIMIT_S:g} s") from error
    if ran.returncode != 0:
        said = " ".join(line.strip() for line in ran.stderr.splitlines()) or f"code {ran.returncode}"
        if any(word in said for word in ("Socket timed out", "Unable to contact", "Connection refused", "timed out")):
            raise SilentError(f"{command[0]}: Slurm's controller does not answer ({said})")
        raise InputError(f"{command[0]}: refused by Slurm: {said}")
    return ran.stdout if command[0] != "sbatch" or "--test-only" not in command else ran.stderr
