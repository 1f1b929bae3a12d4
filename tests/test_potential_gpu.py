"""Potentials on a GPU against the CPU: forces, what a run learns, a property that starts from it, relaxation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made import PERIODIC_KINDS, made_crystals
from safetensors.torch import load_file
from sizes import SMOOTH, small

from screening import config
from screening.crystals.batch import Crystals
from screening.crystals.write import write
from screening.models.registry import build
from screening.predictions import Target
from screening.relaxation.potential import Potential
from screening.relaxation.relax import relax
from screening.relaxation_limits import RelaxationLimits
from screening.training.config import TrainingConfig
from screening.training.forces_config import ForcesConfig
from screening.training.material import Listener
from screening.training.recipe import train

pytestmark = [pytest.mark.gpu, pytest.mark.native]

TARGET = Target("referenced_energy_per_atom", "eV/atom")
SILENT = Listener(lambda text: None, lambda progress: None)
DEVICES = ("cpu", "cuda")


@pytest.fixture(scope="module", autouse=True)
def usable() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch cannot use a CUDA device: torch.cuda.is_available() is False")


def cells(count: int, seed: int) -> Crystals:
    return Crystals.of(made_crystals(count, seed=seed, kinds=PERIODIC_KINDS, max_atoms=5, labels=("energy",)))


@pytest.mark.parametrize("architecture", sorted(SMOOTH))
def test_energy_forces_and_stress_equal_the_cpu(architecture: str) -> None:
    found = {}
    for device in DEVICES:
        torch.manual_seed(1)
        model = build(architecture, small(architecture) | SMOOTH[architecture], [TARGET]).double()
        with Potential(model, device=device) as potential:
            found[device] = potential(cells(20, 3))
    for name in ("energy", "forces", "stress"):
        ours, theirs = (getattr(found[device], name) for device in DEVICES)
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("learn", ["labels", "denoising", "denoising_by_head"])
@pytest.mark.parametrize("architecture", sorted(SMOOTH))
def test_a_run_learns_what_it_learns_on_the_cpu_and_a_property_starts_from_it(
    architecture: str, learn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = made_crystals(40, seed=1, kinds=PERIODIC_KINDS, max_atoms=4, labels=("energy",), missing=0.2, forces=True)
    write(made, "crystals.extxyz", format="extxyz")
    write([replace(c, labels={"band_gap": float(len(c))}) for c in made], "gaps.extxyz", format="extxyz")
    model = {"architecture": architecture, "settings": small(architecture) | SMOOTH[architecture]}
    # So slow that what rounding changes is all that differs.
    loop = {"epochs": 2, "batch_size": 16, "optimiser": {"rate": 1e-5}, "threads": 1}
    losses, weights = [], []
    for device in DEVICES:
        learned = config.validated(
            ForcesConfig,
            {
                "data": {"train": ["crystals.extxyz"], "split": {"validation": 0.2}},
                "forces": {"learn": learn},
                "model": model,
                "training": loop | {"device": device},
            },
            origin="the test",
        )
        losses.append(train(learned, tmp_path / device, SILENT)["validation"]["loss"])
        tuned = config.validated(
            TrainingConfig,
            {
                "data": {"train": ["gaps.extxyz"], "split": {"validation": 0.2}},
                "targets": {"band_gap": {"loss": "l1"}},
                "model": model,
                "init": {"checkpoint": device, "readout": False},
                "training": loop | {"device": device},
            },
            origin="the test",
        )
        train(tuned, tmp_path / f"{device}-gap", SILENT)
        weights.append(load_file(tmp_path / f"{device}-gap/model.safetensors"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=2e-3, atol=2e-3, msg=name)


def test_crystals_relax_to_where_they_do_on_the_cpu() -> None:
    ends = []
    for device in DEVICES:
        torch.manual_seed(1)
        model = build("sieve", small("sieve") | SMOOTH["sieve"], [TARGET]).double()
        with Potential(model, device=device) as potential:
            ends.append(list(relax(potential, [cells(12, 5)], RelaxationLimits(steps=8))))
    for ours, theirs in zip(*ends, strict=True):
        assert ours.outcome == theirs.outcome
        np.testing.assert_allclose(ours.crystal.positions, theirs.crystal.positions, rtol=0, atol=1e-5)
