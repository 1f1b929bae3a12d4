"""Small training runs: labelled crystals, a configuration, the run in a folder, the weights that it left."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from made import PERIODIC_KINDS, made_crystals
from safetensors.torch import load_file

from screening import config
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.crystals.write import write
from screening.training.config import TrainingConfig
from screening.training.loop import Progress
from screening.training.material import Listener
from screening.training.recipe import train

SETTINGS = """
[data]
train = ["train.extxyz"]

[model.settings]
width = 8
convolutions = 1
hidden = 8
cutoff = 5.0
elements = "one_hot"

[targets.formation_energy_per_atom]
[targets.is_metal]
kind = "classification"
[targets.bulk_modulus]
scale = "log10"
loss = "huber"

[training]
epochs = 2
batch_size = 8
threads = 1
"""


def labelled(count: int, *, seed: int, prefix: str, fold: bool = False) -> list[Crystal]:
    """Crystals with an energy, a gap that is often 0, and on a third of them a bulk modulus."""
    rng = np.random.default_rng(seed)
    made = []
    for k, crystal in enumerate(made_crystals(count, seed=seed, kinds=PERIODIC_KINDS, max_atoms=5, prefix=prefix)):
        labels = {"formation_energy_per_atom": float(rng.normal()), "band_gap": float(max(rng.normal(), 0.0))}
        if k % 3 == 0:
            labels["bulk_modulus"] = float(rng.uniform(1.0, 300.0))
        if fold:
            labels["fold"] = float(k // 3 % 3)
        made.append(Crystal(crystal.id, crystal.numbers, crystal.positions, crystal.lattice, labels=labels))
    return made


def lay(folder: Path) -> None:
    """Write crystals to train on and to validate, and a configuration."""
    write(Crystals.of(labelled(40, seed=1, prefix="train", fold=True)), folder / "train.extxyz", format="extxyz")
    write(Crystals.of(labelled(12, seed=2, prefix="val")), folder / "val.extxyz", format="extxyz")
    (folder / "c.toml").write_text(SETTINGS, encoding="utf-8")


def ran(
    folder: Path, *overrides: str, out: str = "run", watch: Callable[[Progress], None] | None = None
) -> dict[str, Any]:
    """Run the configuration of a folder in a folder below."""
    settings = config.load(TrainingConfig, folder / "c.toml", overrides=overrides)
    return train(settings, folder / out, Listener(lambda text: None, watch or (lambda progress: None)))


def weights(path: Path) -> dict[str, bytes]:
    """The bytes of a model's weights, by name."""
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}
