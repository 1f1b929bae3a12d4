"""Small screens: an untrained model in a file, packed crystals, and crystals that harm whoever predicts them.

Worker processes import this module by its name; what is here must not depend on pytest.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from made import made_batch
from patience import PATIENCE

from screening.arrays import Float64
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Rejection
from screening.crystals.packed_writer import PackedWriter
from screening.errors import ResourceError
from screening.predictions import Target
from screening.runs import local_cluster
from screening.runs.stages import Stages
from screening.runs.worker import SALT, Job, Predictor, load_predictor, model_hash
from screening.store.failures import Failure
from screening.store.merge import merge
from screening.store.rows import ShardRows
from screening.store.schema import Stamp, Status

TARGETS = (Target("formation_energy_per_atom", "eV/atom"), Target("band_gap", "eV"))
# More than any worker of a test may have.
HOG_BYTES = 1 << 30
# Tests run side by side, and only one can have the port of the dashboard.
local_cluster.DASHBOARD_PORT = 0
# So many shards come before a gate.
FREE = 5
STARTED: "list[subprocess.Popen[str]]" = []

# Elements that no made crystal has; one as the first atom marks a crystal.
SEGFAULTS, HANGS, HOGS, RAISES, IS_NAN, OVERFLOWS, TOO_LARGE, FREEZES, WAITS = (
    99,
    100,
    101,
    102,
    103,
    104,
    105,
    106,
    107,
)


def saved_model(path: Path, *, seed: int = 0, targets: Sequence[Target] = TARGETS) -> Path:
    """Write a small untrained model."""
    import torch

    from screening.models import checkpoint, registry
    from screening.models.header import Card

    torch.manual_seed(seed)
    settings = {"width": 8, "convolutions": 1, "hidden": 8, "hidden_layers": 1, "cutoff": 5.0, "max_neighbors": 8}
    checkpoint.save(registry.build("sieve", settings, targets), path, Card(title="untrained"))
    return path


def marked(crystals: Crystals, marks: Mapping[int, int]) -> Crystals:
    """Mark crystals, by row, with one of the elements above."""
    numbers = crystals.numbers.copy()
    for row, mark in marks.items():
        numbers[crystals.atom_offsets[row]] = mark
    return replace(crystals, numbers=numbers)


def packed_file(
    path: Path, count: int = 200, *, marks: Mapping[int, int] | None = None, refused: Sequence[Rejection] = ()
) -> Path:
    """Pack made crystals, some of them marked."""
    with PackedWriter(path) as writer:
        writer.append(marked(made_batch(count), marks or {}), refused)
    return path


@dataclass
class Harmful:
    """A predictor that does what the marks of crystals say, and predicts the others as the real one does.

    A crystal that waits makes a file `waits` in `place`, and does so until there is `go`, or `go-` and its id; one that
    hangs makes a file `hangs` there.
    """

    inner: Predictor
    place: Path
    seconds_per_crystal: float = 0.0

    @property
    def targets(self) -> tuple[Target, ...]:
        return self.inner.targets

    @property
    def embedding(self) -> int:
        return self.inner.embedding

    @property
    def max_atoms(self) -> int:
        return self.inner.max_atoms

    @property
    def pool(self) -> Any:
        return self.inner.pool

    def __call__(self, crystals: Crystals, stages: Stages) -> Float64:
        time.sleep(self.seconds_per_crystal * len(crystals))
        first = crystals.numbers[crystals.atom_offsets[:-1]]
        for place in np.flatnonzero(first == WAITS).tolist():
            (self.place / "waits").touch()
            wait_for(lambda: self._may_go(crystals.ids[place]), timeout=3600)  # noqa: B023
        for mark in set(first.tolist()):
            self._act(mark)
        numbers = np.where(crystals.numbers > 98, 1, crystals.numbers).astype(np.uint8)
        values = self.inner(replace(crystals, numbers=numbers), stages).copy()
        values[first == IS_NAN] = np.nan
        values[first == OVERFLOWS, 1] = 1e300
        return values

    def shrink(self, atoms: int) -> None:
        self.inner.shrink(atoms)

    def _may_go(self, id: str) -> bool:
        return (self.place / "go").exists() or (self.place / f"go-{id}").exists()

    def _act(self, mark: int) -> None:
        match mark:
            case 99:
                os.kill(os.getpid(), signal.SIGSEGV)
                time.sleep(60)
            case 100:
                (self.place / "hangs").touch()
                time.sleep(3600)
            case 101:
                _exhaust()
            case 102:
                raise ValueError("the crystal\nis cursed")
            case 105:
                raise MemoryError
            case 106:
                # Holds the interpreter's lock, so that the process says nothing more.
                ctypes.PyDLL(None).sleep(3600)

    def close(self) -> None:
        self.inner.close()


def _exhaust() -> None:
    held = np.ones(HOG_BYTES // 8)
    time.sleep(3600)
    del held


@dataclass
class Arithmetic:
    """A predictor without torch, whose processes start in a blink: sums over a crystal's own atoms."""

    targets: tuple[Target, ...]
    max_atoms: int
    pool: ThreadPoolExecutor
    embedding: int = 0

    def __call__(self, crystals: Crystals, stages: Stages) -> Float64:
        with stages.timed("model"):
            starts = crystals.atom_offsets[:-1]
            charge = np.add.reduceat(crystals.numbers.astype(float), starts)
            spread = np.add.reduceat(np.abs(crystals.positions).sum(axis=1), starts)
            return np.stack([np.sin(charge + k) * spread for k in range(len(self.targets))], axis=1)

    def shrink(self, atoms: int) -> None:
        self.max_atoms = min(self.max_atoms, atoms)

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)


