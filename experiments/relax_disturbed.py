"""Do real crystals come back when they are disturbed? Moves atoms and strains cells at random, and relaxes them.

    .venv/bin/python experiments/relax_disturbed.py sieve-forces ../shared/data/mp36k/val.extxyz.gz

The potential is the shipped one, or the folder of a run of `screening train-forces`. Of the first crystals that have
at most 24 atoms it tells how their relaxations ended, how far energies fell, where volumes ended, and how far what the
shipped model predicts is from what it predicts of the crystals at rest, before and after: a potential that brings it no
nearer is of no use to a screen of candidates near equilibrium. With `--ase` the same potential relaxes some one by one,
with `--chgnet` CHGNet all.
"""

import argparse
import importlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import filters
from ase.optimize import FIRE

from screening.arrays import Bool, Float64
from screening.crystals.batch import Crystals
from screening.crystals.convert import crystal_to_ase
from screening.crystals.crystal import Crystal
from screening.crystals.read import read
from screening.inference import predict
from screening.models import checkpoint
from screening.pretrained.shipped import load_model, model_file
from screening.relaxation.calculator import Calculator
from screening.relaxation.potential import Potential
from screening.relaxation.relax import Outcome, Relaxed, relax
from screening.relaxation_limits import RelaxationLimits

COUNT, MOST_ATOMS, SEED = 200, 24, 0
MOVED, STRAINED = 0.1, 0.02
STEPS = 300
PREDICTED = ("formation_energy_per_atom", "band_gap", "efermi")


def disturbed(crystals: Crystals, moved: float = MOVED, strained: float = STRAINED) -> Crystals:
    """Crystals with every atom moved and every cell strained."""
    rng = np.random.default_rng(SEED)
    strain = strained * rng.standard_normal((len(crystals), 3, 3))
    deformation = np.eye(3) + (strain + strain.transpose(0, 2, 1)) / 2
    each = np.repeat(deformation, crystals.atom_counts, axis=0)
    positions = np.einsum("ab,abc->ac", crystals.positions, each)
    return crystals.moved(
        np.einsum("cij,cjk->cik", crystals.lattice, deformation),
        positions + moved * rng.standard_normal(positions.shape),
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


def say_how_near(resting: Crystals, begun: Crystals, ended: Mapping[str, Crystals], whole: Bool) -> None:
    """Print volumes, and how far predictions are from those of the crystals at rest, of what is whole."""
    at_rest = predictions(resting)
    for name, some in ({"disturbed": begun} | dict(ended)).items():
        low, middle, high = np.quantile((volumes(some) / volumes(resting))[whole], [0.05, 0.5, 0.95])
        print(f"volumes of the {name}, of the original: {middle:.2f}, nine of ten from {low:.2f} to {high:.2f}")
        away = {target: np.abs(values - at_rest[target])[whole] for target, values in predictions(some).items()}
        told = ", ".join(f"{target} {np.mean(far):.3f} ({np.median(far):.3f})" for target, far in away.items())
        print(f"predictions of the {name} are away from those at rest in the mean (median): {told} eV")


@dataclass(frozen=True, slots=True)
class OneByOne:
    """What ASE's FIRE made of crystals, one after the other."""

    crystals: Crystals
    energies: Float64
    converged: Bool
    seconds: float


def relaxed_by_ase(begun: Crystals, calculator: Calculator | Any) -> OneByOne:
    """Relax crystals one by one, to the same force, in as many steps at most."""
    # Of functions of ASE that have no annotations.
    with_cell: Any = filters.UnitCellFilter
    started, ended, energies, converged = time.perf_counter(), [], [], []
    for crystal in begun:
        atoms: Any = crystal_to_ase(crystal)
        atoms.calc = calculator
        converged.append(bool(FIRE(with_cell(atoms), logfile=None).run(fmax=RelaxationLimits().force, steps=STEPS)))
        energies.append(atoms.get_potential_energy())
        ended.append(replace(crystal, lattice=np.array(atoms.cell), positions=atoms.get_positions()))
    seconds = time.perf_counter() - started
    return OneByOne(Crystals.of(ended), np.array(energies), np.array(converged), seconds)


def say_beside(name: str, theirs: OneByOne, each: float) -> None:
    """Print how many converged, and how long a crystal takes."""
    count = len(theirs.crystals)
    taken = theirs.seconds / count
    times = f"a crystal takes {taken:.3f} s, in our batch {each:.4f} s: {taken / each:.0f} times"
    print(f"{name}, one by one: {theirs.converged.sum()} of {count} converged; {times}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Disturb, relax, tell."""
    chosen = _parser().parse_args(arguments)
    small = (c for c in read(chosen.crystals) if isinstance(c, Crystal) and len(c.numbers) <= MOST_ATOMS)
    resting = Crystals.of(islice(small, chosen.count))
    begun = disturbed(resting, chosen.moved, chosen.strained)
    model, _ = checkpoint.load(model_file(chosen.potential))
    with Potential(model, threads=chosen.threads) as surfaces:
        started = time.perf_counter()
        found = list(relax(surfaces, [begun], RelaxationLimits(steps=STEPS)))
        seconds = time.perf_counter() - started
    rate = f"{len(found) / seconds:.1f} crystals/s"
    print(f"{len(found)} crystals, {len(resting.numbers)} atoms, {seconds:.1f} s with {chosen.threads} threads: {rate}")
    say_how_they_ended(found)
    whole = np.array([one.outcome is not Outcome.DIVERGED for one in found])
    ended = {"relaxed": Crystals.of(one.crystal for one in found)}
    if chosen.chgnet:
        torch.set_num_threads(chosen.threads)
        calculator = importlib.import_module("chgnet.model").CHGNetCalculator(use_device="cpu", verbose=False)
        theirs = relaxed_by_ase(begun, calculator)
        say_beside("CHGNet in ASE", theirs, seconds / len(found))
        ended["relaxed by CHGNet"] = theirs.crystals
    say_how_near(resting, begun, ended, whole)
    if chosen.ase:
        ours = found[: chosen.ase]
        theirs = relaxed_by_ase(begun[: chosen.ase], Calculator(model, threads=chosen.threads))
        say_beside("the same potential in ASE", theirs, seconds / len(found))
        both = theirs.converged & np.array([one.outcome is Outcome.CONVERGED for one in ours])
        apart = np.abs(theirs.energies - [one.energy for one in ours]) / theirs.crystals.atom_counts
        print(f"its energies are {np.median(apart[both]):.4f} eV/atom from those in a batch in the median")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Disturb crystals and relax them.")
    parser.add_argument("potential", metavar="POTENTIAL", help="a shipped name, the folder of a run, or its model")
    parser.add_argument("crystals", nargs="+", type=Path, metavar="CRYSTALS", help="files of crystals at rest")
    parser.add_argument("--count", type=int, default=COUNT, help="how many crystals")
    parser.add_argument("--moved", type=float, default=MOVED, help="deviation of each coordinate, angstrom")
    parser.add_argument("--strained", type=float, default=STRAINED, help="deviation of each component of the strain")
    parser.add_argument("--ase", type=int, default=0, metavar="N", help="relax the first N by ASE too, one by one")
    parser.add_argument(
        "--chgnet", action="store_true", help="relax all by CHGNet in ASE too (make bench-peers has it)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads that compute")
    return parser


if __name__ == "__main__":
    main()
