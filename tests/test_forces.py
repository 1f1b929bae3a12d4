"""Forces and stress: against finite differences of the energy, and what physics demands of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made import made_crystals
from sizes import SMOOTH, small

from screening.arrays import Float64
from screening.crystals.batch import Crystals
from screening.crystals.crystal import PERIODIC, Crystal
from screening.errors import InputError
from screening.graphs import pack_graphs
from screening.models.checkpoint import save
from screening.models.derivatives import Derivatives, energy_forces_stress
from screening.models.graph_tensors import GraphTensors
from screening.models.header import Card
from screening.models.model import CrystalModel
from screening.models.potential_files import required_energy
from screening.models.registry import build
from screening.predictions import Target

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("one_torch_thread")]

TARGETS = (Target("band_gap", "eV"), Target("referenced_energy_per_atom", "eV/atom"))
PERIODIC_KINDS = ("cell", "skewed", "left_handed", "outside")


@pytest.fixture(params=sorted(SMOOTH))
def model(request: pytest.FixtureRequest) -> CrystalModel:
    torch.manual_seed(3)
    made = build(request.param, small(request.param, hidden_layers=2) | SMOOTH[request.param], TARGETS).double()
    made.set_scaling([0.0, 1.5], [1.0, 2.5])
    made.train()(graph_of(made, made_crystals(20, seed=9)))
    return made.eval()


def graph_of(model: CrystalModel, crystals: list[Crystal]) -> GraphTensors:
    graphs = pack_graphs(Crystals.of(crystals), model.neighbors)
    return GraphTensors.of(graphs, device="cpu", dtype=model.dtype)


def derivatives(model: CrystalModel, crystals: list[Crystal]) -> Derivatives:
    return energy_forces_stress(model, graph_of(model, crystals))


def energies(model: CrystalModel, crystals: list[Crystal]) -> Float64:
    """In eV, of whole cells, from what the model predicts."""
    with torch.no_grad():
        per_atom: Float64 = model.predict(graph_of(model, crystals))["referenced_energy_per_atom"].numpy()
    return per_atom * np.array([len(crystal) for crystal in crystals])


def moved(crystal: Crystal, positions: Float64, lattice: Float64 | None = None) -> Crystal:
    return replace(crystal, positions=positions, lattice=crystal.lattice if lattice is None else lattice)


def test_forces_are_minus_the_slope_of_the_energy(model: CrystalModel) -> None:
    step = 1e-5
    for crystal in made_crystals(4, seed=4, kinds=["cell", "skewed", "slab", "molecule"], max_atoms=4):
        found = derivatives(model, [crystal])
        assert float(found.energy[0]) == pytest.approx(energies(model, [crystal])[0], rel=1e-12)
        moves = step * np.eye(3 * len(crystal)).reshape(-1, len(crystal), 3)
        ahead, behind = (energies(model, [moved(crystal, crystal.positions + s * m) for m in moves]) for s in (1, -1))
        np.testing.assert_allclose(found.forces.numpy().ravel(), (behind - ahead) / (2 * step), rtol=0, atol=2e-7)


def test_stress_is_the_slope_of_the_energy_by_strain_over_the_volume(model: CrystalModel) -> None:
    step = 1e-5
    units = np.eye(9).reshape(9, 3, 3)
    strains = step / 2 * (units + units.transpose(0, 2, 1))
    for crystal in made_crystals(3, seed=5, kinds=["cell", "skewed", "left_handed"], max_atoms=4):
        stress = derivatives(model, [crystal]).stress[0]
        turns = [np.eye(3) + strain for strain in (*strains, *-strains)]
        ahead, behind = np.split(
            energies(model, [moved(crystal, crystal.positions @ t, crystal.lattice @ t) for t in turns]), 2
        )
        expected = (ahead - behind) / (2 * step * abs(np.linalg.det(crystal.lattice)))
        np.testing.assert_allclose(stress.numpy().ravel(), expected, rtol=0, atol=1e-8)


def test_forces_of_a_crystal_add_up_to_zero(model: CrystalModel) -> None:
    for crystal in made_crystals(8, seed=6):
        forces = derivatives(model, [crystal]).forces
        torch.testing.assert_close(forces.sum(0), torch.zeros(3).double(), rtol=0, atol=1e-12 * (1 + len(forces)))


def test_forces_and_stress_turn_with_the_crystal(model: CrystalModel) -> None:
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    for crystal in made_crystals(4, seed=7, kinds=PERIODIC_KINDS):
        before = derivatives(model, [crystal])
        after = derivatives(model, [moved(crystal, crystal.positions @ turn, crystal.lattice @ turn)])
        q = torch.from_numpy(turn)
        torch.testing.assert_close(after.energy, before.energy, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(after.forces, before.forces @ q, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(after.stress[0], q.T @ before.stress[0] @ q, rtol=1e-9, atol=1e-10)


def test_energy_forces_and_stress_are_continuous_when_an_edge_crosses_the_cutoff(model: CrystalModel) -> None:
    cutoff = model.neighbors.cutoff
    found = {}
    for distance in (cutoff * (1 - 1e-7), cutoff * (1 + 1e-7)):
        positions = np.array([[0.0, 0, 0], [0, 1.7, 0.3], [distance, 0, 0]])
        crystal = Crystal("pair", np.array([8, 26, 12], np.uint8), positions, 30 * np.eye(3), PERIODIC)
        found[distance] = (len(graph_of(model, [crystal]).edge_vector), derivatives(model, [crystal]))
    (more, inside), (fewer, outside) = found.values()
    assert more == fewer + 2
    for one, other in zip(inside, outside, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_crystal_has_the_same_derivatives_in_every_batch(model: CrystalModel) -> None:
    model.float()
    crystals = made_crystals(9, seed=8)
    together, offsets = derivatives(model, crystals), Crystals.of(crystals).atom_offsets
    for c, crystal in enumerate(crystals):
        alone = derivatives(model, [crystal])
        assert torch.equal(alone.energy[0], together.energy[c])
        assert torch.equal(alone.forces, together.forces[offsets[c] : offsets[c + 1]])
        assert torch.equal(alone.stress[0].nan_to_num(), together.stress[c].nan_to_num())


def test_stress_is_not_a_number_unless_all_directions_are_periodic(model: CrystalModel) -> None:
    crystals = made_crystals(4, seed=8, kinds=["cell", "slab", "wire", "molecule"])
    assert derivatives(model, crystals).stress.isnan().all(dim=(1, 2)).tolist() == [False, True, True, True]


def test_a_loss_of_forces_and_stress_has_the_right_gradient(model: CrystalModel) -> None:
    graph = graph_of(model, made_crystals(2, seed=8, kinds=["cell"], max_atoms=3))

    def loss() -> torch.Tensor:
        found = energy_forces_stress(model, graph, differentiable=True)
        return found.forces.square().sum() + 10 * found.stress.square().sum() + found.energy.square().sum()

    weights = [weight for weight in model.parameters() if weight.dim() == 2]
    gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
    pairs = [(g, w) for g, w in zip(gradients, weights, strict=True) if g is not None]
    gradient, weight = max(pairs, key=lambda pair: float(pair[0].abs().max()))
    row, column = divmod(int(gradient.abs().argmax()), gradient.shape[1])
    step, values = 1e-6, []
    for change in (step, -2 * step, step):
        with torch.no_grad():
            weight[row, column] += change
        values.append(float(loss().detach()))
    assert float(gradient[row, column]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_an_atom_alone_feels_nothing(model: CrystalModel) -> None:
    lone = Crystal("lone", np.array([26], np.uint8), np.zeros((1, 3)), np.zeros((3, 3)), (False, False, False))
    found = derivatives(model, [lone])
    assert found.forces.tolist() == [[0.0, 0.0, 0.0]]
    assert torch.isfinite(found.energy).all()
    assert derivatives(model, []).forces.shape == (0, 3)


def test_a_model_that_jumps_or_has_no_energy_is_refused() -> None:
    crystals = made_crystals(2)
    jumping = build("sieve", small("sieve"), TARGETS)
    with pytest.raises(InputError, match=r'not smooth.*max_neighbors = "all"'):
        derivatives(jumping, crystals)
    gap = build("sieve", small("sieve") | SMOOTH["sieve"], TARGETS[:1])
    with pytest.raises(InputError, match="predicts band_gap, and has learned no forces"):
        derivatives(gap, crystals)


@pytest.mark.parametrize(
    "target",
    [
        Target("cohesive_energy_per_atom", "eV/atom"),
        Target("formation_energy_per_atom", "eV/atom"),
        Target("referenced_energy_per_atom", "eV/atom", scale="log10"),
        Target("referenced_energy_per_atom", "1", "classification"),
    ],
)
def test_what_has_learned_no_slopes_on_a_linear_scale_has_no_forces(target: Target, tmp_path: Path) -> None:
    model = build("sieve", small("sieve") | SMOOTH["sieve"], [target])
    with pytest.raises(InputError, match=f"predicts {target.name}, and has learned no forces"):
        derivatives(model, made_crystals(1))
    save(model, tmp_path / "m.safetensors", Card())
    with pytest.raises(InputError, match=f"predicts {target.name}, and has learned no forces"):
        required_energy(tmp_path / "m.safetensors")


def test_a_graph_without_volumes_is_refused(model: CrystalModel) -> None:
    with pytest.raises(InputError, match="volumes"):
        energy_forces_stress(model, replace(graph_of(model, made_crystals(2)), volume=None))