def place_of(job: Job) -> Path:
    """The folder that a run is in, where crystals look for files and leave some."""
    return job.shards.parent.parent


def arithmetic(job: Job) -> Predictor:
    """Sums, with the crystals' marks heeded."""
    pool = ThreadPoolExecutor(job.threads or 1, thread_name_prefix="predict")
    return Harmful(Arithmetic(job.stamp.targets, job.max_atoms, pool), place_of(job))


def slow_arithmetic(job: Job) -> Predictor:
    """The same, ten milliseconds per crystal."""
    return replace(arithmetic(job), seconds_per_crystal=1e-2)  # type: ignore[type-var]


def is_trial(crystals: Crystals) -> bool:
    """Whether this is what a worker is tried out with, and no crystal of a run."""
    return set(crystals.ids) == {SALT.id}


@dataclass
class Gated(Harmful):
    """Predicts no more when a few shards are there, until a file `gate` in `place` allows so many, or any number."""

    shards: Path = Path()

    def __call__(self, crystals: Crystals, stages: Stages) -> Float64:
        if not is_trial(crystals):
            wait_for(lambda: self._is_open, timeout=3600, every=0.05)
        return super().__call__(crystals, stages)

    @property
    def _is_open(self) -> bool:
        allowed = str(FREE)
        with contextlib.suppress(FileNotFoundError):
            allowed = (self.place / "gate").read_text()
        return allowed == "" or len(list(self.shards.iterdir())) < int(allowed)


def gated(job: Job) -> Predictor:
    """Sums, behind a gate."""
    return Gated(arithmetic(job), place_of(job), shards=job.shards)


def gated_model(job: Job) -> Predictor:
    """The model of a job, behind a gate."""
    return Gated(load_predictor(job), place_of(job), shards=job.shards)


@dataclass
class Slow(Harmful):
    """Predicts nothing that it is given until there is `gate` in `place`; says that it has something by a file."""

    def __call__(self, crystals: Crystals, stages: Stages) -> Float64:
        if not is_trial(crystals):
            (self.place / "slow-has").touch()
            wait_for(lambda: (self.place / "gate").exists(), timeout=3600)
        return super().__call__(crystals, stages)


@dataclass
class Quick(Harmful):
    """Begins when the slow one has something."""

    def __call__(self, crystals: Crystals, stages: Stages) -> Float64:
        if not is_trial(crystals):
            wait_for(lambda: (self.place / "slow-has").exists(), timeout=3600)
        return super().__call__(crystals, stages)


