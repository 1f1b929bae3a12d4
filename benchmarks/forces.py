"""A training step with forces against eager PyTorch, and relaxations in a batch against one by one through ASE.

The peer of the training step is the same model with every operator of ours replaced by its definition in plain PyTorch,
which makes the tensors of edges x channels that eager code makes; losses are compared first. The loss holds energy,
forces and stress, so that each step differentiates twice. The relaxed crystals are random cells, of the same few steps
each, so that the time of a step is compared and not the number of steps.

    python benchmarks/forces.py [--quick] [--json PATH]
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import timing
import torch
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from made import PERIODIC_KINDS, made_crystals

from screening.crystals.batch import Crystals
from screening.crystals.convert import crystal_to_ase
from screening.graphs import pack_graphs
from screening.models import equivariant_transformer, registry
from screening.models.derivatives import energy_forces_stress
from screening.models.graph_tensors import GraphTensors
from screening.models.model import CrystalModel
from screening.ops import core, message, reference_message, steady
from screening.predictions import Target
from screening.relaxation.calculator import Calculator
from screening.relaxation.potential import Potential
from screening.relaxation.relax import RelaxSettings, relax

TARGET = Target("referenced_energy_per_atom", "eV/atom")
SMOOTH: dict[str, dict[str, Any]] = {
    "sieve": {"cutoff": 5.0, "max_neighbors": "all", "dropout": 0.0},
    "equivariant_transformer": {"cutoff": 5.0},
}
PROMISED_STEP = 3.0
STEPS = 10


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure both with two threads."""
    rows = [step_row(name, 1 if quick else 5, 8 if quick else 32) for name in SMOOTH]
    return [*rows, relaxation_row(20 if quick else 1000)]


def step_row(name: str, rounds: int, count: int) -> timing.Row:
    """A step of energy, forces and stress over so many crystals, ours beside eager PyTorch."""
    torch.manual_seed(0)
    model = registry.build(name, SMOOTH[name], (TARGET,)).eval()
    crystals = Crystals.of(made_crystals(count, seed=1, max_atoms=24, kinds=PERIODIC_KINDS))
    graph = GraphTensors.of(pack_graphs(crystals, model.neighbors), device="cpu", dtype=torch.float32)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0)
    ours = partial(as_we_do, step, model, graph, optimiser)
    eager = partial(as_torch_does, step, model, graph, optimiser)
    torch.testing.assert_close(ours(), eager(), rtol=1e-3, atol=1e-4)
    seconds = timing.interleaved({"ours": ours, "eager": eager}, rounds)
    case = f"{name} step with forces and stress, 2 threads"
    return timing.versus_fastest(case, seconds, ours="ours", count=count, at_least=PROMISED_STEP)


def step(model: CrystalModel, graph: GraphTensors, optimiser: torch.optim.Optimizer) -> float:
    """Differentiate a loss of energy, forces and stress; the rate is 0, so that the weights stay what they are."""
    optimiser.zero_grad()
    found = energy_forces_stress(model, graph, differentiable=True)
    loss = found.energy.abs().mean() + found.forces.abs().mean() + found.stress.abs().mean()
    torch.autograd.backward(loss, inputs=list(model.parameters()))
    optimiser.step()
    return float(loss.detach())


Step = Callable[[CrystalModel, GraphTensors, torch.optim.Optimizer], float]


def as_we_do(act: Step, model: CrystalModel, graph: GraphTensors, optimiser: torch.optim.Optimizer) -> float:
    """Act as training does: all threads to native calls, one to torch."""
    torch.set_num_threads(1)
    with core.using_threads(2):
        return act(model, graph, optimiser)


def as_torch_does(act: Step, model: CrystalModel, graph: GraphTensors, optimiser: torch.optim.Optimizer) -> float:
    """Act with all threads for torch."""
    torch.set_num_threads(2)
    with eager_operators():
        return act(model, graph, optimiser)


@contextmanager
def eager_operators() -> Iterator[None]:
    """Put plain PyTorch in place of every operator of ours."""
    plain = torch.nn.functional
    with (
        mock.patch.object(message, "edge_conv", reference_message.edge_conv),
        mock.patch.object(message, "segment_sum", reference_message.segment_sum),
        mock.patch.object(equivariant_transformer, "vector_attention", reference_message.vector_attention),
        mock.patch.object(steady, "linear", plain.linear),
        mock.patch.object(steady, "silu", plain.silu),
        mock.patch.object(steady, "softplus", plain.softplus),
        mock.patch.object(steady, "sigmoid", torch.sigmoid),
    ):
        yield


def relaxation_row(count: int) -> timing.Row:
    """Steps of relaxation in a batch beside the same one crystal after the other, both of the same model."""
    torch.manual_seed(0)
    model = registry.build("sieve", SMOOTH["sieve"], (TARGET,)).eval()
    crystals = Crystals.of(made_crystals(count, seed=2, max_atoms=24, kinds=PERIODIC_KINDS))
    few = crystals[: max(1, count // 20)]
    together = timing.interleaved({"ours": partial(in_a_batch, model, crystals)}, 1)["ours"]
    alone = timing.interleaved({"ASE": partial(one_by_one, model, few)}, 1)["ASE"]
    seconds = {"ours": together, "ASE": [value * count / len(few) for value in alone]}
    return timing.versus_fastest(f"{STEPS} steps of {count} relaxations", seconds, ours="ours", count=count)


def in_a_batch(model: CrystalModel, crystals: Crystals) -> None:
    """Relax all at once, so many steps each."""
    settings = RelaxSettings(force=1e-9, stress=1e-9, steps=STEPS)
    with Potential(model, threads=2) as potential:
        assert len(list(relax(potential, [crystals], settings))) == len(crystals)


def one_by_one(model: CrystalModel, crystals: Crystals) -> None:
    """Relax one crystal after the other by ASE's FIRE, so many steps each."""
    calculator = Calculator(model, threads=2)
    for crystal in crystals:
        atoms = crystal_to_ase(crystal)
        atoms.calc = calculator
        filtered = FrechetCellFilter(atoms)  # type: ignore[no-untyped-call]
        FIRE(filtered, logfile=None).run(fmax=1e-9, steps=STEPS)


if __name__ == "__main__":
    timing.main(run)
