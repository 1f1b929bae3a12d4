"""One lease in a worker process: rows of the packed input are read, predicted and written as one shard file.

The stages overlap because a worker computes two leases at a time: while one waits for its disk, the threads that
predict have the other's batches, in order. Nothing here knows who hands out leases; dask_tasks.py does.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np

from screening import machine
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.crystals.packed import PackedCrystals
from screening.errors import FileFormatError, InputError
from screening.predictions import Target
from screening.runs.isolate import Float64, Outcome, isolated
from screening.runs.plan import Lease, Verdict
from screening.runs.scratch import scratch_folder, staged
from screening.runs.stages import Stages
from screening.store.schema import Stamp, Status
from screening.store.shard import Failure, ShardFile, ShardRows, read_shard, shard_name, write_shard

PREDICTING = "predict"
# A crystal that any model can be tried on: rock salt.
SALT = Crystal("rock salt", np.array([11, 17], np.uint8), np.diag([0.0, 2.82, 0.0])[:2], 2.82 * (1 - np.eye(3)))


class Predictor(Protocol):
    """What a worker needs of a model: its targets, a budget of atoms for a call, a pool to call it in."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """One column each."""

    @property
    def embedding(self) -> int:
        """How many columns of an embedding follow those of the targets; 0 for none."""

    @property
    def max_atoms(self) -> int:
        """How many atoms to give it at once; fewer after it ran out of memory."""

    @property
    def pool(self) -> Executor:
        """The threads that it is called in."""

    def __call__(self, crystals: Crystals, stages: Stages) -> Float64:
        """Predict, (crystals, targets and embedding)."""

    def close(self) -> None:
        """Give up its threads."""


def load_predictor(job: "Job") -> Predictor:
    """Load the model of a job."""
    from screening.runs.predictor import ModelPredictor

    return ModelPredictor.load(
        job.model,
        device=job.device,
        threads=job.threads or machine.processors().allowed,
        max_atoms=job.max_atoms,
        max_edges=job.max_edges,
        embed=job.embed,
    )


@dataclass(frozen=True, slots=True)
class Job:
    """What all leases of a run have in common. `load` makes the predictor, in the worker.

    With `stage`, the packed input is copied to `scratch` on the worker's node, by default TMPDIR, and read there.
    """

    shards: Path
    packed: Path
    model: Path
    stamp: Stamp
    device: str = "cpu"
    threads: int | None = None
    max_atoms: int = 10_000
    max_edges: int = 120_000
    embed: bool = False
    stage: bool = False
    scratch: str | None = None
    load: Callable[["Job"], Predictor] = field(default=load_predictor, compare=False)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a lease: rows by status, seconds by stage, and which rows failed."""

    lease: int
    start: int
    stop: int
    statuses: dict[str, int]
    seconds: dict[str, float]
    failures: Sequence[tuple[str, Failure]] = ()