def slow_or_quick(job: Job) -> Predictor:
    """Sums; the first process to come is slow, and no other begins before that one has something to do."""
    try:
        (place_of(job) / "slow").touch(exist_ok=False)
    except FileExistsError:
        return Quick(arithmetic(job), place_of(job))
    return Slow(arithmetic(job), place_of(job))


def seen_gpus(job: Job) -> Predictor:
    """Sums behind a gate, with a note beside the shards of the GPU that Slurm gave to this worker."""
    node, gpu = os.environ["SLURMD_NODENAME"], os.environ["CUDA_VISIBLE_DEVICES"]
    (job.shards.parent / f"gpu-{os.getpid()}").write_text(f"{node} {gpu}")
    return gated(job)


def harmful(job: Job) -> Predictor:
    """Load the model of a job into a predictor that heeds marks."""
    return Harmful(load_predictor(job), place_of(job))


def deadly_to_load(job: Job) -> Predictor:
    """Kill the process before there is a predictor."""
    os.kill(os.getpid(), signal.SIGKILL)
    return arithmetic(job)


def unwell_in_one_process(job: Job) -> Predictor:
    """Sums; but the first process that loads this cannot write to the disk."""
    from screening.runs import worker

    def refuse(*arguments: object, **named: object) -> Path:
        raise ResourceError("rows-0.h5: cannot be written (Stale file handle)")

    with contextlib.suppress(FileExistsError):
        (place_of(job) / "unwell").touch(exist_ok=False)
        worker.write_shard = refuse  # type: ignore[attr-defined]
    return arithmetic(job)


def unfit_in_one_process(job: Job) -> Predictor:
    """Sums; but the first process that loads this is on a machine that will not do."""
    with contextlib.suppress(FileExistsError):
        (place_of(job) / "unfit").touch(exist_ok=False)
        raise ResourceError("/scratch: no space is left on this node")
    return arithmetic(job)


class OutOfMemoryError(RuntimeError):
    """Named as that of torch."""


@dataclass
class Crowded(Harmful):
    """Predicts a few batches; then another program has the memory of its device, and nothing fits any more."""

    batches: int = 0

    def __call__(self, crystals: Crystals, stages: Stages) -> Float64:
        self.batches += not is_trial(crystals)
        if self.batches > FREE:
            raise OutOfMemoryError("2 MiB were asked for, and 1 MiB is free")
        return super().__call__(crystals, stages)


def crowded_in_one_process(job: Job) -> Predictor:
    """Sums; but the memory of the first process that loads this is taken by somebody else."""
    try:
        (place_of(job) / "crowded").touch(exist_ok=False)
    except FileExistsError:
        return arithmetic(job)
    return Crowded(arithmetic(job), place_of(job))


def unloadable(job: Job) -> Predictor:
    """Raise what nobody foresaw."""
    raise RuntimeError("the driver of this GPU is too old")


def job_of(folder: Path, packed: Path, model: Path, **options: Any) -> Job:
    """A job whose shards go to a folder, which is made."""
    from screening.crystals.packed import PackedCrystals
    from screening.models.header import read_card

    folder.mkdir(exist_ok=True)
    with PackedCrystals(packed) as file:
        stamp = Stamp(model_hash(model), file.fingerprint, read_card(model)[1])
    return Job(folder, packed, model, stamp, **{"threads": 1, **options})


def reference(folder: Path, job: Job, cuts: Sequence[int] = ()) -> dict[str, Any]:
    """Columns of the results that a job ends in, computed in this process without any cluster."""
    from screening.crystals.packed import PackedCrystals
    from screening.store.record import SHARDS, record_of, write_record

    (folder / SHARDS).mkdir(parents=True)
    with PackedCrystals(job.packed) as packed:
        rows = len(packed)
    compute(replace(job, shards=folder / SHARDS), *pairwise([0, *cuts, rows]))
    write_record(record_of(folder, job.stamp, job.packed, rows))
    merge(folder)
    return columns_of(folder)


