"""One lease in a worker process: rows of the packed input are read, predicted and written as one shard file.

The stages overlap because a worker computes two leases at a time: while one waits for its disk, the threads that
predict have the other's batches, in order. A lease whose batches wait behind those of the other says so, for it cannot
go on before that one does. Nothing here knows who hands out leases; dask_tasks.py does.
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
from screening.arrays import Float64
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.crystals.packed import PackedCrystals
from screening.errors import InputError, ScreeningError
from screening.files.whole import require_room
from screening.predictions import Target
from screening.runs.isolate import Outcome, Predict, Proof, isolated
from screening.runs.piece import Relaxer, Relaxing
from screening.runs.plan import Lease, Verdict
from screening.runs.row_reader import RowReader, opened_input
from screening.runs.scratch import scratch_folder
from screening.runs.stages import Stages
from screening.store.failures import Failure
from screening.store.relaxed import RelaxedRows
from screening.store.rows import ShardRows, volumes_per_atom
from screening.store.schema import Stamp, Status
from screening.store.shard import ShardFile, read_shard, shard_name, write_shard

# As much as a shard may need.
PROBE_BYTES = 4 << 20
PREDICTING = "predict"
WAITING = "wait"
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

    def shrink(self, atoms: int) -> None:
        """Be given at most so many atoms at once from now on."""

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
        embeddings=job.embeddings,
    )


def load_relaxer(job: "Job") -> Relaxer | None:
    """Load the potential of a job, if it relaxes crystals."""
    if job.potential is None or job.stamp.relaxation is None:
        return None
    from screening.runs.relaxer import PotentialRelaxer

    atoms, most = job.relax_atoms, job.max_atoms
    return PotentialRelaxer.load(job.potential, job.stamp.relaxation, device=job.device, atoms=atoms, max_atoms=most)


@dataclass(frozen=True, slots=True)
class Job:
    """What all leases of a run have in common.

    `load` makes the predictor, and `load_potential` what relaxes crystals, in the worker. With `stage`, the packed
    input is copied to `scratch` on the worker's node, by default TMPDIR, and read there.
    """

    shards: Path
    packed: Path
    model: Path
    stamp: Stamp
    device: str = "cpu"
    threads: int | None = None
    max_atoms: int = 10_000
    max_edges: int = 120_000
    potential: Path | None = None
    relax_atoms: int | None = None
    embeddings: bool = False
    stage: bool = False
    scratch: str | None = None
    load: Callable[["Job"], Predictor] = field(default=load_predictor, compare=False)
    load_potential: Callable[["Job"], Relaxer | None] = field(default=load_relaxer, compare=False)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a lease: rows by status, and seconds by stage. Which rows failed is in the shard."""

    lease: int
    start: int
    stop: int
    statuses: dict[str, int]
    seconds: dict[str, float]


class Engine:
    """What a process keeps between leases: the model, the open input, and signs of life of the leases at work."""

    def __init__(self, job: Job) -> None:
        self.job = job
        _require_model(job)
        scratch = partial(scratch_folder, job.scratch) if job.stage else None
        self._reader = RowReader(job.packed, job.stamp.input_fingerprint, scratch=scratch)
        self.predictor = job.load(job)
        if self.predictor.targets != job.stamp.targets:
            raise InputError(f"{job.model}: predicts {self.predictor.targets}, the run is of {job.stamp.targets}")
        self._proof = Proof(lambda crystals: self.predictor(crystals, Stages()), Crystals.of([SALT]))
        self._relaxing = self._loaded_potential()
        self._signs: dict[str, tuple[str, int]] = {}
        self._noting, self._queueing = threading.Lock(), threading.Lock()

    @property
    def packed(self) -> PackedCrystals:
        """The input that rows are read from, or its copy on this node."""
        return self._reader.packed

    def try_out(self) -> None:
        """Predict a crystal that every model can take, so that what is wrong with all of them shows before a lease."""
        salt = Crystals.of([SALT])
        self.predictor.pool.submit(self.predictor, salt, Stages()).result()
        if self._relaxing is not None:
            self.predictor.pool.submit(self._relaxing.relaxer.try_out, salt).result()

    def compute(self, lease: Lease, *, name: str = "") -> Report:
        """Do a lease of whoever `name` is; its shard is on the disk when this returns."""
        stages = Stages()
        key = f"{name} {lease.number}"
        note = partial(self._note, key)
        try:
            with stages.timed("all"):
                note("read")
                with stages.timed("read"):
                    crystals = self._reader.read(lease.rows.start, lease.rows.stop, partial(note, "read"))
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
        if not self._is_there(self.job.shards / shard_name(rows.start, rows.stop)):
            write_shard(self.job.shards, rows, self.job.stamp, timing=seconds, worker=f"{_HOST} {os.getpid()}")

    def _is_there(self, shard: Path) -> bool:
        if shard.exists():
            # What cannot be read is replaced.
            with contextlib.suppress(ScreeningError), ShardFile(shard) as file:
                same = file.stamp == self.job.stamp and file.embedding_width == self.predictor.embedding
                return same and bool(file.columns())
        return False

    def signs(self) -> dict[str, list[str]]:
        """For each lease at work, by whose it is and its number, what it is doing and how far it is."""
        with self._noting:
            return {key: [stage, str(steps)] for key, (stage, steps) in self._signs.items()}

    def close(self) -> None:
        """Let go of model and input."""
        self.predictor.close()
        if self._relaxing is not None:
            self._relaxing.relaxer.close()
        self._reader.close()

    def _loaded_potential(self) -> Relaxing | None:
        relaxer, relaxation = self.job.load_potential(self.job), self.job.stamp.relaxation
        if relaxer is None or relaxation is None:
            return None
        return Relaxing(relaxer, relaxation, self.packed.limits, Proof(relaxer.try_out, Crystals.of([SALT])))

    @property
    def _batch_atoms(self) -> int:
        """How many atoms to take at once."""
        most = self.predictor.max_atoms
        return most if self._relaxing is None else min(most, self._relaxing.relaxer.max_atoms)

    def _rows(self, lease: Lease, crystals: Crystals, stages: Stages, note: Callable[[str], None]) -> ShardRows:
        if lease.verdict is not None:
            rows = ShardRows.of(lease.rows.start, crystals, self.job.stamp.targets)
            relaxed = None if self._relaxing is None else RelaxedRows.nothing(len(rows))
            return replace(_condemned(rows, lease.verdict, self.predictor.embedding), relaxed=relaxed)
        note(WAITING)
        names = [target.name for target in self.predictor.targets]
        columns = [*names, *(f"number {k} of the embedding" for k in range(self.predictor.embedding))]
        predict = partial(self.predictor, stages=stages)
        with self._queueing:
            # All of a lease at once, so that its batches wait for no other's once they have begun.
            waiting = [
                self.predictor.pool.submit(self._predicted, predict, piece, columns, stages, note)
                for piece in crystals.cut(self._batch_atoms)
            ]
        try:
            # While the pool predicts.
            with stages.timed("describe"):
                rows = ShardRows.of(lease.rows.start, crystals, self.predictor.targets)
            return _filled(rows, crystals, _collected(waiting, note), names)
        finally:
            for future in waiting:
                future.cancel()

    def _predicted(
        self,
        predict: Predict,
        crystals: Crystals,
        columns: Sequence[str],
        stages: Stages,
        note: Callable[[str], None],
    ) -> Outcome:
        """Relax and predict a batch when its turn has come, which is a sign of life."""
        note(PREDICTING)
        shrink = self.predictor.shrink
        if self._relaxing is None:
            return isolated(predict, crystals, columns, shrink=shrink, proof=self._proof)
        sign = partial(note, PREDICTING)
        return self._relaxing.predicted(
            predict, crystals, columns, stages=stages, sign=sign, shrink=shrink, proof=self._proof
        )

    def _note(self, key: str, stage: str) -> None:
        with self._noting:
            _, steps = self._signs.get(key, ("", 0))
            self._signs[key] = (stage, steps + 1)


