"""Do real crystals come back when they are disturbed? Moves atoms and strains cells at random, and relaxes them.

    .venv/bin/python experiments/relax_disturbed.py POTENTIAL CRYSTALS...

POTENTIAL is the folder of a run of `screening train-forces`, or its model.safetensors. Of the first crystals that have
at most 24 atoms it tells how their relaxations ended, how far energies fell, where volumes ended, and how far what the
shipped model predicts is from what it predicts of the crystals at rest, before and after: a potential that brings it no
nearer is of no use to a screen of candidates near equilibrium. With `--ase` the same model relaxes some one by one.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase import filters
from ase.optimize import FIRE

from screening.arrays import Float64
from screening.crystals.batch import Crystals
from screening.crystals.convert import crystal_to_ase
from screening.crystals.crystal import Crystal
from screening.crystals.read import read
from screening.inference import predict
from screening.models import checkpoint
from screening.models.model import CrystalModel
from screening.pretrained.shipped import load_model, model_file
from screening.relaxation.calculator import Calculator
from screening.relaxation.potential import Potential
from screening.relaxation.relax import Outcome, Relaxed, relax
from screening.relaxation_limits import RelaxationLimits

COUNT, MOST_ATOMS, SEED = 200, 24, 0
MOVED, STRAINED = 0.1, 0.02
"""Deviations: of each coordinate in angstrom, of each component of the strain."""
STEPS = 300
PREDICTED = ("formation_energy_per_atom", "band_gap", "efermi")


def disturbed(crystals: Crystals) -> Crystals:
    """Crystals with every atom moved and every cell strained."""
    rng = np.random.default_rng(SEED)
    strain = STRAINED * rng.standard_normal((len(crystals), 3, 3))
    deformation = np.eye(3) + (strain + strain.transpose(0, 2, 1)) / 2
    each = np.repeat(deformation, crystals.atom_counts, axis=0)
    positions = np.einsum("ab,abc->ac", crystals.positions, each)
    return crystals.moved(
        np.einsum("cij,cjk->cik", crystals.lattice, deformation),
        positions + MOVED * rng.standard_normal(positions.shape),
    )


def volumes(crystals: Crystals) -> Float64:
    """Volume of each cell."""
    found: Float64 = np.abs(np.linalg.det(crystals.lattice))
    return found


def predictions(crystals: Crystals) -> dict[str, Float64]:
    """What the shipped model says of crystals, by target."""
    model, _ = load_model()
    parts = list(predict(model, crystals))
    return {name: np.concatenate([part.values[name] for part in parts]) for name in PREDICTED}


def say_how_they_ended(found: Sequence[Relaxed]) -> None:
    """Print outcomes, steps, and how far energies fell."""
    ended = Counter(one.outcome for one in found)
    print(", ".join(f"{ended[outcome]} {outcome}" for outcome in Outcome))
    steps = [one.steps for one in found if one.outcome is Outcome.CONVERGED]
    print(f"converged in {np.median(steps):.0f} steps in the median, {max(steps)} at most")
    fallen = np.array([one.energy_before - one.energy for one in found if one.outcome is not Outcome.DIVERGED])
    print(f"the energy fell for {(fallen > 0).sum()} of {len(fallen)}, by {np.median(fallen):.2f} eV in the median")


def say_how_near(resting: Crystals, begun: Crystals, found: Sequence[Relaxed]) -> None:
    """Print volumes, and how far predictions are from those of the crystals at rest, of what has not diverged."""
    whole = np.array([one.outcome is not Outcome.DIVERGED for one in found])
    at_rest = predictions(resting)
    for name, some in (("disturbed", begun), ("relaxed", Crystals.of(one.crystal for one in found))):
        low, middle, high = np.quantile((volumes(some) / volumes(resting))[whole], [0.05, 0.5, 0.95])
        print(f"volumes of the {name}, of the original: {middle:.2f}, nine of ten from {low:.2f} to {high:.2f}")
        away = {target: np.abs(values - at_rest[target])[whole] for target, values in predictions(some).items()}
        told = ", ".join(f"{target} {np.mean(far):.3f} ({np.median(far):.3f})" for target, far in away.items())
        print(f"predictions of the {name} are away from those at rest in the mean (median): {told} eV")


def say_beside_ase(model: CrystalModel, begun: Crystals, found: Sequence[Relaxed], each: float, threads: int) -> None:
    """Relax the same crystals one by one by ASE's FIRE, and print what a crystal takes, and where both end."""
    calculator = Calculator(model, threads=threads)
    # Of functions of ASE that have no annotations.
    with_cell: Any = filters.UnitCellFilter
    started, apart, converged = time.perf_counter(), [], 0
    for crystal, ours in zip(begun, found, strict=True):
        atoms: Any = crystal_to_ase(crystal)
        atoms.calc = calculator
        done = FIRE(with_cell(atoms), logfile=None).run(fmax=RelaxationLimits().force, steps=STEPS)
        converged += done
        if done and ours.outcome is Outcome.CONVERGED:
            apart.append(abs(atoms.get_potential_energy() - ours.energy) / len(atoms))
    taken = (time.perf_counter() - started) / len(begun)
    print(f"ASE, one by one: {converged} of {len(begun)} converged; energies are {np.median(apart):.4f} eV/atom apart")
    print(f"in the median; a crystal takes {taken:.3f} s, in a batch {each:.4f} s: {taken / each:.1f} times as long")


def main(arguments: Sequence[str] | None = None) -> None:
    """Disturb, relax, tell."""
    parser = argparse.ArgumentParser(description="Disturb crystals and relax them.")
    parser.add_argument("potential", metavar="POTENTIAL", help="the folder of a run, or its model.safetensors")
    parser.add_argument("crystals", nargs="+", type=Path, metavar="CRYSTALS", help="files of crystals at rest")
    parser.add_argument("--count", type=int, default=COUNT, help="how many crystals")
    parser.add_argument("--ase", type=int, default=0, metavar="N", help="relax the first N by ASE too, one by one")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute")
    chosen = parser.parse_args(arguments)
    small = (c for c in read(chosen.crystals) if isinstance(c, Crystal) and len(c.numbers) <= MOST_ATOMS)
    resting = Crystals.of(islice(small, chosen.count))
    begun = disturbed(resting)
    model, _ = checkpoint.load(model_file(chosen.potential))
    with Potential(model, threads=chosen.threads) as surfaces:
        started = time.perf_counter()
        found = list(relax(surfaces, [begun], RelaxationLimits(steps=STEPS)))
        seconds = time.perf_counter() - started
    rate = f"{len(found) / seconds:.1f} crystals/s"
    print(f"{len(found)} crystals, {len(resting.numbers)} atoms, {seconds:.1f} s with {chosen.threads} threads: {rate}")
    say_how_they_ended(found)
    say_how_near(resting, begun, found)
    if chosen.ase:
        say_beside_ase(model, begun[: chosen.ase], found[: chosen.ase], seconds / len(found), chosen.threads)


if __name__ == "__main__":
    main()
