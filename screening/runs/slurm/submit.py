"""Submits a run: once, whatever the controller answers, and not at all if it could never start."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from screening.errors import InputError
from screening.runs.run_folder import ModelFile, made_folder, require_inputs
from screening.runs.slurm import asked_jobs, controller
from screening.runs.slurm.batch import BatchRun, batch_script
from screening.runs.slurm.controller import Job, SilentError
from screening.runs.slurm.profile import Profile

# Long enough for a controller that hung to have taken up what it was sent.
LOOK_UP_S = 60.0
LOOK_S = 0.5
# A job that can never start is told so by the scheduler within a moment.
SETTLE_S = 3.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that was accepted, under which unique name; with a warning if the controller seemed to refuse it."""

    job: str
    tag: str
    warning: str = ""


def submit(run: BatchRun, profile: Profile, *, nodes: int | None = None, parts: int | None = None) -> Submitted:
    """Render the script of a run and submit it, with its folder made; refuse while a job of the run is queued."""
    ModelFile.of(run.model)
    ModelFile.potential(run)
    require_inputs([Path(name) for name in run.inputs])
    script = batch_script(run, profile, nodes=nodes, parts=parts)
    most = controller.most_tasks() if parts is not None else None
    if parts is not None and most is not None and parts > most:
        raise InputError(f"an array of this cluster has at most {most} tasks; take --parts {most} or fewer")
    require_accepted(script)
    folder = made_folder(Path(run.out))
    there = controller.jobs_named(*asked_jobs.tags_of(folder))
    if there:
        shown = shlex.quote(str(folder))
        raise InputError(
            f"{folder}: job {there[0].shown} of this run is {there[0].state} already; see `screening status {shown}`, "
            f"or `screening cancel {shown}` first"
        )
    tag = controller.new_tag()
    # Before the job can exist, so that it is never unknown.
    asked_jobs.note(folder, "submitting", tag=tag, way="batch" if parts is None else "array")
    job, warning = _submitted_once(script, tag, folder)
    asked_jobs.note(folder, "submitted", tag=tag, job=job)
    _watch(tag)
    return Submitted(job, tag, warning)


def require_accepted(script: str) -> None:
    """Ask Slurm whether it would take a script; it catches what no node or partition has, not every limit."""
    controller.submitted(script, "--test-only")


def require_runnable(jobs: Sequence[Job]) -> None:
    """Refuse jobs that can never start, and take them out of the queue."""
    lost = [job for job in jobs if job.hopeless]
    if lost:
        controller.cancel([job.id for job in lost])
        raise InputError(
            f"job {lost[0].shown} could never start: {lost[0].hopeless} (Slurm says {lost[0].reason}). It was "
            "cancelled; change the profile and submit again"
        )


def _submitted_once(script: str, tag: str, folder: Path) -> tuple[str, str]:
    try:
        return controller.submitted(script, f"--job-name={tag}"), ""
    except SilentError as error:
        ask = f"screening status {shlex.quote(str(folder))}"
        # A hanging controller takes up what it was sent when it comes to itself, though nobody waits for its answer.
        until = time.monotonic() + LOOK_UP_S
        while time.monotonic() < until:
            try:
                found = controller.jobs_named(tag)
            except SilentError:
                found = []
            if found:
                return found[0].array, f"{error}; the job was accepted all the same"
            time.sleep(LOOK_S)
        raise SilentError(
            f"{error}; no job {tag} is in the queue so far. It may appear yet: see `{ask}` before you "
            "submit again, which also looks for it first"
        ) from error


def _watch(tag: str) -> None:
    """See whether the scheduler says at once that the job can never start."""
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        try:
            jobs = controller.jobs_named(tag)
        except SilentError:
            return
        require_runnable(jobs)
        if not jobs or any(job.state != "PENDING" for job in jobs) or jobs[0].reason in ("Resources", "Priority"):
            return
        time.sleep(LOOK_S)
