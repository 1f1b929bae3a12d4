"""CrysXPP, GATGNN and ALIGNN against public codes: forward passes and training steps, at their published sizes.

Two peers. The definition in tests/plain_students.py makes every tensor of edges and of pairs of edges, as public codes
do, with the same weights on the same graphs; it stands in for the authors' codes of CrysXPP and GATGNN, which no
registry has. The package `alignn` (extra `peers`) is the authors' of ALIGNN, in pure PyTorch: same sizes, its own
weights, fed the same edges and pairs. Features and line graphs are made beforehand, for all; a run makes its line
graphs with each batch (`benchmarks/kernels.py` has their price). A training step is a forward pass, a backward pass and
Adam. Values and gradients of the definition are compared with ours first.

    python benchmarks/students.py [--quick] [--json PATH]
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import alignn_package
import timing
import torch
from made import PERIODIC_KINDS, made_crystals
from plain_students import plain_alignn, plain_crysxpp, plain_gatgnn
from threads import as_torch_does, as_we_do, in_words
from torch import Tensor

from screening.crystals.batch import Crystals
from screening.graphs import pack_graphs
from screening.models import registry
from screening.models.alignn import ALIGNN
from screening.models.graph_tensors import GraphTensors
from screening.models.model import CrystalModel
from screening.predictions import Target

PLAIN: dict[str, Callable[[CrystalModel, GraphTensors], Tensor]] = {
    "crysxpp": plain_crysxpp,
    "gatgnn": plain_gatgnn,
    "alignn": plain_alignn,
}
CRYSTALS = {"crysxpp": 256, "gatgnn": 128, "alignn": 16}
PROMISED = 2.0

Act = Callable[[], object]


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure each architecture with one thread and with two."""
    rows = []
    for name in PLAIN:
        for threads in (2,) if quick else (1, 2):
            rows += rows_of(name, threads, 1 if quick else 5, CRYSTALS[name] // (4 if quick else 1))
    torch.set_num_threads(2)
    return rows


def rows_of(name: str, threads: int, rounds: int, count: int) -> list[timing.Row]:
    """A forward pass and a training step over so many crystals, ours beside each peer."""
    torch.manual_seed(0)
    model = registry.build(name, {}, (Target("band_gap", "eV"),))
    graph = model.prepared(graph_of(model, count))
    agree(model, PLAIN[name], graph)
    peers: dict[str, tuple[torch.nn.Module, Callable[[], Tensor]]] = {
        "plain torch": (model, partial(PLAIN[name], model, graph))
    }
    if isinstance(model, ALIGNN) and alignn_package.is_installed():
        network = alignn_package.network(model)
        peers["alignn"] = (network, alignn_package.call(network, model, graph))
    rows = []
    for what, act in (("forward", forward), ("training step", step)):
        contestants = {peer: partial(as_torch_does, threads, act(*pair)) for peer, pair in peers.items()}
        contestants["ours"] = partial(as_we_do, threads, act(model, partial(model, graph)))
        seconds = timing.interleaved(contestants, rounds)
        case = f"{name} {what}, {in_words(threads)}"
        rows += [versus(case, seconds, peer, count) for peer in peers]
    if isinstance(model, ALIGNN) and not alignn_package.is_installed():
        rows.append(timing.Row(f"{name}: the package alignn is not installed (make bench-peers)", "-", 0.0))
    return rows


def versus(case: str, seconds: dict[str, list[float]], peer: str, count: int) -> timing.Row:
    """Our rate beside that of one peer."""
    pair = {name: seconds[name] for name in ("ours", peer)}
    return timing.versus_fastest(case, pair, ours="ours", count=count, at_least=PROMISED)


def graph_of(model: CrystalModel, count: int) -> GraphTensors:
    """Periodic crystals of 12 atoms on average."""
    crystals = Crystals.of(made_crystals(count, seed=1, max_atoms=24, kinds=PERIODIC_KINDS))
    return GraphTensors.of(pack_graphs(crystals, model.neighbors), device="cpu", dtype=torch.float32)


def agree(model: CrystalModel, plain: Callable[[CrystalModel, GraphTensors], Tensor], graph: GraphTensors) -> None:
    """See that both compute the same, values and gradients, or there is nothing to compare."""
    with torch.no_grad():
        model.train()(graph)  # moments of these crystals, so that numbers stay of a size
    model.eval()
    with torch.inference_mode():
        torch.testing.assert_close(model(graph), plain(model, graph), rtol=1e-3, atol=1e-4)
    model.train()
    weights = list(model.parameters())
    ours, theirs = (
        torch.autograd.grad(found.square().mean(), weights) for found in (model(graph), plain(model, graph))
    )
    size = max(float(one.abs().max()) for one in theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3 * size)


def forward(network: torch.nn.Module, call: Callable[[], Tensor]) -> Act:
    """What predicts a batch."""

    @torch.inference_mode()
    def act() -> None:
        network.eval()
        call()

    return act


def step(network: torch.nn.Module, call: Callable[[], Tensor]) -> Act:
    """What learns from a batch; the rate is 0, so that the weights stay what they are."""
    optimiser = torch.optim.Adam(network.parameters(), lr=0.0)

    def act() -> None:
        network.train()
        optimiser.zero_grad()
        torch.autograd.backward(call().square().mean())
        optimiser.step()

    return act


if __name__ == "__main__":
    timing.main(run)
