"""A training step with forces against eager PyTorch, and relaxations in a batch against ASE and CHGNet.

The peer of the training step is the same model with every operator of ours replaced by its definition in plain PyTorch,
which makes the tensors of edges x channels that eager code makes; losses are compared first. The loss holds energy,
forces and stress, so that each step differentiates twice. Steps are measured as PyTorch comes, which hands large
tensors back to the system and waits for new pages, and again where malloc keeps them, as everything after is. Memory
is what the largest step adds to a process of its own.

The relaxed crystals are random cells, which no potential knows, of the same few steps each: what is compared is the
time of a step, not how many are needed. ASE has the same model as a calculator and a twentieth of the crystals, one by
one. CHGNet, where it is installed, evaluates energies, forces and stresses of the same crystals in its own batches.

    python benchmarks/forces.py [--quick] [--json PATH]
"""

import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import timing
import torch
from ase import filters
from ase.optimize import FIRE
from made import PERIODIC_KINDS, made_crystals
from threads import as_torch_does, as_we_do, in_words

from screening.crystals.batch import Crystals
from screening.crystals.convert import crystal_to_ase, crystal_to_pymatgen
from screening.graphs import pack_graphs
from screening.models import angular, equivariant_transformer, registry
from screening.models.derivatives import energy_forces_stress
from screening.models.graph_tensors import GraphTensors
from screening.models.layers import Moments
from screening.models.model import CrystalModel
from screening.ops import message, reference_message, steady
from screening.ops.steady_lengths import plain_sum_lengths
from screening.predictions import Target
from screening.relaxation.calculator import Calculator
from screening.relaxation.potential import Potential
from screening.relaxation.relax import relax
from screening.relaxation_limits import RelaxationLimits

TARGET = Target("referenced_energy_per_atom", "eV/atom")
SMOOTH: dict[str, dict[str, Any]] = {
    "sieve": {"cutoff": 5.0, "max_neighbors": "all", "dropout": 0.0},
    "equivariant_transformer": {"cutoff": 5.0},
}
PROMISED_STEP = 3.0
STEPS = 10
# Says which model and whose step to take, in a process of its own.
MEASURE_MEMORY = "import sys; sys.path[:] = {path!r}; import forces; forces.tell_memory(*sys.argv[1:])"


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure steps with one thread and two, their memory, and relaxations with two threads."""
    rounds, count = (2, 8) if quick else (5, 32)
    cases = [(name, threads) for name in SMOOTH for threads in (1, 2)]
    rows = [step_row(name, threads, rounds, count) for name, threads in cases]
    timing.keep_memory()
    rows += [step_row(name, threads, rounds, count, "memory kept") for name, threads in cases]
    rows += [memory_row(name) for name in SMOOTH]
    crystals = stretched(random_crystals(40 if quick else 1000, seed=2))
    model = built("sieve")
    return [
        *rows,
        relaxation_row(model, crystals, 2),
        one_crystal_row(model, crystals),
        chgnet_row(model, crystals, 2),
    ]


def built(name: str) -> CrystalModel:
    """A smooth model with random weights."""
    torch.manual_seed(0)
    return registry.build(name, SMOOTH[name], (TARGET,)).eval()


def random_crystals(count: int, *, seed: int) -> Crystals:
    """Periodic crystals of 12 atoms on average."""
    return Crystals.of(made_crystals(count, seed=seed, max_atoms=24, kinds=PERIODIC_KINDS))


def stretched(crystals: Crystals) -> Crystals:
    """The same with twice the volume, 16 cubic angstrom an atom, as real crystals have: CHGNet pays for each angle."""
    factor = 2 ** (1 / 3)
    return replace(crystals, positions=crystals.positions * factor, lattice=crystals.lattice * factor)


def step_of(name: str, threads: int, count: int) -> dict[str, Callable[[], float]]:
    """A step of energy, forces and stress over so many crystals, ours and eager PyTorch's."""
    model = built(name)
    crystals = random_crystals(count, seed=1)
    graph = GraphTensors.of(pack_graphs(crystals, model.neighbors), device="cpu", dtype=torch.float32)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0)
    return {
        "ours": partial(as_we_do, threads, step, model, graph, optimiser),
        "eager": partial(as_torch_does, threads, eager_operators()(step), model, graph, optimiser),
    }


def step_row(name: str, threads: int, rounds: int, count: int, *more: str) -> timing.Row:
    """Our step beside the eager one."""
    steps = step_of(name, threads, count)
    torch.testing.assert_close(steps["ours"](), steps["eager"](), rtol=1e-3, atol=1e-4)
    seconds = timing.interleaved(steps, rounds, warm_up=False)
    case = ", ".join([f"{name}: step with forces and stress", in_words(threads), *more])
    return timing.versus_fastest(case, seconds, ours="ours", count=count, at_least=PROMISED_STEP)


def memory_row(name: str) -> timing.Row:
    """What a step over 32 crystals adds to the memory of a process, ours beside eager PyTorch's."""
    ours, eager = (added_mib(name, who) for who in ("ours", "eager"))
    return timing.Row(f"{name}: memory of a step", "MiB", ours, peer="eager", theirs=eager, ratio=eager / ours)


def added_mib(name: str, who: str) -> float:
    """Take a step in a process of its own; give how far its memory rose above what it held before."""
    command = [sys.executable, "-c", MEASURE_MEMORY.format(path=sys.path), name, who]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def tell_memory(name: str, who: str) -> None:
    """Print the peak of this process, in a step, above what it held before, in MiB."""
    act = step_of(name, 1, 32)[who]
    before = _status_mib("VmRSS")
    act()
    print(_status_mib("VmHWM") - before)


