"""Do real crystals come back when they are disturbed? Moves atoms and strains cells at random, and relaxes them.

    .venv/bin/python experiments/relax_disturbed.py POTENTIAL CRYSTALS...

POTENTIAL is the folder of a run of `screening train-forces`, or its model.safetensors. Of the first crystals that have
at most 24 atoms it tells how their relaxations ended, how far energies fell, and where volumes ended.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from screening.arrays import Float64
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.crystals.read import read
from screening.models import checkpoint
from screening.pretrained.shipped import model_file
from screening.relaxation.potential import Potential
from screening.relaxation.relax import Outcome, relax
from screening.relaxation_limits import RelaxationLimits

COUNT, MOST_ATOMS, SEED = 200, 24, 0
MOVED, STRAINED = 0.1, 0.02
"""Deviations: of each coordinate in angstrom, of each component of the strain."""
STEPS = 300


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Disturb, relax, tell."""
    parser = argparse.ArgumentParser(description="Disturb crystals and relax them.")
    parser.add_argument("potential", metavar="POTENTIAL", help="the folder of a run, or its model.safetensors")
    parser.add_argument("crystals", nargs="+", type=Path, metavar="CRYSTALS", help="files of crystals at rest")
    chosen = parser.parse_args(arguments)
    small = (c for c in read(chosen.crystals) if isinstance(c, Crystal) and len(c.numbers) <= MOST_ATOMS)
    resting = Crystals.of(islice(small, COUNT))
    begun = disturbed(resting)
    potential, _ = checkpoint.load(model_file(chosen.potential))
    with Potential(potential) as surfaces:
        started = time.process_time()
        found = list(relax(surfaces, [begun], RelaxationLimits(steps=STEPS)))
        spent = time.process_time() - started
    ended = Counter(one.outcome for one in found)
    print(f"{len(found)} crystals, {len(resting.numbers)} atoms, {spent:.0f} s of processor time")
    print(", ".join(f"{ended[outcome]} {outcome}" for outcome in Outcome))
    steps = [one.steps for one in found if one.outcome is Outcome.CONVERGED]
    print(f"converged in {np.median(steps):.0f} steps in the median, {max(steps)} at most")
    whole = np.array([one.outcome is not Outcome.DIVERGED for one in found])
    fallen = np.array([one.energy_before - one.energy for one in found])[whole]
    print(f"the energy fell for {(fallen > 0).sum()} of {len(fallen)}, by {np.median(fallen):.2f} eV in the median")
    now = Crystals.of(one.crystal for one in found)
    for name, some in (("disturbed", begun), ("relaxed", now)):
        ratio = (volumes(some) / volumes(resting))[whole]
        low, middle, high = np.quantile(ratio, [0.05, 0.5, 0.95])
        print(f"volumes of the {name}, of the original: {middle:.2f}, nine of ten from {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
