r"""Label disturbed crystals with CHGNet: energies, forces and stresses for a potential of our own to learn.

    make bench-peers                                            installs CHGNet, which nothing else here needs
    .venv/bin/screening enumerate examples/million.toml --set max_crystals=9000 -o runs/candidates.h5
    .venv/bin/python experiments/chgnet_labels.py ../shared/data/mp36k/train.extxyz.gz runs/candidates.h5 \
        --each 9000 --output runs/chgnet.extxyz

CHGNet (Deng et al., Nature Machine Intelligence 2023, doi:10.1038/s42256-023-00716-3) learned 1.6 million frames of
relaxations of the Materials Project. Of each input so many crystals of at most 24 atoms are drawn; every one is
strained, its volume changed and its atoms moved, by a deviation of its own, so that the labels hold wells from their
bottoms to their walls. What CHGNet finds to have a larger force than any relaxation should see is left out.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.units import GPa

from screening.crystals.convert import crystal_to_pymatgen
from screening.crystals.crystal import Crystal
from screening.crystals.read import read
from screening.crystals.write import write

MOST_ATOMS = 24
SEED = 0
TOGETHER = 16
MOVED, STRAINED, SWOLLEN = 0.2, 0.04, 0.06
"""The largest deviations: of a coordinate (angstrom), of a component of strain, of the logarithm of all lengths."""
LARGEST_FORCE = 20.0


def drawn(file: Path, count: int, rng: np.random.Generator) -> list[Crystal]:
    """Draw small crystals of a file; all, if there are fewer."""
    small = [one for one in read([file]) if isinstance(one, Crystal) and len(one) <= MOST_ATOMS and all(one.pbc)]
    rows = np.sort(rng.permutation(len(small))[:count])
    return [small[row] for row in rows]


def disturbed(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Strain a crystal and move its atoms, by deviations between none and the largest."""
    strain = STRAINED * rng.random() * rng.standard_normal((3, 3))
    deformation = (np.eye(3) + (strain + strain.T) / 2) * np.exp(SWOLLEN * rng.random() * rng.standard_normal())
    moved = MOVED * rng.random() * rng.standard_normal(crystal.positions.shape)
    return replace(
        crystal, positions=crystal.positions @ deformation + moved, lattice=crystal.lattice @ deformation, labels={}
    )


def labelled(crystals: Sequence[Crystal], teacher: Any) -> Iterator[Crystal]:
    """What CHGNet says of crystals, without those that it would tear apart or has no graph of."""
    for start in range(0, len(crystals), TOGETHER):
        some = crystals[start : start + TOGETHER]
        structures = [crystal_to_pymatgen(crystal) for crystal in some]
        for crystal, found in zip(some, teacher.predict_structure(structures, task="efs"), strict=True):
            numbers = {name: np.asarray(found[name], dtype=np.float64) for name in "efs"}
            finite = all(np.isfinite(values).all() for values in numbers.values())
            if finite and np.abs(numbers["f"]).max() <= LARGEST_FORCE:
                stress = GPa * (numbers["s"] + numbers["s"].T) / 2
                energy = float(numbers["e"]) * len(crystal)
                yield replace(crystal, labels={"energy": energy}, forces=numbers["f"], stress=stress)


def load_teacher() -> Any:
    """CHGNet with the weights of its package."""
    teacher = importlib.import_module("chgnet.model").CHGNet.load(use_device="cpu", verbose=False)
    teacher.graph_converter.set_isolated_atom_response("ignore")
    return teacher


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, disturb, label, write."""
    parser = argparse.ArgumentParser(description="Label disturbed crystals with CHGNet.")
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="crystals, in any form that is read")
    parser.add_argument("--each", type=int, required=True, metavar="N", help="draw so many of each input")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.extxyz", help="the file to write")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    rng = np.random.default_rng(SEED)
    begun = [disturbed(crystal, rng) for file in chosen.inputs for crystal in drawn(file, chosen.each, rng)]
    count = write(labelled(begun, load_teacher()), chosen.output, format="extxyz")
    print(f"{chosen.output}: {count:,} of {len(begun):,} crystals", file=sys.stderr)


if __name__ == "__main__":
    main()
