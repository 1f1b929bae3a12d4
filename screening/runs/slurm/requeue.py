"""Puts the job that this process is in back into the queue when its time is over before its work is."""

import os
import time
from collections.abc import Callable

from screening.errors import InputError, ResourceError
from screening.runs.listener import Progress
from screening.runs.slurm import controller
from screening.runs.slurm.controller import SilentError

PAUSE_S = 5.0
# An attempt takes up to twenty seconds, and what it led to must still be said.
SPARE_S = 45.0
# Slurm before 23.02 tells a job no end; the warning that comes before it is five minutes by default.
UNTOLD_S = 120.0


def go_on_later(progress: Progress | None, say: Callable[[str], object]) -> None:
    """Have the job of this process begin anew, unless that would lead no further than it came.

    `progress` is that of the run; None if the job did not get as far as predicting.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise InputError("--requeue: this is no job of Slurm (SLURM_JOB_ID is not set); leave the option out")
    vain = _vain(progress)
    if vain:
        raise ResourceError(f"job {job} is not queued again: {vain}")
    say(f"job {job} goes back into the queue, and goes on from here")
    _requeue(job, say)


def _vain(progress: Progress | None) -> str:
    """Why another job like this one would come no further, and the cure; empty if it would."""
    if progress is None:
        return (
            "its inputs were not even packed in its time. Pack them first with `screening pack`, or ask for more time"
        )
    if progress.rows:
        return ""
    if progress.done == progress.total:
        return (
            "all crystals are predicted, and its time was too short to merge them. `screening merge RUN` finishes the "
            "run, on a login node too"
        )
    return "it has not done a single crystal in its time. Ask for more time, or for smaller shards (shards.least)"


def _requeue(job: str, say: Callable[[str], object]) -> None:
    """Ask until the controller answers: what is not put back now is out of the queue for good."""
    until, asked = _last_moment(), False
    while True:
        try:
            controller.requeue(job)
            return
        except SilentError as error:
            if time.time() + PAUSE_S > until:
                raise ResourceError(
                    f"job {job} is not queued again: {error}; submit the run once more with `screening submit`, which "
                    "goes on from here"
                ) from error
            if not asked:
                say(f"{error}; it is asked again until the time of this job is over")
            asked = True
            time.sleep(PAUSE_S)


def _last_moment() -> float:
    """Until when to ask, in seconds since 1970."""
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(end) - SPARE_S if end.isdecimal() else time.time() + UNTOLD_S
