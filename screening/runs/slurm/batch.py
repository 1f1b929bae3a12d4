"""The batch script of a run: a pure function of what is screened and of the profile, so that it can be read first."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from screening.config import setting
from screening.errors import InputError
from screening.runs.config import ScreenConfig
from screening.runs.slurm.profile import Profile

EVENTS = "events.jsonl"
WARNING = "USR1"


Name = Annotated[str, Field(min_length=1)]


class BatchRun(ScreenConfig):
    """What a run that is submitted screens, into which folder; and the settings of a screen."""

    inputs: tuple[Name, ...] = Field(min_length=1)
    out: Name


def batch_script(run: BatchRun, profile: Profile, *, nodes: int | None = None, parts: int | None = None) -> str:
    """Render the script of a run on some nodes, or of so many parts of it, each a job of an array on a node.

    >>> batch_script(load(BatchRun, "slurm/screen.toml"), load_profile("slurm/profiles/gpu.toml"), nodes=4)
    """
    _require_fit(run, profile)
    directives = [
        *_request(profile, nodes or profile.nodes, parts),
        *_conduct(run, profile, parts),
        *profile.directives,
    ]
    lines = [
        "#!/usr/bin/env bash",
        *(f"#SBATCH {directive}" for directive in directives),
        "set -e",
        f"trap '' {WARNING}  # until the command below is ready for it",
        *(f"module load {shlex.quote(name)}" for name in profile.modules),
        *profile.setup,
        " \\\n  ".join(["exec " + profile.command + " screen", *_options(run, profile, parts)]),
    ]
    return "\n".join(lines) + "\n"


def _require_fit(run: BatchRun, profile: Profile) -> None:
    profile.require_fit(run.device)
    if any(character in run.out for character in "\n%\\"):
        raise InputError(f"out is {run.out!r}; Slurm would read more than a name into it")


def _request(profile: Profile, nodes: int, parts: int | None) -> Iterator[str]:
    """What is asked for. In an array, each part has a node to itself, and one process that starts the others."""
    if profile.partition:
        yield f"--partition={profile.partition}"
    if profile.account:
        yield f"--account={profile.account}"
    if parts is None:
        yield f"--nodes={nodes}"
        yield f"--ntasks-per-node={profile.workers_per_node}"
        yield f"--cpus-per-task={profile.cores_per_worker}"
    else:
        yield f"--array=1-{parts}"
        yield "--nodes=1"
        yield "--ntasks-per-node=1"
        yield f"--cpus-per-task={profile.cores}"
    if profile.gpus:
        yield f"--gpus-per-node={profile.gpus}"
    yield f"--mem={profile.memory}"
    yield f"--time={profile.walltime}"


def _conduct(run: BatchRun, profile: Profile, parts: int | None) -> Iterator[str]:
    """How the job ends and goes on: warned before its time, queued again, with what it printed kept."""
    yield f"--signal=B:{WARNING}@{profile.warning}"
    yield "--requeue"
    if parts is None:
        yield "--no-kill"
    yield "--open-mode=append"
    yield f"--output={shlex.quote(f'{run.out}/slurm-')}{'%j' if parts is None else '%A_%a'}.out"


def _options(run: BatchRun, profile: Profile, parts: int | None) -> Iterator[str]:
    """The options of `screening screen` in the job: every setting that is not its default, and nothing from files."""
    # A file of this folder may begin with a dash.
    yield " ".join(shlex.quote(name if name[0] != "-" else f"./{name}") for name in run.inputs)
    yield f"--out {shlex.quote(run.out)}"
    events = f"{run.out}/{EVENTS}"
    if parts is None:
        yield "--cluster allocation"
        yield f"--log {shlex.quote(events)}"
    else:
        yield f'--part "$SLURM_ARRAY_TASK_ID/{parts}"'
        yield f'--log {shlex.quote(events.removesuffix(".jsonl"))}-"$SLURM_ARRAY_TASK_ID".jsonl'
    yield "--requeue"
    for key, value in _settings(run, profile, parts).items():
        yield f"--set {shlex.quote(setting(key, value))}"


def _settings(run: BatchRun, profile: Profile, parts: int | None) -> dict[str, Any]:
    here: dict[str, Any] = {"cluster": profile.cluster_settings(run.cluster)}
    if parts is not None and not profile.gpus:
        here |= {"workers": run.workers or profile.workers_per_node, "threads": run.threads or profile.cores_per_worker}
    settings = ScreenConfig.model_validate(run.model_dump(exclude={"inputs", "out"})).model_copy(update=here)
    return dict(_differences(settings.model_dump(mode="json"), ScreenConfig().model_dump(mode="json")))


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in ours.items():
        if isinstance(value, Mapping):
            yield from _differences(value, theirs[name], f"{prefix}{name}.")
        elif value != theirs[name]:
            yield f"{prefix}{name}", value