_HOST = socket.gethostname()


def model_hash(path: Path) -> str:
    """The hash by which shards know their model: of the file."""
    return sha256(path.read_bytes()).hexdigest()


def require_job(job: Job) -> None:
    """Raise what every worker would meet: another model or input than the run began with, no room for its shards."""
    _require_model(job)
    opened_input(job.packed, job.stamp.input_fingerprint).close()
    require_room(job.shards, PROBE_BYTES)


def _require_model(job: Job) -> None:
    expected = {job.model: job.stamp.model_hash}
    if job.potential is not None and job.stamp.relaxation is not None:
        expected[job.potential] = job.stamp.relaxation.potential_hash
    for path, known in expected.items():
        try:
            found = model_hash(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read on {_HOST} ({error.strerror or error})") from error
        if found != known:
            raise InputError(f"{path}: is not the model that the run began with; put that one back")


def _collected(waiting: Sequence[Future[Outcome]], note: Callable[[str], None]) -> list[Outcome]:
    found = []
    for future in waiting:
        found.append(future.result())
        note(PREDICTING)
    return found


def _filled(rows: ShardRows, crystals: Crystals, outcomes: Sequence[Outcome], names: Sequence[str]) -> ShardRows:
    values = np.concatenate([outcome.values for outcome in outcomes])
    starts = np.cumsum([0, *(len(outcome.values) for outcome in outcomes)]).tolist()
    failures = [
        Failure(rows.start + start + trouble.place, trouble.reason, trouble.message)
        for start, outcome in zip(starts, outcomes, strict=False)
        for trouble in outcome.troubles
    ]
    targets = {name: values[:, t].copy() for t, name in enumerate(names)}
    embedding = values[:, len(names) :].copy() if values.shape[1] > len(names) else None
    rows = _failed(replace(rows, values=targets, embedding=embedding), failures)
    relaxed = [outcome.relaxed for outcome in outcomes if outcome.relaxed is not None]
    return _with_relaxed(rows, crystals, RelaxedRows.joined(relaxed)) if relaxed else rows


def _with_relaxed(rows: ShardRows, crystals: Crystals, relaxed: RelaxedRows) -> ShardRows:
    """Rows with their relaxations: the volume is that of the crystal that was predicted."""
    volume = rows.volume_per_atom.copy()
    volume[relaxed.has_atoms] = volumes_per_atom(relaxed.of(crystals))
    return replace(rows, relaxed=relaxed, volume_per_atom=volume)


def _condemned(rows: ShardRows, verdict: Verdict, width: int) -> ShardRows:
    failures = [Failure(row, verdict.reason, verdict.message) for row in range(rows.start, rows.stop)]
    embedding = np.full((len(rows), width), np.nan, np.float32) if width else None
    return _failed(replace(rows, embedding=embedding), failures)


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
    return Report(lease, rows.start, rows.stop, statuses, dict(seconds))
