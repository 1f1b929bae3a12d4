"""Models: what they promise about batches, atom order, missing neighbours, targets and derivatives."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made import made_crystals
from sizes import small

from screening.arrays import Float64
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.errors import InputError
from screening.graphs import pack_graphs
from screening.models.graph_tensors import GraphTensors
from screening.models.layers import Heads, Moments, mean_of_atoms, unit_rows
from screening.models.model import CrystalModel
from screening.models.registry import ARCHITECTURES, build
from screening.ops import steady
from screening.ops.message_graph import EdgeGraph
from screening.predictions import Target

TARGETS = (
    Target("band_gap", "eV"),
    Target("is_metal", "1", "classification"),
    Target("bulk_modulus", "GPa", scale="log10"),
)


@pytest.fixture(params=sorted(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> CrystalModel:
    torch.manual_seed(3)
    made = build(request.param, small(request.param, hidden_layers=2), TARGETS).double()
    # Running moments far from 0 and 1, so that evaluation has something to fold in.
    made.train()(tensors(made, made_crystals(20, seed=9)))
    return made.eval()


def tensors(model: CrystalModel, crystals: list[Crystal]) -> GraphTensors:
    graphs = pack_graphs(Crystals.of(crystals), model.neighbors)
    return GraphTensors.of(graphs, device="cpu", dtype=model.dtype)


def test_a_crystal_gives_the_same_in_every_batch(model: CrystalModel) -> None:
    crystals = made_crystals(14, seed=1)
    together = model(tensors(model, crystals))
    alone = torch.cat([model(tensors(model, [crystal])) for crystal in crystals])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_atom_order_does_not_matter(model: CrystalModel) -> None:
    crystal = made_crystals(1, seed=4, kinds=["cell"])[0]
    turn = np.random.default_rng(0).permutation(len(crystal.numbers))
    assert len(turn) > 3
    other = Crystal(
        id="turned",
        numbers=crystal.numbers[turn],
        positions=crystal.positions[turn],
        lattice=crystal.lattice,
        pbc=crystal.pbc,
    )
    torch.testing.assert_close(model(tensors(model, [crystal])), model(tensors(model, [other])), rtol=1e-9, atol=1e-9)


def test_a_crystal_has_the_same_bits_in_every_batch(model: CrystalModel) -> None:
    model.float()
    crystals = made_crystals(14, seed=1)
    with torch.inference_mode():
        together = model(tensors(model, crystals))
        alone = torch.cat([model(tensors(model, [crystal])) for crystal in crystals])
    assert torch.equal(together, alone)


def changed(crystal: Crystal, positions: Float64, lattice: Float64, copies: int = 1) -> Crystal:
    """Another description of a crystal."""
    return Crystal(
        id="changed", numbers=np.tile(crystal.numbers, copies), positions=positions, lattice=lattice, pbc=crystal.pbc
    )


def test_turning_and_moving_a_crystal_does_not_matter(model: CrystalModel) -> None:
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    for crystal in made_crystals(4, seed=4, kinds=["cell", "slab"]):
        moved = changed(crystal, (crystal.positions + np.array([0.3, -7.0, 2.5])) @ turn, crystal.lattice @ turn)
        found, expected = (model(tensors(model, [one])) for one in (moved, crystal))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_supercell_is_the_same_crystal(model: CrystalModel) -> None:
    for crystal in made_crystals(3, seed=6, kinds=["cell", "skewed"], max_atoms=5):
        positions = np.concatenate([crystal.positions, crystal.positions + crystal.lattice[1]])
        double = changed(crystal, positions, crystal.lattice * np.array([[1], [2], [1]]), copies=2)
        found, expected = (model(tensors(model, [one])) for one in (double, crystal))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_atoms_without_neighbours_and_empty_batches_are_legal(model: CrystalModel) -> None:
    lone = Crystal("lone", np.array([26], np.uint8), np.zeros((1, 3)), np.zeros((3, 3)), (False, False, False))
    for mode in (False, True):
        assert torch.isfinite(model.train(mode)(tensors(model, [lone]))).all()
        assert model(tensors(model, [])).shape == (0, 3)


def test_predictions_are_in_units(model: CrystalModel) -> None:
    model.set_scaling([2.0, 0.0, 1.5], [0.5, 1.0, 0.25])
    graph = tensors(model, made_crystals(5, seed=2))
    learned = model(graph)
    predicted = model.predict(graph)
    torch.testing.assert_close(predicted["band_gap"], learned[:, 0] * 0.5 + 2.0)
    torch.testing.assert_close(predicted["is_metal"], 1 / (1 + torch.exp(-learned[:, 1])))
    torch.testing.assert_close(predicted["bulk_modulus"], 10 ** (learned[:, 2] * 0.25 + 1.5))


def test_no_gap_is_predicted_below_zero(model: CrystalModel) -> None:
    graph = tensors(model, made_crystals(8, seed=2))
    learned = model(graph)[:, 0].detach().double()
    middle = float(learned.mean())
    model.set_scaling([-middle, 0.0, 0.0], [1.0, 1.0, 1.0])
    assert 0 < (learned < middle).sum() < len(learned)
    torch.testing.assert_close(model.predict(graph)["band_gap"].detach(), (learned - middle).clamp(min=0.0))


@pytest.mark.parametrize(
    "scaling", [([0.0], [1.0]), ([0.0] * 3, [1.0, 0.0, 1.0]), ([0.0, float("nan"), 0.0], [1.0] * 3)]
)
def test_a_scaling_that_cannot_be_is_refused(model: CrystalModel, scaling: tuple[list[float], list[float]]) -> None:
    with pytest.raises(InputError, match="scaling needs a mean"):
        model.set_scaling(*scaling)


def test_energy_has_a_derivative_in_every_edge(model: CrystalModel) -> None:
    graph = tensors(model, made_crystals(2, seed=8, kinds=["cell"], max_atoms=3))

    def total(vector: torch.Tensor) -> torch.Tensor:
        return model(replace(graph, edge_vector=vector))

    assert torch.autograd.gradcheck(total, (graph.edge_vector.requires_grad_(),), eps=1e-6, atol=1e-5, fast_mode=True)


def test_a_loss_of_forces_is_differentiated_twice(model: CrystalModel) -> None:
    graph = tensors(model, made_crystals(1, seed=8, kinds=["cell"], max_atoms=2))
    vector = graph.edge_vector.requires_grad_()
    weights = [weight for weight in model.parameters() if weight.dim() == 2]

    def loss() -> torch.Tensor:
        learned = model(replace(graph, edge_vector=vector))
        (slopes,) = torch.autograd.grad(learned.sum(), vector, create_graph=True)
        return slopes.square().sum()

    gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
    gradient, weight = max(
        ((found, weight) for found, weight in zip(gradients, weights, strict=True) if found is not None),
        key=lambda pair: float(pair[0].abs().max()),
    )
    row, column = divmod(int(gradient.abs().argmax()), gradient.shape[1])
    step, values = 1e-5, []
    for sign in (1, -1, 0):
        with torch.no_grad():
            weight[row, column] += {1: step, -1: -2 * step, 0: step}[sign]
        values.append(float(loss().detach()))
    assert float(gradient[row, column]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_compiling_does_not_break_the_graph(model: CrystalModel, training: bool) -> None:
    graph = model.prepared(tensors(model, made_crystals(6, seed=6)))
    torch._dynamo.reset()  # it counts how often one function is compiled, whatever the model
    compiled = torch.compile(model.train(training), backend="eager", fullgraph=True)
    torch.manual_seed(0)
    expected = model(graph)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(graph), expected)


def test_every_parameter_learns(model: CrystalModel) -> None:
    model.train()(tensors(model, made_crystals(8, seed=5))).square().sum().backward()
    size = {
        name: float(weight.grad.abs().max()) for name, weight in model.named_parameters() if weight.grad is not None
    }
    idle = {name for name, _ in model.named_parameters() if size.get(name, 0.0) < 1e-9}
    # Normalising takes the mean away, and with it a constant that was added before.
    before_a_mean = {
        "alignn": {
            "atom_embedding.0.bias",
            *(f"{what}_embedding.{n}.0.bias" for what in ("edge", "pair") for n in (0, 1)),
            *(f"lines.{n}.on_{what}.own.bias" for what in ("graph", "line") for n in (0, 1)),
            "convolutions.0.own.bias",
        },
        "cgcnn": {"convolutions.0.messages.bias", "convolutions.1.messages.bias"},
        "crysxpp": {"convolutions.0.messages.bias", "convolutions.1.messages.bias"},
        "equivariant_transformer": set(),
        # Softmax takes a constant away too.
        "gatgnn": {"attention.score.bias", "rounds.0.attention.bias", "rounds.1.attention.bias"},
        "sieve": {"blocks.1.mix.bias", "blocks.1.perceptron.3.bias"},
    }
    assert idle == before_a_mean[model.architecture]


def test_heads_are_independent_perceptrons() -> None:
    torch.manual_seed(0)
    heads = Heads(5, hidden=4, layers=2, dropout=[0.0, 0.0, 0.0])
    rows = torch.randn(7, 5)
    for t in range(3):
        x = torch.nn.functional.softplus(rows)
        for layer in heads.hidden:
            x = torch.nn.functional.softplus(x @ layer.weight[t] + layer.bias[t])
        alone = x @ heads.output.weight[t] + heads.output.bias[t]
        torch.testing.assert_close(heads(rows)[:, t], alone[:, 0])


def test_dropout_acts_in_training_on_its_head_alone() -> None:
    torch.manual_seed(0)
    heads = Heads(5, hidden=50, layers=1, dropout=[0.5, 0.0])
    rows = torch.randn(3, 5)
    trained, other = heads.train()(rows), heads(rows)
    assert not torch.equal(trained[:, 0], other[:, 0])
    torch.testing.assert_close(trained[:, 1], heads.eval()(rows)[:, 1])
    assert torch.equal(heads(rows), heads(rows))


def test_moments_follow_torch_batch_normalisation() -> None:
    ours, theirs = Moments(4).double(), torch.nn.BatchNorm1d(4).double()
    for seed in range(3):
        rows = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3 + 1
        factor, shift = ours.of_batch(rows.mean(0), rows.var(0, correction=0), len(rows))
        torch.testing.assert_close(rows * factor + shift, theirs(rows))
    torch.testing.assert_close(ours.eval()(rows), theirs.eval()(rows))
    factor, shift = ours.running()
    torch.testing.assert_close(rows * factor + shift, theirs(rows))


def test_the_mean_of_no_atoms_is_zero() -> None:
    offsets = torch.tensor([0, 2, 2, 3], dtype=torch.int32)
    graph = EdgeGraph(torch.zeros(4, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), offsets)
    rows = torch.tensor([[1.0], [3.0], [7.0]])
    assert mean_of_atoms(rows, graph).flatten().tolist() == [2.0, 0.0, 7.0]


def test_only_registered_architectures_with_valid_settings_are_built() -> None:
    with pytest.raises(InputError, match=r"no architecture 'cgnn'; choose one of .*cgcnn"):
        build("cgnn", {}, TARGETS)
    with pytest.raises(InputError, match="widht"):
        build("cgcnn", {"widht": 3}, TARGETS)
    with pytest.raises(InputError, match="each target only once"):
        build("cgcnn", small("cgcnn"), (TARGETS[0], TARGETS[0]))


def test_one_hot_elements_are_all_told_apart() -> None:
    torch.manual_seed(0)
    made = build("cgcnn", small("cgcnn") | {"elements": "one_hot"}, TARGETS[:1])
    atoms = made.embedding(made.element_features)[1:]
    assert len(torch.unique(atoms, dim=0)) == 118


def test_read_only_arrays_can_be_taken(model: CrystalModel) -> None:
    graphs = pack_graphs(Crystals.of(made_crystals(2)), model.neighbors)
    graphs.crystals.numbers.flags.writeable = False
    assert len(GraphTensors.of(graphs, device="cpu", dtype=torch.float32).numbers) == len(graphs.crystals.numbers)


@pytest.mark.parametrize("wrong", [{"kind": "ranking"}, {"scale": "ln"}, {"kind": "classification", "scale": "log10"}])
def test_a_target_that_cannot_be_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError, match="target x"):
        Target("x", "eV", **wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_are_of_length_one_whatever_autocast_narrows(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a GPU, where products are torch's, and autocast narrows them.
    monkeypatch.setattr(steady, "linear", torch.nn.functional.linear)
    # Squares of 300 are beyond float16.
    rows = (300.0 * torch.randn(50, 33, generator=torch.Generator().manual_seed(0))).to(dtype)
    for narrow in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", narrow):
            found = unit_rows(rows)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, torch.nn.functional.normalize(rows.float(), dim=1), rtol=1e-5, atol=1e-6)