class Engine:
    """What a process keeps between leases: the model, the open input, and signs of life of the leases at work."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._require_model()
        self._staged = staged(job.packed, scratch_folder(job.scratch)) if job.stage else None
        self.packed = _opened(job, self._staged.path if self._staged else job.packed)
        self.predictor = job.load(job)
        if self.predictor.targets != job.stamp.targets:
            raise InputError(f"{job.model}: predicts {self.predictor.targets}, the run is of {job.stamp.targets}")
        self._signs: dict[str, tuple[str, int]] = {}
        self._noting = threading.Lock()

    def try_out(self) -> None:
        """Predict a crystal that every model can take, so that what is wrong with all of them shows before a lease."""
        salt = Crystals.of([SALT])
        self.predictor.pool.submit(self.predictor, salt, Stages()).result()

    def compute(self, lease: Lease, *, name: str = "") -> Report:
        """Do a lease of whoever `name` is; its shard is on the disk when this returns."""
        stages = Stages()
        key = f"{name} {lease.number}"
        note = partial(self._note, key)
        try:
            with stages.timed("all"):
                note("read")
                with stages.timed("read"):
                    crystals = self.packed.atoms(lease.rows.start, lease.rows.stop)
                rows = self._rows(lease, crystals, stages, note)
                note("write")
                with stages.timed("write"):
                    self._write(rows, stages.seconds)
        finally:
            with self._noting:
                self._signs.pop(key, None)
        return _report(lease.number, rows, stages.seconds)

    def _write(self, rows: ShardRows, seconds: Mapping[str, float]) -> None:
        """Write the shard, unless somebody else, who was given the same rows, has finished first."""
        path = self.job.shards / shard_name(rows.start, rows.stop)
        if path.exists():
            with contextlib.suppress(FileFormatError), ShardFile(path) as file:
                if file.stamp == self.job.stamp and file.columns():
                    return
        write_shard(self.job.shards, rows, self.job.stamp, timing=seconds, worker=f"{_HOST} {os.getpid()}")

    def signs(self) -> dict[str, list[str]]:
        """For each lease at work, by whose it is and its number, what it is doing and how far it is."""
        with self._noting:
            return {key: [stage, str(steps)] for key, (stage, steps) in self._signs.items()}

    def close(self) -> None:
        """Let go of model and input."""
        self.predictor.close()
        self.packed.close()
        if self._staged is not None:
            self._staged.release()

    def _rows(self, lease: Lease, crystals: Crystals, stages: Stages, note: Callable[[str], None]) -> ShardRows:
        if lease.verdict is not None:
            return _condemned(ShardRows.of(lease.rows.start, crystals, self.job.stamp.targets), lease.verdict)
        note(PREDICTING)
        names = [target.name for target in self.predictor.targets]
        columns = [*names, *(f"number {k} of the embedding" for k in range(self.predictor.embedding))]
        predict = partial(self.predictor, stages=stages)
        waiting = [
            self.predictor.pool.submit(isolated, predict, piece, columns)
            for piece in crystals.cut(self.predictor.max_atoms)
        ]
        try:
            # While the pool predicts.
            with stages.timed("describe"):
                rows = ShardRows.of(lease.rows.start, crystals, self.predictor.targets)
            return _filled(rows, _collected(waiting, note), names)
        finally:
            for future in waiting:
                future.cancel()

    def _note(self, key: str, stage: str) -> None:
        with self._noting:
            _, steps = self._signs.get(key, ("", 0))
            self._signs[key] = (stage, steps + 1)

    def _require_model(self) -> None:
        try:
            found = model_hash(self.job.model)
        except OSError as error:
            raise InputError(f"{self.job.model}: cannot be read on {_HOST} ({error.strerror or error})") from error
        if found != self.job.stamp.model_hash:
            raise InputError(f"{self.job.model}: is not the model that the run began with; put that one back")


_HOST = socket.gethostname()
_engine: Engine | None = None
_making = threading.Lock()


def engine_of(job: Job) -> Engine:
    """The engine of a job in this process, made when it is first asked for."""
    global _engine
    with _making:
        if _engine is None or _engine.job != job:
            if _engine is not None:
                _engine.close()
                _engine = None
            _engine = Engine(job)
        return _engine


def model_hash(path: Path) -> str:
    """The hash by which shards know their model: of the file."""
    return sha256(path.read_bytes()).hexdigest()


def _opened(job: Job, path: Path) -> PackedCrystals:
    packed = PackedCrystals(path)
    found = packed.attributes.get("fingerprint", job.stamp.input_fingerprint)
    if found != job.stamp.input_fingerprint:
        packed.close()
        raise InputError(f"{job.packed}: holds other crystals than when the run began; put that file back")
    return packed


def _collected(waiting: Sequence[Future[Outcome]], note: Callable[[str], None]) -> list[Outcome]:
    found = []
    for future in waiting:
        found.append(future.result())
        note(PREDICTING)
    return found


def _filled(rows: ShardRows, outcomes: Sequence[Outcome], names: Sequence[str]) -> ShardRows:
    values = np.concatenate([outcome.values for outcome in outcomes])
    starts = np.cumsum([0, *(len(outcome.values) for outcome in outcomes)]).tolist()
    failures = [
        Failure(rows.start + start + trouble.place, trouble.reason, trouble.message)
        for start, outcome in zip(starts, outcomes, strict=False)
        for trouble in outcome.troubles
    ]
    targets = {name: values[:, t].copy() for t, name in enumerate(names)}
    embedding = values[:, len(names) :].copy() if values.shape[1] > len(names) else None
    return _failed(replace(rows, values=targets, embedding=embedding), failures)


def _condemned(rows: ShardRows, verdict: Verdict) -> ShardRows:
    return _failed(rows, [Failure(row, verdict.reason, verdict.message) for row in range(rows.start, rows.stop)])


def _failed(rows: ShardRows, failures: Sequence[Failure]) -> ShardRows:
    status = rows.status.copy()
    status[[failure.row - rows.start for failure in failures]] = Status.FAILED
    return replace(rows, status=status, failures=failures)


def report_of(lease: int, shard: Path) -> Report:
    """What the worker of a lease would have reported, from the shard that it left."""
    with ShardFile(shard) as file:
        seconds = file.note.timing
    return _report(lease, read_shard(shard), seconds)


def _report(lease: int, rows: ShardRows, seconds: Mapping[str, float]) -> Report:
    codes, counts = np.unique(rows.status, return_counts=True)
    statuses = {Status(code).word: count for code, count in zip(codes.tolist(), counts.tolist(), strict=True)}
    failures = [(rows.ids[failure.row - rows.start], failure) for failure in rows.failures]
    return Report(lease, rows.start, rows.stop, statuses, dict(seconds), failures)
