"""A model as a calculator of ASE, for one crystal at a time: its optimisers, molecular dynamics, phonons."""

from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from screening.crystals.batch import Crystals
from screening.crystals.convert import crystal_from_ase
from screening.models.model import CrystalModel
from screening.relaxation.potential import Potential


class Calculator(AseCalculator):
    """Energy, forces and stress of `ase.Atoms` by a model of `screening train-forces`.

    Stress is there for crystals that are periodic in all directions.

    >>> atoms.calc = screening.Calculator(model)
    >>> ase.optimize.BFGS(ase.filters.FrechetCellFilter(atoms)).run(fmax=0.05)
    """

    implemented_properties: list[str] = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def __init__(
        self, model: CrystalModel, *, device: torch.device | str = "cpu", threads: int | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)  # type: ignore[no-untyped-call]
        self._potential = Potential(model, device=device, threads=threads)

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: Any = all_changes
    ) -> None:
        """Evaluate everything at once: the model gives all of it for little more than the energy."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        given: Any = self.atoms
        bare = Atoms(given.numbers, positions=given.positions, cell=given.cell, pbc=given.pbc)
        found = self._potential(Crystals.of([crystal_from_ase(bare, id="atoms")]))
        energy = float(found.energy[0])
        self.results = {"energy": energy, "free_energy": energy, "forces": found.forces}
        if not np.isnan(found.stress).any():
            self.results["stress"] = full_3x3_to_voigt_6_stress(found.stress[0])  # type: ignore[no-untyped-call]
        elif properties and "stress" in properties:
            raise PropertyNotImplementedError("a crystal that is not periodic in all directions has no stress")
