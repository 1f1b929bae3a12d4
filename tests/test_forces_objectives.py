"""What learning derivatives asks for: signs, sources, noise, errors of what is there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from forces_made import alone, batch, graphs_of, labelled, small_sieve
from made import made_crystals

from screening.errors import InputError
from screening.training.forces_config import ForcesSettings
from screening.training.mechanics import PLACES
from screening.training.objectives.denoising import DenoisingByDerivative, DenoisingByHead, normal
from screening.training.objectives.errors import ErrorSums
from screening.training.objectives.forces import EnergyForceStress
from screening.training.objectives.objective import Part
from screening.training.references import References

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("one_torch_thread")]


def test_labels_of_mechanics_are_those_of_the_crystals() -> None:
    crystals = [*labelled(6, seed=1), *made_crystals(2, seed=2, kinds=["slab"], forces=True, missing=0.0)]
    graphs = graphs_of(crystals, small_sieve())
    for c, crystal in enumerate(crystals):
        periodic = all(crystal.pbc)
        wanted = [abs(np.linalg.det(crystal.lattice)) if periodic else np.nan]
        stress = crystal.stress if periodic and crystal.stress is not None else np.full((3, 3), np.nan)
        np.testing.assert_allclose(graphs.labels[c, 1:], [*wanted, *(stress[i, j] for i, j in PLACES)])
        forces = np.full((len(crystal), 3), np.nan) if crystal.forces is None else crystal.forces
        np.testing.assert_array_equal(graphs.forces_in(np.array([c])), forces.astype(np.float32))
    with pytest.raises(InputError, match="built without forces"):
        replace(graphs, forces=None).forces_in(np.array([0]))


def test_references_tell_sources_apart() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2, 119))
    counts = np.zeros((60, 119))
    for row in counts:
        row[rng.integers(1, 9, 3)] += rng.integers(1, 4, 3)
    fractions, source = counts / counts.sum(axis=1, keepdims=True), np.arange(60) % 2
    per_atom = (fractions * weights[source]).sum(axis=1)
    per_atom[5] = np.nan
    found = References.fit(fractions, per_atom, source, ("a", "b"))
    left = per_atom - found.per_atom(fractions, source)
    np.testing.assert_allclose(left[~np.isnan(left)], 0.0, atol=1e-9)
    assert found.as_card()["b"]["He"] == pytest.approx(weights[1, 2])
    assert np.isnan(found.energies[0, 118])
    strange = np.zeros((1, 119))
    strange[0, [2, 118]] = 0.5
    assert np.isnan(found.per_atom(strange, np.array([0])))


def test_elements_that_come_in_one_proportion_have_references_of_the_size_of_energies() -> None:
    rng = np.random.default_rng(0)
    carbonates = []
    for k, crystal in enumerate(labelled(40, seed=3, missing=0.0)):
        metal, units = int(rng.choice([11, 12, 20, 25, 26])), int(rng.integers(1, 4))
        numbers = np.repeat(np.array([metal, 6, 8], np.uint8), [int(rng.integers(1, 3)), units, 3 * units])
        positions = rng.random((len(numbers), 3)) @ crystal.lattice
        energy = -6.0 + float(rng.normal()) * 0.1
        carbonates.append(
            replace(crystal, id=str(k), numbers=numbers, positions=positions, labels={"energy": energy}, forces=None)
        )
    graphs = graphs_of(carbonates, small_sieve())
    rows = np.arange(len(carbonates))
    per_atom = graphs.labels[:, 0] / graphs.atom_counts
    found = References.fit(graphs.fractions(rows), per_atom, np.zeros(len(rows), np.int64), ("one",))
    known = found.energies[~np.isnan(found.energies)]
    assert len(known) == 7
    assert np.abs(known).max() < 10 * np.abs(per_atom).max()
    left = per_atom - found.per_atom(graphs.fractions(rows), np.zeros(len(rows), np.int64))
    assert left.std() <= per_atom.std()


def test_a_source_without_energies_has_no_references() -> None:
    found = References.fit(np.eye(3), np.array([1.0, np.nan, np.nan]), np.array([0, 1, 1]), ("a", "b"))
    assert found.as_card()["b"] == {}


def test_errors_count_what_is_there_and_no_nan_enters_a_gradient() -> None:
    found = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    wanted = torch.tensor([[0.0, float("nan")], [3.0, 7.0], [float("nan"), float("nan")]])
    errors = ErrorSums.of(found, wanted, torch.tensor([0, 0, 1]), 2, ForcesSettings())
    assert errors.absolute.tolist() == [4.0, 0.0]
    assert errors.square.tolist() == [10.0, 0.0]
    assert errors.count.tolist() == [3.0, 0.0]
    errors.loss.sum().backward()
    assert found.grad is not None
    assert found.grad.tolist() == [[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]]


def test_noise_moves_atoms_and_has_no_mean() -> None:
    model, crystals = small_sieve(), labelled(5, seed=3)
    graphs = graphs_of(crystals, model)
    objective = DenoisingByDerivative(graphs, alone(5), ForcesSettings(learn="denoising"))
    part = objective.gather(batch(0, 1, 2, 3, 4))
    noise, rest = part.given["noise"], graphs.take(np.arange(5))[0].edge_vector
    edges = part.graph.edge_graph
    centres = torch.repeat_interleave(torch.arange(len(noise)), edges.edge_offsets.diff().long())
    torch.testing.assert_close(part.graph.edge_vector, rest + noise[edges.edge_source.long()] - noise[centres])
    means = torch.zeros(5, 3).index_add(0, part.graph.crystal_of_atom, noise)
    torch.testing.assert_close(means, torch.zeros(5, 3), rtol=0, atol=1e-5)


def test_noise_is_normal_and_belongs_to_seed_epoch_and_row() -> None:
    rows, counts = np.arange(400), np.full(400, 9)
    drawn = normal(rows, counts, seed=3, epoch=2)
    assert abs(drawn.mean()) < 0.03
    assert drawn.std() == pytest.approx(1.0, abs=0.03)
    assert abs(np.corrcoef(drawn.T)[np.triu_indices(3, 1)]).max() < 0.06
    np.testing.assert_array_equal(normal(rows[[7, 2]], counts[:2], seed=3, epoch=2)[:9], drawn[63:72])
    assert not np.isclose(normal(rows, counts, seed=3, epoch=3), drawn).any(axis=1).all()


def gathered_noise(objective: DenoisingByDerivative, epoch: int, size: int) -> Part:
    return objective.gather(batch(*range(size), epoch=epoch))


def test_what_denoising_learns_is_a_potential_with_its_minimum_where_atoms_were() -> None:
    model, crystals = small_sieve(dropout=0.0), labelled(4, seed=5)
    graphs = graphs_of(crystals, model)
    objective = DenoisingByDerivative(graphs, alone(4), ForcesSettings(learn="denoising", loss="mse", stiffness=5.0))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for epoch in range(60):
        loss = objective.sums(model, gathered_noise(objective, epoch, 4))
        optimiser.zero_grad()
        torch.autograd.backward(loss.mean([1.0]))
        optimiser.step()
        losses.append(float(loss.mean([1.0]).detach()))
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])
    rises = []
    with torch.no_grad():
        rest = model(graphs.take(np.arange(4))[0])[:, 0]
        for epoch in range(1000, 1020):
            rises.append(model(gathered_noise(objective, epoch, 4).graph)[:, 0] - rest)
    assert float(torch.cat(rises).mean()) > 0


@pytest.mark.parametrize("by_head", [False, True])
def test_objectives_give_the_same_however_a_batch_is_divided(by_head: bool) -> None:
    model, graphs = small_sieve(dropout=0.0), graphs_of(labelled(6, seed=4), small_sieve())
    settings = ForcesSettings()
    noisy = (
        DenoisingByHead(graphs, alone(6), settings, model)
        if by_head
        else DenoisingByDerivative(graphs, alone(6), settings)
    )
    labels = EnergyForceStress(graphs, graphs.labels[:, 0] / graphs.atom_counts, alone(6), settings)
    for objective in (noisy, labels):
        model.eval()
        whole = objective.sums(model, objective.gather(batch(*range(6))))
        halves = [objective.sums(model, objective.gather(batch(*rows))) for rows in ((4, 1, 0), (2, 5, 3))]
        torch.testing.assert_close(whole.sums, halves[0].sums + halves[1].sums, rtol=1e-5, atol=1e-6)
        assert torch.equal(whole.counts, halves[0].counts + halves[1].counts)


def test_a_weight_of_zero_learns_nothing_of_it_and_energy_alone_needs_no_second_derivative() -> None:
    model, graphs = small_sieve(dropout=0.0), graphs_of(labelled(4, seed=6, missing=0.0), small_sieve())
    above = graphs.labels[:, 0] / graphs.atom_counts
    alone_energy = EnergyForceStress(graphs, above, alone(4), ForcesSettings(energy=1.0, force=0.0, stress=0.0))
    everything = EnergyForceStress(graphs, above, alone(4), ForcesSettings(energy=1.0, force=1e-30, stress=0.0))
    gradients = []
    for objective in (alone_energy, everything):
        loss = objective.sums(model, objective.gather(batch(0, 1, 2, 3)))
        total = loss.mean(list(objective.weights.values()))
        gradients.append(torch.autograd.grad(total, list(model.parameters()), allow_unused=True))
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None) or float(abs(one if other is None else other).max()) < 1e-6
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
