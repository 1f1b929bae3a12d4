"""Learning derivatives: signs, sources, seeds, resuming, and what the command leaves."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made import PERIODIC_KINDS, made_crystals
from safetensors.torch import load_file
from sizes import SMOOTH, small
from typer.testing import CliRunner, Result

from screening import config
from screening.cli import app
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.crystals.write import write
from screening.errors import InputError
from screening.models.checkpoint import load, read_card
from screening.models.layers import Moments
from screening.models.model import CrystalModel
from screening.models.registry import build
from screening.relaxation.potential import Potential
from screening.runs.clusters import chosen
from screening.runs.ranks import train as train_on
from screening.training.config import TrainingConfig
from screening.training.forces_config import ForcesConfig, ForcesSettings
from screening.training.journal import read_journal
from screening.training.labelled import LabelledGraphs
from screening.training.lessons.forces import ENERGY, LEARNED
from screening.training.loop import Progress
from screening.training.material import Listener
from screening.training.mechanics import PLACES, STRESS, VOLUME
from screening.training.objectives.denoising import DenoisingByDerivative, DenoisingByHead, normal
from screening.training.objectives.errors import ErrorSums
from screening.training.objectives.forces import Compared, EnergyForceStress, Sources
from screening.training.objectives.objective import Batch, Part
from screening.training.recipe import prepare, splits_of, train
from screening.training.references import References

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("one_torch_thread")]


def labelled(count: int, *, seed: int, prefix: str = "made", missing: float = 0.2) -> list[Crystal]:
    return made_crystals(
        count,
        seed=seed,
        kinds=PERIODIC_KINDS,
        max_atoms=4,
        labels=("energy",),
        missing=missing,
        forces=True,
        prefix=prefix,
    )


def small_sieve(**more: object) -> CrystalModel:
    torch.manual_seed(1)
    return build("sieve", small("sieve") | SMOOTH["sieve"] | more, (LEARNED,))


def graphs_of(crystals: list[Crystal], model: CrystalModel) -> LabelledGraphs:
    labels = (ENERGY, VOLUME, *STRESS)
    return LabelledGraphs.of([Crystals.of(crystals)], labels, model.neighbors, forces=True)


def alone(crystals: int) -> Sources:
    return Sources(("one",), np.zeros(crystals, np.int64))


SILENT = Listener(lambda text: None, lambda progress: None)


def batch(*rows: int, epoch: int = 0) -> Batch:
    return Batch(np.array(rows), np.arange(len(rows)), epoch, 7, "cpu")


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


CONFIG = """
[data]
train = ["first.extxyz", "second.extxyz"]
split = { validation = 0.2, test = 0.2 }
[model]
architecture = "sieve"
settings = { cutoff = 4.0, max_neighbors = "all", width = 8, convolutions = 2, hidden = 6, hidden_layers = 1 }
[training]
epochs = 3
batch_size = 8
optimiser = { rate = 0.003 }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(labelled(20, seed=1, prefix="a"), tmp_path / "first.extxyz", format="extxyz")
    write(labelled(15, seed=2, prefix="b"), tmp_path / "second.extxyz", format="extxyz")
    (tmp_path / "c.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(folder: Path, *overrides: str, out: str = "run"):
    settings = config.load(ForcesConfig, folder / "c.toml", overrides=overrides)
    return train(settings, folder / out, SILENT)


def journal(folder: Path) -> list[dict[str, Any]]:
    clock = ("seconds", "crystals_per_s")
    return [{k: v for k, v in entry.items() if k not in clock} for entry in read_journal(folder / "metrics.jsonl")]


def called(*words: str) -> Result:
    context = SimpleNamespace(check=lambda: None)
    return CliRunner().invoke(app, list(words), obj=context, catch_exceptions=False)


def test_a_run_learns_and_measures_each_source_and_its_model_relaxes(folder: Path) -> None:
    result = called("train-forces", "c.toml", "--out", "run")
    assert result.exit_code == 0
    for part in ("validation loss", "test loss"):
        assert "force of first.extxyz" in result.stdout.partition(part)[2]
    metrics = json.loads((folder / "run/metrics.json").read_text())
    for part in ("validation", "test"):
        found = metrics[part]["derivatives"]
        assert {"energy", "force", "stress", "force of second.extxyz"} <= set(found)
        assert found["force"]["count"] == sum(found[f"force of {s}.extxyz"]["count"] for s in ("first", "second"))
        assert 0 < found["force"]["mae"] <= found["force"]["rmse"]
    architecture, targets, card = read_card(folder / "run/model.safetensors")
    assert (architecture, targets) == ("sieve", (LEARNED,))
    assert set(card.references) == {"first.extxyz", "second.extxyz"}
    relaxed = called("relax", "first.extxyz", "-m", "run", "-o", "out.extxyz", "--steps", "1", "--quiet")
    assert relaxed.exit_code == 0


def test_the_seed_decides_and_nothing_else(folder: Path) -> None:
    for out in ("one", "two"):
        ran(folder, "training.epochs=1", "forces.learn=denoising", out=out)
    one, two = (load(folder / out / "model.safetensors")[0].state_dict() for out in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_head_of_noise_leaves_an_encoder_that_properties_start_from(folder: Path) -> None:
    found = ran(folder, "training.epochs=1", "forces.learn=denoising_by_head")
    assert found["validation"]["denoising"]["noise"]["mae"] > 0
    model, _ = load(folder / "run/model.safetensors", encoder=True)
    assert model.targets == ()
    (folder / "p.toml").write_text(
        CONFIG.replace("[model]", "[targets.energy]\n[model]").replace(
            '"first.extxyz", "second.extxyz"', '"first.extxyz"'
        )
    )
    result = called("train", "p.toml", "--init", "run", "--set", "training.epochs=1", "--out", "fine", "--quiet")
    assert result.exit_code == 0


def test_energies_of_elements_that_training_does_not_know_are_left_out_and_counted(folder: Path) -> None:
    said: list[str] = []
    settings = config.load(ForcesConfig, folder / "c.toml", overrides=["training.epochs=1"])
    found = train(settings, folder / "run", Listener(said.append, lambda progress: None))
    material = prepare(settings, SILENT)
    graphs, (split,) = material.graphs, splits_of(settings, material)
    source, labelled_ = np.repeat([0, 1], material.sizes), ~np.isnan(graphs.labels[:, 0])

    def is_known(row: int) -> bool:
        train_rows = [r for r in split.train.tolist() if source[r] == source[row] and labelled_[r]]
        return set(graphs.elements(np.array([row]))) <= set(graphs.elements(np.array(train_rows)))

    rows = {"validation": split.validation, "test": split.test}
    energies = {part: [is_known(r) for r in own.tolist() if labelled_[r]] for part, own in rows.items()}
    assert {part: found[part]["derivatives"]["energy"]["count"] for part in rows} == {
        part: sum(own) for part, own in energies.items()
    }
    unknown = sum(not known for own in energies.values() for known in own)
    assert unknown
    assert any(f"; {unknown} energies to validate and test are left out, such as that of " in text for text in said)


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("learn", ["labels", "denoising", "denoising_by_head"])
def test_killed_and_continued_is_never_killed(folder: Path, learn: str) -> None:
    def kill(progress: Progress) -> None:
        if progress.step == 4:
            raise Killed

    overrides = (f"forces.learn={learn}", "training.ema_decay=0.9", "training.save_every_s=0")
    settings = config.load(ForcesConfig, folder / "c.toml", overrides=overrides)
    with pytest.raises(Killed):
        train(settings, folder / "killed", Listener(lambda text: None, kill))
    assert (folder / "killed/state.safetensors").exists()
    found, right = ran(folder, *overrides, out="killed"), ran(folder, *overrides)
    assert found == right
    assert journal(folder / "killed") == journal(folder / "run")
    ours, theirs = (load_file(folder / out / "model.safetensors") for out in ("killed", "run"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_ranks_learn_what_one_process_learns(folder: Path) -> None:
    ran(folder, out="first")
    overrides = ("init.checkpoint=first", "training.threads=1", "data.train=['second.extxyz']")
    right = ran(folder, *overrides)
    settings = config.load(ForcesConfig, folder / "c.toml", overrides=overrides)
    found = train_on(settings, folder / "ranks", SILENT, chosen("local:2"))
    for part in ("validation", "test"):
        assert found[part]["loss"] == pytest.approx(right[part]["loss"], rel=1e-3)
    models = [load(folder / out / "model.safetensors")[0] for out in ("first", "run", "ranks")]
    assert models[0].scaling == models[1].scaling == models[2].scaling
    assert not (folder / "ranks/graphs").exists()


# So slow that no weight moves.
STILL = ("training.epochs=1", "training.optimiser.rate=1e-12")


def test_a_potential_that_starts_from_another_keeps_the_scale_of_its_head(folder: Path) -> None:
    ran(folder)
    found = ran(folder, "data.train=['second.extxyz']", "init.checkpoint=run", *STILL, out="more")
    first, more = (load(folder / out / "model.safetensors")[0] for out in ("run", "more"))
    assert more.scaling == first.scaling
    crystals = Crystals.of(labelled(4, seed=9))
    with Potential(first, threads=1) as one, Potential(more, threads=1) as other:
        np.testing.assert_allclose(other(crystals).energy, one(crystals).energy, rtol=1e-5)
    assert found["validation"]["loss"] == pytest.approx(journal(folder / "more")[-1]["validation"]["loss"], rel=1e-6)


@pytest.mark.parametrize("learn", ["labels", "denoising"])
def test_a_readout_that_begins_anew_is_calibrated_and_the_encoder_is_not(folder: Path, learn: str) -> None:
    ran(folder)
    ran(folder, f"forces.learn={learn}", "init={checkpoint='run',readout=false}", *STILL, out="more")
    first, more = (load(folder / out / "model.safetensors")[0].state_dict() for out in ("run", "more"))
    moments = [name for name in more if "running_" in name]
    for name in moments:
        assert torch.equal(more[name], first[name]) == name.startswith("blocks."), name
    assert not torch.equal(more["last.running_mean"], torch.zeros(8))


def shared_moments(model: CrystalModel) -> list[Moments]:
    return [module for name, module in model.named_modules() if isinstance(module, Moments) and "blocks" in name]


def test_a_property_begins_with_what_a_potential_knows(folder: Path) -> None:
    """Its moments stood still as its weights moved, and other crystals have others: neither may change what it says."""
    ran(folder, "training.epochs=6", "training.optimiser.rate=0.02")
    source, _ = load(folder / "run/model.safetensors")
    others = [replace(crystal, labels={"band_gap": float(len(crystal))}) for crystal in labelled(30, seed=9)]
    write(others, folder / "others.extxyz", format="extxyz")
    values = {
        "data": {"train": [folder / "others.extxyz"], "split": {"by": "random", "validation": 0.1}},
        "targets": {"band_gap": {"loss": "l1"}},
        "model": {"architecture": "sieve", "settings": source.settings.model_dump()},
        "init": {"checkpoint": str(folder / "run"), "readout": False},
        "training": {"epochs": 1, "batch_size": 27, "optimiser": {"rate": 1e-12}, "threads": 1},
    }
    train(config.validated(TrainingConfig, values, origin="the test"), folder / "property", SILENT)
    found, _ = load(folder / "property/model.safetensors")
    graph, _ = graphs_of(others, source).take(np.arange(30))
    with torch.no_grad():
        right, before = source.encode(graph), [module.running_var.clone() for module in shared_moments(source)]
        torch.testing.assert_close(found.encode(graph), right, rtol=1e-3, atol=1e-3)
        for module, stale in zip(shared_moments(found), before, strict=True):
            module.train()
            assert not torch.allclose(module.running_var, stale, rtol=0.2)
        # In training, by the moments of this batch, it is nearly the same; as it was it would be another.
        trained = found.encode(graph)
        for module in shared_moments(source):
            module.train()
        wrong = source.encode(graph)
    assert float((trained - right).square().mean()) < 0.1 * float((wrong - right).square().mean())


@pytest.mark.parametrize(
    ("override", "limit", "references"),
    [
        ("forces.learn=labels", "", True),
        ("forces={force=0.0,stress=0.0}", "", True),
        ("forces={energy=0.0}", "cannot be compared", False),
        ("forces.learn=denoising", "no unit", False),
        ("forces.learn=denoising_by_head", "", False),
    ],
)
def test_a_card_says_what_energies_are_worth(folder: Path, override: str, limit: str, references: bool) -> None:
    ran(folder, override, "training.epochs=1", "card.limits='Of ours.'")
    card = load(folder / "run/model.safetensors", encoder=True)[1]
    assert card.limits.startswith("Of ours.")
    assert limit in card.limits
    assert (card.limits == "Of ours.") == (not limit)
    assert bool(card.references) == references


def test_energies_alone_are_learned_on_their_own_scale(folder: Path) -> None:
    # Of one element, so that the reference is the mean and leaves the deviation.
    copper = [replace(c, numbers=np.full(len(c), 29, np.uint8)) for c in labelled(30, seed=3, missing=0.0)]
    write(copper, folder / "copper.extxyz", format="extxyz")
    overrides = ["data.train=['copper.extxyz']", "training.epochs=1"]
    scales = {}
    for name, forces in (("all", "{}"), ("energies", "{force=0.0,stress=0.0}")):
        ran(folder, *overrides, f"forces={forces}", out=name)
        scales[name] = load(folder / name / "model.safetensors")[0].scaling[0].std
    settings = config.load(ForcesConfig, folder / "c.toml", overrides=overrides)
    material = prepare(settings, SILENT)
    rows, graphs = splits_of(settings, material)[0].train, material.graphs
    assert scales["all"] == pytest.approx(float(np.sqrt((graphs.forces_in(rows).astype(np.float64) ** 2).mean())))
    assert scales["energies"] == pytest.approx((graphs.labels[:, 0] / graphs.atom_counts)[rows].std())


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("forces={energy=0.0,force=0.0,stress=0.0}", "give one of them a weight"),
        ("data.split={by='files'}", "split"),
        ("data.split.folds=3", "without folds"),
        ("training.precision=bf16", "second derivatives"),
        ("training={precision='fp16'} forces={learn='denoising'}", "second derivatives"),
        ("training={precision='bf16'} forces={force=0.0}", "second derivatives"),
        ("model.settings.max_neighbors=12", "not smooth"),
        ("data.train=['first.extxyz','./first.extxyz']", "told apart by their names"),
        ("training.select=noise.mae", "expected one of loss, energy.mae, energy.rmse, force.mae"),
        ("forces.learn=denoising training.select=force.mae", "expected one of loss, noise.mae, noise.rmse$"),
    ],
)
def test_what_cannot_be_is_refused_unread(folder: Path, monkeypatch: Any, override: str, said: str) -> None:
    monkeypatch.setattr("screening.training.recipe.read_crystals", None)
    with pytest.raises(InputError, match=said):
        ran(folder, *override.split())


@pytest.mark.parametrize("label", ["energy", "force", "stress"])
def test_a_weight_on_labels_that_nobody_has_is_refused(folder: Path, label: str) -> None:
    def without(crystal: Crystal) -> Crystal:
        lost = {"energy": {"labels": {}}, "force": {"forces": None}, "stress": {"stress": None}}
        return replace(crystal, **lost[label])

    for seed, name in ((1, "first"), (2, "second")):
        crystals = [without(crystal) for crystal in labelled(15, seed=seed, prefix=name)]
        write(crystals, folder / f"{name}.extxyz", format="extxyz")
    with pytest.raises(InputError, match=f"no crystal to train on has the label {label}, whose weight forces.{label}"):
        ran(folder)
    found = ran(folder, f"forces.{label}=0", out="without")
    assert found["validation"]["derivatives"][label]["count"] == 0
    # Noise needs no labels.
    assert ran(folder, "forces.learn=denoising", out="denoised")["epochs"] > 0


@pytest.mark.parametrize("forces", ["{learn='denoising_by_head'}", "{force=0.0,stress=0.0}"])
def test_what_is_differentiated_once_may_be_in_half_precision(folder: Path, forces: str) -> None:
    with pytest.raises(InputError, match="is for GPUs"):
        ran(folder, "training.precision=bf16", f"forces={forces}")
    settings = config.load(ForcesConfig, folder / "c.toml", overrides=[f"forces={forces}"]).forces
    model, graphs = small_sieve(dropout=0.0), graphs_of(labelled(6, seed=4), small_sieve())
    objective: Compared
    if settings.learn == "labels":
        objective = EnergyForceStress(graphs, graphs.labels[:, 0] / graphs.atom_counts, alone(6), settings)
    else:
        objective = DenoisingByHead(graphs, alone(6), settings, model)
    losses = []
    for narrow in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = objective.sums(model.eval(), objective.gather(batch(*range(6))))
        gradients = torch.autograd.grad(loss.sums.sum(), list(model.parameters()), allow_unused=True)
        assert all(one is None or torch.isfinite(one).all() for one in gradients)
        losses.append(loss.sums.detach())
    torch.testing.assert_close(losses[1], losses[0], rtol=0.03, atol=1e-3)
