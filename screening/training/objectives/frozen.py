"""A model whose energy depends on a crystal alone, while it learns: without that its derivatives are no forces."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from screening.models.layers import Heads, Moments
from screening.models.model import CrystalModel
from screening.training.labelled import LabelledGraphs

Int64 = npt.NDArray[np.int64]


def calm(model: CrystalModel) -> None:
    """Let moments be what they are, not those of the batch, and let heads drop nothing.

    Moments of a batch would make each energy depend on the other crystals, and dropout would make it depend on chance.
    """
    for module in model.modules():
        if isinstance(module, Moments | Heads):
            module.eval()


@torch.no_grad()
def calibrate(model: CrystalModel, graphs: LabelledGraphs, batches: Sequence[Int64], *, device: str) -> None:
    """Measure the moments of a new model on some batches, once: the mean over these is what they stay at.

    Moments that rest, which are not in training, stay at what they are.
    """
    moments = [module for module in model.modules() if isinstance(module, Moments) and module.training]
    kept = [module.momentum for module in moments]
    model.to(device)
    for number, rows in enumerate(batches if moments else ()):
        for module in moments:
            module.momentum = 1 / (number + 1)
        model(graphs.take(rows, device=device)[0])
    for module, momentum in zip(moments, kept, strict=True):
        module.momentum = momentum
