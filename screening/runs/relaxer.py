"""The potential in a worker process: crystals in, how relaxing them ended out. Loads torch; workers alone import it.

Each thread that calls it relaxes crystals of its own, which changes no bit on the CPU.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from screening.arrays import Float32, Float64
from screening.crystals.batch import Crystals
from screening.errors import ResourceError
from screening.inference import usable_device
from screening.models.checkpoint import load
from screening.predictions import Target
from screening.relaxation.potential import Potential, Surface
from screening.relaxation.relax import Relaxed, relax
from screening.relaxation_limits import Relaxation
from screening.runs.predictor import recover
from screening.runs.stages import Stages
from screening.store.relaxed import RelaxedRows
from screening.store.rows import volumes_per_atom
from screening.store.schema import Ending

# Atoms that move together. Larger batches are no faster on a CPU, and leave threads without one.
ON_CPU, ON_GPU = 1_000, 10_000
# Edges that derivatives are worked out for at once, for each of these atoms.
EDGES_PER_ATOM = 60


class PotentialRelaxer:
    """A potential on a device that relaxes batches, each in the thread that asks for it."""

    def __init__(
        self, potential: Potential, relaxation: Relaxation, *, atoms: int, max_atoms: int | None = None
    ) -> None:
        self._potential, self._relaxation, self._atoms = potential, relaxation, atoms
        self.max_atoms = max_atoms or atoms
        on_cpu = potential.device.type == "cpu"
        self._turn: AbstractContextManager[object] = nullcontext() if on_cpu else threading.Lock()

    @classmethod
    def load(
        cls, path: Path, relaxation: Relaxation, *, device: str, atoms: int | None, max_atoms: int
    ) -> "PotentialRelaxer":
        """Load a potential onto a device. On a GPU, crystals of up to `max_atoms` wait for room among those `atoms`."""
        place = usable_device(device)
        model, _ = load(path, device=place)
        on_cpu = place.type == "cpu"
        atoms = atoms or (ON_CPU if on_cpu else ON_GPU)
        potential = Potential(model, device=place, threads=1, max_atoms=atoms, max_edges=EDGES_PER_ATOM * atoms)
        return cls(potential, relaxation, atoms=atoms, max_atoms=None if on_cpu else max(max_atoms, atoms))

    def __call__(self, crystals: Crystals, stages: Stages, sign: Callable[[], object]) -> RelaxedRows:
        """Relax crystals, with a sign of life for each step."""
        watched = _Watched(self._potential, self._turn, sign)
        try:
            with stages.timed("relax"):
                found = list(relax(watched, [crystals], self._relaxation, atoms=self._atoms))
        except (RuntimeError, ResourceError) as error:
            recover(self._potential.device, error)
            raise
        return relaxed_rows(crystals, found)

    def try_out(self, crystals: Crystals) -> None:
        """See that the potential gives forces here."""
        self._potential.here(crystals)

    def shrink(self, atoms: int) -> None:
        """Be given at most so many atoms at once from now on."""
        self.max_atoms = max(1, min(self.max_atoms, atoms))
        self._atoms = max(1, min(self._atoms, atoms))

    def close(self) -> None:
        """Let go of the memory of a GPU."""
        self._potential.model.to("cpu")


@dataclass(frozen=True, slots=True)
class _Watched:
    """A potential that works in the thread that asks, gives a sign of life each time, and is asked by one at a time."""

    potential: Potential
    turn: AbstractContextManager[object]
    sign: Callable[[], object]

    @property
    def energy_target(self) -> Target:
        return self.potential.energy_target

    def __call__(self, crystals: Crystals) -> Surface:
        self.sign()
        with self.turn:
            return self.potential.here(crystals)


def relaxed_rows(crystals: Crystals, found: Sequence[Relaxed]) -> RelaxedRows:
    """How these crystals, each of which was relaxed, ended, as columns."""
    ending = np.array([Ending[one.outcome.name] for one in found], np.uint8)
    counts = crystals.atom_counts.astype(np.float64)
    there = Crystals.of(one.crystal for one in found)
    with np.errstate(invalid="ignore", over="ignore"):
        change = volumes_per_atom(there) / volumes_per_atom(crystals) - 1
    kept = there.take([k for k, code in enumerate(ending.tolist()) if Ending(code).has_atoms])
    return RelaxedRows(
        ending=ending,
        steps=np.array([one.steps for one in found], np.uint32),
        energy_before=_finite(np.array([one.energy_before for one in found]) / counts),
        energy=_finite(np.array([one.energy for one in found]) / counts),
        force=_finite(np.array([one.force for one in found])),
        stress=_finite(np.array([one.stress for one in found])),
        volume_change=_finite(change),
        atom_counts=kept.atom_counts.astype(np.int64),
        lattice=kept.lattice,
        positions=kept.positions,
    )


def _finite(values: Float64) -> Float32:
    """Numbers as columns have them; NaN for what is none, or too large."""
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    return np.where(np.isfinite(numbers), numbers, np.float32(np.nan))
