"""How a run is, from its folder and from Slurm's queue alone: no scheduler of Dask, no accounting, no torch."""

import contextlib
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from screening.errors import InputError, ScreeningError, permitted
from screening.runs.claim import CLAIM_FILE, holder_of, lives
from screening.runs.provenance import last_note
from screening.runs.slurm import asked_jobs, controller
from screening.runs.slurm.controller import Job, SilentError
from screening.store.cover import Piece, cover
from screening.store.record import RESULTS, RUN_FILE, SHARDS, read_record
from screening.store.schema import Status
from screening.store.shard import ShardFile, shard_ranges

# Shards are looked into for so long; a run can have more of them than a login node should open.
LOOK_S = 1.5
PARTS = re.compile(r"driver-\d+-of-\d+\.json")
# Without a beat for so long, a driver elsewhere is as good as gone; the file systems of nodes may lag.
STALE_S = 60.0


@dataclass(frozen=True, slots=True)
class Driver:
    """Who drives a run, or a part of it; `alive` is None where that cannot be known from here."""

    holder: Mapping[str, Any]
    alive: bool | None
    file: str

    @property
    def facts(self) -> Mapping[str, Any]:
        """What it says of the run."""
        found = self.holder.get("facts")
        return found if isinstance(found, dict) else {}

    @property
    def words(self) -> str:
        """It in a line."""
        where = f"process {self.holder.get('pid')} on {self.holder.get('host')}"
        job = f", job {self.holder['job']}" if "job" in self.holder else ""
        state = {True: "alive", False: "dead", None: "silent"}[self.alive]
        workers = f", {self.facts['workers']} workers" if "workers" in self.facts else ""
        page = f", dashboard {self.facts['dashboard']}" if self.facts.get("dashboard") else ""
        part = "" if self.file == CLAIM_FILE else f", {self.file.removesuffix('.json').removeprefix('driver-')}"
        return f"{where}{job}{part}: {state}{workers}{page}"


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How a run is. `statuses` counts rows of the shards that were `looked_at`; `rows` is None before it is packed."""

    folder: Path
    rows: int | None
    done: int
    shards: int
    merged: bool
    statuses: Mapping[str, int]
    looked_at: int
    drivers: tuple[Driver, ...]
    jobs: tuple[Job, ...]
    silence: str
    rate: float

    @property
    def word(self) -> str:
        """It in a word or two."""
        if self.merged:
            return "finished"
        if any(driver.alive for driver in self.drivers) or any(job.state == "RUNNING" for job in self.jobs):
            return "running"
        if self.jobs:
            return "waiting in the queue"
        if any(driver.alive is None for driver in self.drivers):
            return "perhaps running: its driver is on another machine and was not heard of for a while"
        if self.rows is not None and self.done == self.rows:
            return "predicted, not merged"
        return "stopped: the same command goes on" if self.done else "not begun"

    @property
    def seconds_left(self) -> float | None:
        """How long it will take at the rate so far; None when that is unknown."""
        return (self.rows - self.done) / self.rate if self.rows is not None and self.rate > 0 else None

    def facts(self) -> dict[str, Any]:
        """All of it, for JSON."""
        left = self.seconds_left
        return {
            "folder": str(self.folder),
            "state": self.word,
            "rows": self.rows,
            "done": self.done,
            "shards": self.shards,
            "statuses": dict(self.statuses),
            "looked_at": self.looked_at,
            "rate": self.rate,
            "seconds_left": None if left is None else round(left, 1),
            "drivers": [{**one.holder, "alive": one.alive} for one in self.drivers],
            "jobs": [{"id": j.shown, "state": j.state, "reason": j.reason, "nodes": j.node_list} for j in self.jobs],
            "slurm": self.silence,
        }


def status_of(folder: Path) -> RunStatus:
    """Find out how a run is."""
    with permitted(folder):
        return _status_of(folder)


def _status_of(folder: Path) -> RunStatus:
    tags = asked_jobs.tags_of(folder)
    if not (folder / RUN_FILE).exists() and not tags and not _drivers(folder):
        read_record(folder)  # says what is wrong with the folder
    rows = read_record(folder).rows if (folder / RUN_FILE).exists() else None
    shards = shard_ranges(folder / SHARDS) if (folder / SHARDS).is_dir() else []
    # Shards may overlap; their rows count once.
    pieces = [] if rows is None else cover(shards, rows)[0]
    done = sum(len(piece) for piece in pieces)
    statuses, looked_at = _looked_into(pieces)
    drivers = _drivers(folder)
    jobs, silence = _jobs(tags)
    merged = (folder / RESULTS).exists()
    return RunStatus(
        folder, rows, done, len(shards), merged, statuses, looked_at, drivers, jobs, silence, _rate(folder, drivers)
    )


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What was done to end a run, in lines; and why jobs of it may go on, empty if none do."""

    lines: tuple[str, ...]
    silence: str


