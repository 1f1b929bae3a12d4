"""Small runs that relax crystals: an untrained potential that moves them, and relaxers that crystals harm.

Worker processes import this module by its name; what is here must not depend on pytest.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import screens
from made import made_crystals
from sizes import SMOOTH, small

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Reason, Rejection
from screening.crystals.packed_writer import PackedWriter
from screening.predictions import Target
from screening.relaxation_limits import Relaxation
from screening.runs.config import RelaxationSettings
from screening.runs.piece import Relaxer
from screening.runs.stages import Stages
from screening.runs.worker import Job, Predictor, load_relaxer, model_hash
from screening.store.relaxed import RelaxedRows
from screening.store.schema import Stamp

ENERGY = Target("referenced_energy_per_atom", "eV/atom")
# So that some crystals converge, some do not in time, and some swell too much.
SETTINGS = RelaxationSettings(force=0.3, stress=0.05, steps=12, swell=1.15)
COUNT = 48


def saved_potential(path: Path, *, seed: int = 0, std: float = 40.0) -> Path:
    """Write an untrained potential whose forces are as large as those of real ones."""
    import torch

    from screening.models import checkpoint, registry
    from screening.models.header import Card

    torch.manual_seed(seed)
    model = registry.build("sieve", small("sieve") | SMOOTH["sieve"], [ENERGY])
    model.set_scaling([-3.0], [std])
    checkpoint.save(model, path, Card(title="untrained potential", elements=tuple(range(1, 90))))
    return path


def packed_file(path: Path, count: int = COUNT, *, marks: Mapping[int, int] | None = None) -> Path:
    """Pack small crystals of every kind, some marked; two that packing refuses besides."""
    batch = Crystals.of(made_crystals(count, seed=4, max_atoms=6))
    refused = [
        Rejection("x", "x.cif", Reason.EMPTY, "x: no atoms"),
        Rejection("y", "y", Reason.DUPLICATE_ID, "y: again"),
    ]
    with PackedWriter(path) as writer:
        writer.append(screens.marked(batch, marks or {}), refused)
    return path


def relaxing_job(folder: Path, packed: Path, model: Path, potential: Path, **options: Any) -> Job:
    """A job whose workers relax."""
    settings = options.pop("relax", SETTINGS)
    job = screens.job_of(folder, packed, model, **{"potential": potential, **options})
    stamp = job.stamp
    relaxation: Relaxation = settings.relaxation(model_hash(potential))
    return replace(job, stamp=Stamp(stamp.model_hash, stamp.input_fingerprint, stamp.targets, relaxation))


@dataclass
class HarmfulRelaxer:
    """Relaxes as another does, but crystals that are marked raise errors, kill, hang or find no memory."""

    inner: Relaxer
    place: Path

    @property
    def max_atoms(self) -> int:
        return self.inner.max_atoms

    def __call__(self, crystals: Crystals, stages: Stages, sign: Callable[[], object]) -> RelaxedRows:
        first = set(crystals.numbers[crystals.atom_offsets[:-1]].tolist())
        if screens.SEGFAULTS in first:
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)
        if screens.HANGS in first:
            (self.place / "hangs").touch()
            time.sleep(3600)
        if screens.RAISES in first:
            raise ValueError("no such element")
        if screens.TOO_LARGE in first:
            raise MemoryError
        return self.inner(crystals, stages, sign)

    def try_out(self, crystals: Crystals) -> None:
        self.inner.try_out(crystals)

    def shrink(self, atoms: int) -> None:
        self.inner.shrink(atoms)

    def close(self) -> None:
        self.inner.close()


def harmful_relaxer(job: Job) -> Relaxer | None:
    """The potential of a job, with marks heeded."""
    inner = load_relaxer(job)
    return None if inner is None else HarmfulRelaxer(inner, screens.place_of(job))


def with_harmful_relaxer(job: Job) -> Predictor:
    """Sums that heed no marks; but what relaxes does, in this process."""
    object.__setattr__(job, "load_potential", harmful_relaxer)
    return screens.Arithmetic(job.stamp.targets, job.max_atoms, screens.ThreadPoolExecutor(job.threads or 1))


def bytes_of(run: Path) -> dict[str, Any]:
    """All that two equal runs have in common: columns of the results, and the file of relaxed crystals."""
    return screens.columns_of(run) | {"relaxed.h5": (run / "relaxed.h5").read_bytes()}


def numbers_of(crystals: Sequence[Any]) -> list[tuple[bytes, bytes]]:
    """Where atoms are, as bytes."""
    return [(np.asarray(one.positions).tobytes(), np.asarray(one.lattice).tobytes()) for one in crystals]