def _status_mib(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) / 1024


def step(model: CrystalModel, graph: GraphTensors, optimiser: torch.optim.Optimizer) -> float:
    """Differentiate a loss of energy, forces and stress; the rate is 0, so that the weights stay what they are."""
    optimiser.zero_grad()
    found = energy_forces_stress(model, graph, differentiable=True)
    loss = found.energy.abs().mean() + found.forces.abs().mean() + found.stress.abs().mean()
    torch.autograd.backward(loss, inputs=list(model.parameters()))
    optimiser.step()
    return float(loss.detach())


@contextmanager
def eager_operators() -> Iterator[None]:
    """Put plain PyTorch in place of every operator of ours."""
    plain = torch.nn.functional
    with (
        mock.patch.object(message, "edge_conv", reference_message.edge_conv),
        mock.patch.object(message, "segment_sum", reference_message.segment_sum),
        mock.patch.object(equivariant_transformer, "vector_attention", reference_message.vector_attention),
        mock.patch.object(angular, "sum_lengths", plain_sum_lengths),
        mock.patch.object(Moments, "silu", lambda moments, rows: plain.silu(moments(rows))),
        mock.patch.object(steady, "linear", plain.linear),
        mock.patch.object(steady, "silu", plain.silu),
        mock.patch.object(steady, "softplus", plain.softplus),
        mock.patch.object(steady, "sigmoid", torch.sigmoid),
    ):
        yield


def relaxation_row(model: CrystalModel, crystals: Crystals, threads: int) -> timing.Row:
    """Relaxations in a batch beside the same one crystal after the other, so many steps each, of the same model."""
    few = crystals[: max(1, len(crystals) // 20)]
    torch.set_num_threads(1)
    seconds = timing.interleaved(
        {
            "ours": partial(in_a_batch, model, crystals, threads),
            "ASE, one by one": partial(one_by_one, model, few, threads),
        },
        1,
        warm_up=False,
    )
    seconds["ASE, one by one"] = [value * len(crystals) / len(few) for value in seconds["ASE, one by one"]]
    case = f"relaxations, {STEPS} steps of {len(crystals):,} crystals, {in_words(threads)}"
    return timing.versus_fastest(case, seconds, ours="ours", count=len(crystals))


def one_crystal_row(model: CrystalModel, crystals: Crystals) -> timing.Row:
    """The calculator of ASE by itself: evaluations of one crystal after the other."""
    few = [crystal_to_ase(crystal) for crystal in crystals[: max(1, len(crystals) // 20)]]
    calculator = Calculator(model, threads=1)

    def evaluate() -> None:
        for atoms in few:
            calculator.calculate(atoms)

    seconds = timing.interleaved({"ours": evaluate}, 3)["ours"]
    return timing.Row("energy, forces, stress of one crystal after the other", "crystals/s", len(few) / min(seconds))


def chgnet_row(model: CrystalModel, crystals: Crystals, threads: int) -> timing.Row:
    """Energy, forces and stress of all crystals, graphs included, beside CHGNet's of a twentieth of them."""
    torch.set_num_threads(threads)
    case = f"energy, forces, stress of many crystals, {in_words(threads)}"
    with Potential(model, threads=threads) as potential:
        contestants: dict[str, Callable[[], object]] = {"ours": partial(potential, crystals)}
        few = crystals[: max(1, len(crystals) // 20)]
        if importlib.util.find_spec("chgnet") is None:
            (seconds,) = timing.interleaved(contestants, 3).values()
            rate = len(crystals) / min(seconds)
            return timing.Row(case, "crystals/s", rate, peer="chgnet: not installed")
        name = f"chgnet {version('chgnet')}"
        contestants[name] = partial(by_chgnet, chgnet_model(), few)
        taken = timing.interleaved(contestants, 3)
    taken[name] = [value * len(crystals) / len(few) for value in taken[name]]
    return timing.versus_fastest(case, taken, ours="ours", count=len(crystals))


def chgnet_model() -> Any:
    """CHGNet with the weights of its package; atoms without neighbours, which random cells may have, are let pass."""
    found = importlib.import_module("chgnet.model").CHGNet.load(use_device="cpu", verbose=False)
    found.graph_converter.set_isolated_atom_response("ignore")
    return found


def by_chgnet(model: Any, crystals: Crystals) -> None:
    """Predict in CHGNet's own batches."""
    structures = [crystal_to_pymatgen(crystal) for crystal in crystals]
    model.predict_structure(structures, task="efs")


def in_a_batch(model: CrystalModel, crystals: Crystals, threads: int) -> None:
    """Relax all at once, so many steps each."""
    settings = RelaxationLimits(force=1e-9, stress=1e-9, steps=STEPS)
    with Potential(model, threads=threads) as potential:
        assert len(list(relax(potential, [crystals], settings))) == len(crystals)


def one_by_one(model: CrystalModel, crystals: Crystals, threads: int) -> None:
    """Relax one crystal after the other by ASE's FIRE in the coordinates that ours has, so many steps each."""
    calculator = Calculator(model, threads=threads)
    # Of a function of ASE that has no annotations.
    with_cell: Any = filters.UnitCellFilter
    for crystal in crystals:
        atoms = crystal_to_ase(crystal)
        atoms.calc = calculator
        FIRE(with_cell(atoms), logfile=None).run(fmax=1e-9, steps=STEPS)


if __name__ == "__main__":
    timing.main(run)