def cancelled(folder: Path) -> Cancelled:
    """End what works on a run: its drivers on this machine, whatever Slurm says, then its jobs."""
    with permitted(folder):
        tags, drivers = asked_jobs.tags_of(folder), _drivers(folder)
        if not folder.is_dir():
            raise InputError(f"{folder}: is no folder; name that of a run")
    lines = [line for driver in drivers if "job" not in driver.holder for line in _stopped(driver)]
    jobs, silence = _jobs(tags)
    # A driver that is in a job ends with it.
    ending = {None, *(job.id for job in jobs)}
    lines += [line for driver in drivers if driver.holder.get("job") not in ending for line in _stopped(driver)]
    try:
        # Worker jobs of a driver that was asked to stop are its own to end; they are cancelled here too, for it may
        # hang.
        controller.cancel(job.id for job in jobs)
    except SilentError as error:
        return Cancelled(tuple(lines), f"jobs may go on: {error}")
    return Cancelled((*lines, *(f"cancelled job {job.shown} ({job.state.lower()})" for job in jobs)), silence)


def _stopped(driver: Driver) -> Iterator[str]:
    """Ask a driver to stop, if it lives and is on this machine."""
    if lives(dict(driver.holder)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(driver.holder["pid"]), signal.SIGTERM)
        yield f"asked process {driver.holder['pid']} to stop"
    elif driver.alive is not False:
        yield f"left alone: process {driver.holder.get('pid')} on {driver.holder.get('host')}; stop it there"


def _drivers(folder: Path) -> tuple[Driver, ...]:
    if not folder.is_dir():
        return ()
    names = sorted(path.name for path in folder.iterdir() if path.name == CLAIM_FILE or PARTS.fullmatch(path.name))
    found = []
    for name in names:
        holder = holder_of(folder, name)
        alive = lives(holder)
        if alive is None:
            with contextlib.suppress(OSError):
                alive = True if abs(time.time() - (folder / name).stat().st_mtime) < STALE_S else None
        if holder:
            found.append(Driver(holder, alive, name))
    return tuple(found)


def _jobs(tags: list[str]) -> tuple[tuple[Job, ...], str]:
    """The jobs of a run, and why they are not known if they are not."""
    if not tags:
        return (), ""
    if not controller.is_there():
        return (), "jobs are unknown: this machine has no squeue"
    try:
        return tuple(controller.jobs_named(*tags)), ""
    except (SilentError, InputError) as error:
        return (), f"jobs are unknown: {error}"


def _looked_into(pieces: list[Piece]) -> tuple[dict[str, int], int]:
    """Rows by status of some pieces, evenly chosen, as many as there is time for; and how many rows these have."""
    counts: Counter[str] = Counter()
    until = time.monotonic() + LOOK_S
    # Ever finer: the first pass is spread over all of them.
    step = max(1, len(pieces) // 16)
    order = [k for first in range(step) for k in range(first, len(pieces), step)]
    for k in order:
        if time.monotonic() > until:
            break
        with contextlib.suppress(ScreeningError), ShardFile(pieces[k].path) as file:
            codes, numbers = np.unique(file.column("status")[pieces[k].inside], return_counts=True)
            counts.update({Status(c).word: n for c, n in zip(codes.tolist(), numbers.tolist(), strict=True)})
    return dict(counts), counts.total()


def _rate(folder: Path, drivers: tuple[Driver, ...]) -> float:
    """Crystals per second: of who is at work now, else of who was last."""
    now = [float(driver.facts.get("rate", 0.0)) for driver in drivers if driver.alive]
    if any(now):
        return sum(now)
    last = last_note(folder, "end")
    seconds = float(last.get("seconds") or 0.0)
    return float(last.get("rows") or 0) / seconds if seconds > 0 else 0.0