def columns_of(run: Path) -> dict[str, Any]:
    """All columns of merged results but how they came about, as bytes with their types."""
    found: dict[str, Any] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("shards/"):
            found[name] = (str(item.dtype), item.shape, item[()].tobytes())

    with h5py.File(run / "results.h5", "r") as file:
        file.visititems(keep)
    return found


def assert_same_columns(ours: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    """Assert that two results are equal to the last byte."""
    assert sorted(ours) == sorted(right)
    assert [name for name in right if ours[name] != right[name]] == []


SCRIPT = """
import sys
sys.path[:0] = {path!r}
import screens
if __name__ == "__main__":
    {before}
from screening.cli import app, main
from screening.runs import screen as module

if __name__ == "__main__":
    before = module.screen
    module.screen = lambda *arguments, **named: before(*arguments, load=screens.{load}, **named)
    main()
"""


def started(folder: Path, load: str, *arguments: object, before: str = "pass") -> "subprocess.Popen[str]":
    """Start `screening` with a predictor of this module, in a session of its own; `before` is done there first."""
    script = folder / f"run_{load}.py"
    script.write_text(SCRIPT.format(path=sys.path, load=load, before=before), encoding="utf-8")
    command = [sys.executable, str(script), *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    STARTED.append(process)
    return process


def end_all() -> None:
    """Kill what was started and still runs, with all its children."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def limit_files(size: int) -> None:
    """Let no file of this process and its children grow beyond so many bytes, as a full disk would."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def give_up_privilege() -> None:
    """Let permissions bind this process and its children, even root's: give up CAP_DAC_OVERRIDE and _READ_SEARCH."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    sets[0], sets[1] = sets[0] & ~6, sets[1] & ~6
    assert libc.capset(header, sets) == 0


def ended(process: "subprocess.Popen[str]", timeout: float = 600) -> tuple[int, str, str]:
    """Wait for a command: its exit code, what it printed, and its errors."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors


def wait_for(condition: Callable[[], object], timeout: float = 240, *, every: float = 0.01) -> None:
    """Wait until a condition holds, looking `every` so many seconds: seldom at what costs a process to look at."""
    until = time.monotonic() + timeout * PATIENCE
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(every)


@cache
def predictions_of(packed: Path, model: Path) -> dict[str, dict[str, float]]:
    """What the model predicts for each id, in one process and one batch after another."""
    from screening.crystals.packed import PackedCrystals
    from screening.inference import predict
    from screening.models import checkpoint

    loaded, _ = checkpoint.load(model)
    found: dict[str, dict[str, float]] = {}
    with PackedCrystals(packed) as file:
        batches = [replace(b, numbers=np.where(b.numbers > 98, 1, b.numbers).astype(np.uint8)) for b in file.batches()]
    for part in predict(loaded, batches, threads=1):
        for k, id in enumerate(part.ids):
            found[id] = {name: float(np.float32(values[k])) for name, values in part.values.items()}
    return found


def values_of(run: Path) -> dict[str, list[bytes]]:
    """The values of each crystal in merged results, as bytes, by id."""
    with h5py.File(run / "results.h5", "r") as file:
        columns = [file["targets"][name][()] for name in sorted(file["targets"])]
        return {id.decode(): [c[k].tobytes() for c in columns] for k, id in enumerate(file["id"][()])}


def compute(job: Job, *ranges: tuple[int, int]) -> None:
    """Do ranges of rows of a job in this process."""
    from screening.runs.plan import Lease, Rows
    from screening.runs.worker import Engine

    engine = Engine(job)
    for number, (start, stop) in enumerate(ranges):
        engine.compute(Lease(number, Rows(start, stop), "here"))
    engine.close()


def rows_of_nothing(crystals: Crystals, start: int, targets: Sequence[Target]) -> ShardRows:
    """Rows that nobody could predict."""
    rows = ShardRows.of(start, crystals, targets)
    failures = [Failure(row, "model_error", "made up") for row in range(rows.start, rows.stop)]
    return replace(rows, status=np.full(len(rows), Status.FAILED, np.uint8), failures=failures)
