"""Going on from a checkpoint: what is taken over, what is new, what stays, and how fast the rest learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made import PERIODIC_KINDS, made_crystals
from sizes import small

from screening.crystals.batch import Crystals
from screening.errors import InputError
from screening.models import checkpoint
from screening.models.header import Card
from screening.models.model import CrystalModel
from screening.models.registry import ARCHITECTURES, build
from screening.predictions import Target
from screening.training.config import InitSettings, OptimiserSettings
from screening.training.labelled import LabelledGraphs
from screening.training.optimise import optimiser_of
from screening.training.tuning import NOTHING, Taken, Tuning, started, target_dimensions

ENERGY, GAP, METAL = Target("energy", "eV"), Target("band_gap", "eV"), Target("is_metal", "1", "classification")
EVERY = sorted(ARCHITECTURES)


def made(architecture: str, *targets: Target, seed: int = 0, **sizes: Any) -> CrystalModel:
    torch.manual_seed(seed)
    model = build(architecture, small(architecture) | sizes, targets)
    model.set_scaling([1.0 + t for t in range(len(targets))], [2.0 + t for t in range(len(targets))])
    # So that no tensor is alike in two models because it begins so.
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(torch.rand(tensor.shape))
    return model


def saved(model: CrystalModel, folder: Path) -> str:
    checkpoint.save(model, folder / "model.safetensors", Card())
    return str(folder)


def encoded_by(model: CrystalModel) -> set[str]:
    """The parameters that a description of atoms depends on."""
    crystals = Crystals.of(made_crystals(3, kinds=PERIODIC_KINDS, max_atoms=4))
    graph, _ = LabelledGraphs.of([crystals], (), model.neighbors).take(torch.arange(3).numpy())
    model.train().zero_grad()
    model.encode(graph).square().sum().backward()
    return {name for name, p in model.named_parameters() if p.grad is not None}


def in_stages(model: CrystalModel) -> list[set[str]]:
    def lies(name: str, part: str) -> bool:
        return name == part or name.startswith(f"{part}.")

    names = [name for name, _ in model.named_parameters()]
    return [{n for n in names for part in stage if lies(n, part)} for stage in model.stages]


@pytest.mark.parametrize("architecture", EVERY)
def test_stages_are_what_encodes(architecture: str) -> None:
    model = made(architecture, ENERGY)
    stages = in_stages(model)
    assert all(stages)
    assert sum(map(len, stages)) == len(set().union(*stages))
    assert set().union(*stages) == encoded_by(model)


@pytest.mark.parametrize("architecture", EVERY)
def test_a_model_without_targets_is_an_encoder(architecture: str, tmp_path: Path) -> None:
    saved(made(architecture), tmp_path)
    path = tmp_path / "model.safetensors"
    with pytest.raises(
        InputError, match=r"is a pre-trained encoder, which predicts nothing; .* `screening train --init`"
    ):
        checkpoint.load(path)
    model, _ = checkpoint.load(path, encoder=True)
    assert model.targets == ()


@pytest.mark.parametrize("architecture", EVERY)
def test_heads_are_taken_over_by_name(architecture: str, tmp_path: Path) -> None:
    source = made(architecture, ENERGY, GAP, METAL)
    model, before = (made(architecture, METAL, ENERGY, seed=1) for _ in range(2))
    taken = started(model, InitSettings(checkpoint=saved(source, tmp_path), new_heads=("is_metal",)))
    assert taken == Taken({"energy": source.scaling[0]})
    ours, theirs, first = (m.state_dict() for m in (model, source, before))
    along = target_dimensions(model)
    assert along
    for name, tensor in ours.items():
        if name in along:
            assert torch.equal(tensor.select(along[name], 1), theirs[name].select(along[name], 0)), name
            assert torch.equal(tensor.select(along[name], 0), first[name].select(along[name], 0)), name
        else:
            assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("of", ["an encoder", "a model, without its readout"])
@pytest.mark.parametrize("architecture", ["cgcnn", "sieve"])
def test_an_encoder_alone_can_be_taken_over(architecture: str, of: str, tmp_path: Path) -> None:
    source = made(architecture) if of == "an encoder" else made(architecture, GAP)
    model, before = (made(architecture, GAP, seed=1) for _ in range(2))
    readout = of == "an encoder"
    assert started(model, InitSettings(checkpoint=saved(source, tmp_path), readout=readout)) == NOTHING
    encoder = set().union(*in_stages(model))
    for name, parameter in model.named_parameters():
        right = source if name in encoder else before
        assert torch.equal(parameter, right.state_dict()[name]), name


@pytest.mark.parametrize(
    ("source", "init", "said"),
    [
        (("sieve", {}), {}, "is a sieve, and this run trains a cgcnn; set model.architecture = 'sieve'"),
        (
            ("cgcnn", {"width": 12}),
            {},
            r"its embedding.weight is of shape \(12, 92\), here it is of shape \(8, 92\); give",
        ),
        (("cgcnn", {"convolutions": 1}), {}, r"its convolutions.1.*is absent"),
        (
            ("cgcnn", {"convolutions": 3, "hidden": 9}),
            {"readout": False},
            r"its convolutions\.2\.\S+ is of shape .*, here it is absent; give model\.settings the sizes of its encoder"
            r"\. What differs: convolutions \(there 3, here 2\), hidden \(there 9, here 6\)",
        ),
        (("cgcnn", {"hidden": 9}), {}, r"heads.hidden.0.weight: in the checkpoint a target's part.*init.readout=false"),
        (
            ("cgcnn", {"cutoff": 6.0}),
            {},
            r"learned on neighbours of cutoff = 6\.0 and max_neighbors = \d+ \(exactly so many\), and this run",
        ),
        (("cgcnn", {}), {"frozen": 4}, "init.frozen is 4, and the encoder of cgcnn has 3 stages; give at most so many"),
    ],
)
def test_what_does_not_fit_is_said(source: tuple[str, Any], init: Any, said: str, tmp_path: Path) -> None:
    settings = InitSettings(checkpoint=saved(made(source[0], GAP, **source[1]), tmp_path), **init)
    model = made("cgcnn", GAP)

    def start() -> None:
        started(model, settings)
        Tuning.of(settings).freeze(model)

    with pytest.raises(InputError, match=said):
        start()


def test_a_target_of_another_unit_is_refused_or_new(tmp_path: Path) -> None:
    path = saved(made("cgcnn", Target("band_gap", "meV")), tmp_path)
    model = made("cgcnn", GAP)
    with pytest.raises(InputError, match=r"its band_gap is a regression on the scale linear in meV.*init\.new_heads"):
        started(model, InitSettings(checkpoint=path))
    assert started(model, InitSettings(checkpoint=path, new_heads=("band_gap",))) == NOTHING


@pytest.mark.parametrize("frozen", [0, 1, 2, 3, None])
def test_frozen_stages_rest(frozen: int | None) -> None:
    model, tuning = made("cgcnn", GAP), Tuning(frozen)
    tuning.freeze(model)
    stages = in_stages(model)
    resting = set().union(*stages[:frozen])
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == resting
    model.train()
    tuning.rest(model)
    asleep = [name for name, module in model.named_modules() if not module.training and name.endswith("moments")]
    assert len(asleep) == 2 * max(0, (3 if frozen is None else frozen) - 1)
    assert all(name.startswith("convolutions") for name in asleep)


def test_stages_learn_at_rates_of_their_own() -> None:
    model = made("cgcnn", GAP)
    factors = Tuning(1, rate=0.5, decay=0.1).factors(model)
    optimiser = optimiser_of(model, OptimiserSettings(weight_decay=0.3), factors)
    names = {p: name for name, p in model.named_parameters()}
    found = {names[p]: group["factor"] for group in optimiser.param_groups for p in group["params"]}
    assert found["embedding.weight"] == pytest.approx(0.5 * 0.01)
    assert found["convolutions.0.messages.centre"] == pytest.approx(0.5 * 0.1)
    assert found["convolutions.1.moments.bias"] == 0.5
    assert found["heads.output.bias"] == 1.0
    decays = {names[p]: group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert {decays[name] for name in found if dict(model.named_parameters())[name].ndim > 1} == {0.3}
