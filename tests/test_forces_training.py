"""Runs that learn derivatives: seeds, resuming, ranks, what starts from them, what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from forces_made import SILENT, alone, batch, graphs_of, labelled, small_sieve
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from screening import config
from screening.cli import app
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.crystals.write import write
from screening.errors import InputError
from screening.models.checkpoint import load
from screening.models.header import read_card
from screening.models.layers import Moments
from screening.models.model import CrystalModel
from screening.relaxation.potential import Potential
from screening.runs.clusters import chosen
from screening.runs.ranks import train as train_on
from screening.training.config import TrainingConfig
from screening.training.forces_config import ForcesConfig
from screening.training.journal import read_journal
from screening.training.lessons.forces import LEARNED
from screening.training.loop import Progress
from screening.training.material import Listener
from screening.training.objectives.denoising import DenoisingByHead
from screening.training.objectives.forces import Compared, EnergyForceStress
from screening.training.recipe import prepare, splits_of, train

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("one_torch_thread")]


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
        assert re.search(r"force of first\.extxyz mae .* eV/angstrom\n", result.stdout.partition(part)[2])
    metrics = json.loads((folder / "run/metrics.json").read_text())
    for part in ("validation", "test"):
        found = metrics[part]["derivatives"]
        assert {"energy", "force", "stress", "force of second.extxyz"} <= set(found)
        assert found["force"]["count"] == sum(found[f"force of {s}.extxyz"]["count"] for s in ("first", "second"))
        assert 0 < found["force"]["mae"] <= found["force"]["rmse"]
    architecture, targets, card = read_card(folder / "run/model.safetensors")
    assert (architecture, targets) == ("sieve", (LEARNED,))
    assert set(card.references) == {"first.extxyz", "second.extxyz"}
    assert re.search(r"force of first\.extxyz +eV/angstrom +\d", called("models", "run").stdout)
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
        ("model={architecture='cgcnn'}", "this cgcnn .* is not smooth"),
        ("init.checkpoint=nowhere", "nowhere: is no file, no folder and no shipped model"),
        ("training.select=noise.mae", "expected one of loss, energy.mae, energy.rmse, force.mae"),
        ("forces.learn=denoising training.select=force.mae", "expected one of loss, noise.mae, noise.rmse$"),
    ],
)
@pytest.mark.usefixtures("nothing_is_read")
def test_what_cannot_be_is_refused_unread(folder: Path, override: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ran(folder, *override.split())


def test_a_setting_of_the_default_model_leaves_it_smooth() -> None:
    def model(**given: Any) -> Any:
        table = {"data": {"train": ["first.extxyz"]}, "model": given}
        return config.validated(ForcesConfig, table, origin="test").model

    wide = model(settings={"width": 8})
    assert (wide.architecture, wide.settings) == ("sieve", {"cutoff": 5.0, "max_neighbors": "all", "width": 8})
    assert model(architecture="sieve", settings={"cutoff": 4.0}).settings == {"cutoff": 4.0, "max_neighbors": "all"}
    assert model(architecture="equivariant_transformer", settings={"width": 8}).settings == {"width": 8}


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
