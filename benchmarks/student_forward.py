"""CrysXPP, GATGNN and ALIGNN against the same networks in plain PyTorch: forward passes, at their published sizes.

The peer is the definition in tests/students.py, which makes every tensor of edges and of pairs of edges, as public
codes do, with the same weights on the same graphs. Crystals are those of models.py, as many as the peer's memory
allows. Predictions are compared first.

    python benchmarks/student_forward.py [--quick] [--json PATH]
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import timing
import torch
from made import PERIODIC_KINDS, made_crystals
from students import plain_alignn, plain_crysxpp, plain_gatgnn

from screening.crystals.batch import Crystals
from screening.graphs import pack_graphs
from screening.models import registry
from screening.models.graph_tensors import GraphTensors
from screening.models.model import CrystalModel
from screening.ops import core
from screening.predictions import Target

PLAIN = {"crysxpp": plain_crysxpp, "gatgnn": plain_gatgnn, "alignn": plain_alignn}
CRYSTALS = {"crysxpp": 256, "gatgnn": 128, "alignn": 16}
PROMISED = {"crysxpp": 2.0}


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure a forward pass of each architecture with two threads."""
    core.set_threads(2)
    torch.set_num_threads(2)
    rows = [versus_plain(name, 1 if quick else 5, CRYSTALS[name] // (4 if quick else 1)) for name in PLAIN]
    core.set_threads(None)
    return rows


def versus_plain(name: str, rounds: int, count: int) -> timing.Row:
    """A forward pass over so many crystals, ours beside the plain one."""
    torch.manual_seed(0)
    model = registry.build(name, {}, (Target("band_gap", "eV"),))
    graph = graph_of(model, count)
    with torch.no_grad():
        model.train()(graph)  # moments of these crystals, so that numbers stay of a size
    model.eval()
    plain = partial(PLAIN[name], model, graph)
    with torch.inference_mode():
        torch.testing.assert_close(model(graph), plain(), rtol=1e-3, atol=1e-4)
        seconds = timing.interleaved({"ours": partial(model, graph), "plain torch": plain}, rounds)
    return timing.versus_fastest(
        f"{name} forward, 2 threads", seconds, ours="ours", count=count, at_least=PROMISED.get(name)
    )


def graph_of(model: CrystalModel, count: int) -> GraphTensors:
    """Periodic crystals of 12 atoms on average."""
    crystals = Crystals.of(made_crystals(count, seed=1, max_atoms=24, kinds=PERIODIC_KINDS))
    return GraphTensors.of(pack_graphs(crystals, model.neighbors), device="cpu", dtype=torch.float32)


if __name__ == "__main__":
    timing.main(run)
