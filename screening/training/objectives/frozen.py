"""Moments that stand still: a model whose energy depends on a crystal alone, while it learns and when it is taken over.

Without that its derivatives are no forces.
"""

from collections.abc import Collection, Sequence

import torch

from screening.arrays import Int64
from screening.models.layers import Heads, Moments
from screening.models.model import CrystalModel
from screening.training.batching import epoch_batches
from screening.training.config import LoopSettings
from screening.training.labelled import LabelledGraphs

# Moments are measured on so many batches.
BATCHES = 8


def calm(model: CrystalModel) -> None:
    """Let moments be what they are, not those of the batch, and let heads drop nothing.

    Moments of a batch would make each energy depend on the other crystals, and dropout would make it depend on chance.
    """
    for module in model.modules():
        if isinstance(module, Moments | Heads):
            module.eval()


@torch.no_grad()
def calibrate(model: CrystalModel, graphs: LabelledGraphs, rows: Int64, settings: LoopSettings) -> None:
    """Measure the moments of a new model on some batches, once: the mean over these is what they stay at.

    Moments that rest, which are not in training, stay at what they are.
    """
    moments = [module for module in model.modules() if isinstance(module, Moments) and module.training]
    if moments:
        with torch.random.fork_rng(devices=[]):
            _measure(moments, model.to(settings.device), graphs, _some(graphs, rows, settings))


@torch.no_grad()
def rebase(
    model: CrystalModel, taken: Collection[str], graphs: LabelledGraphs, rows: Int64, settings: LoopSettings
) -> None:
    """Give the moments among tensors taken over those of other crystals, and weights by which nothing else changes.

    A model whose moments stood still while it learned is a function of them: in training, which takes the moments of
    each batch, it would begin as another one.
    """
    moments = [m for name, m in model.named_modules() if isinstance(m, Moments) and f"{name}.running_mean" in taken]
    batches = _some(graphs, rows, settings)
    # The others normalise by what they have, so that each sees what it will see, in whatever order they come.
    model.to(settings.device).eval()
    for module in moments:
        factor, shift = module.running()
        _measure([module.train()], model, graphs, batches)
        module.eval()
        module.weight.copy_(factor * torch.sqrt(module.running_var + module.epsilon))
        module.bias.copy_(shift + factor * module.running_mean)


def _measure(moments: Sequence[Moments], model: CrystalModel, graphs: LabelledGraphs, batches: Sequence[Int64]) -> None:
    """Let these follow the batches until they are at the mean over all of them."""
    kept = [module.momentum for module in moments]
    device = next(model.parameters()).device
    for number, rows in enumerate(batches):
        for module in moments:
            module.momentum = 1 / (number + 1)
        model(graphs.take(rows, device=str(device))[0])
    for module, momentum in zip(moments, kept, strict=True):
        module.momentum = momentum


def _some(graphs: LabelledGraphs, rows: Int64, settings: LoopSettings) -> list[Int64]:
    """The first batches of a run."""
    return epoch_batches(
        graphs,
        rows,
        batch_size=settings.batch_size,
        max_atoms=settings.max_atoms,
        max_edges=settings.max_edges,
        seed=settings.seed,
        epoch=0,
    )[:BATCHES]
