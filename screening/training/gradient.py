"""The gradient of a batch, whoever computes its parts: the one place where ranks become one learner.

An objective gives, for the part of a batch that is here, what each term of its loss sums to and over how many. That is
all it has to do: it says nothing of ranks. What it needs of the whole batch beyond that, it asks of `models/across.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from screening.training.losses import LossSums
from screening.training.ranks import Ranks


@dataclass(frozen=True, slots=True, eq=False)
class BatchLoss:
    """The loss of a whole batch: what this rank adds to the scalar, differentiable, and all terms' sums and counts."""

    own: Tensor
    value: float
    sums: list[float]
    counts: list[float]
    asked: bool

    @property
    def is_finite(self) -> bool:
        """Whether it can be learned from."""
        return math.isfinite(self.value)


def whole_loss(own: LossSums, weights: Sequence[float], ranks: Ranks, *, asks: bool = False) -> BatchLoss:
    """Add up the parts of a batch's loss. `asks` is a question of the first rank that travels along, its answer too."""
    if ranks.size == 1:
        total = own.mean(weights)
        return BatchLoss(total, float(total.detach()), own.sums.detach().tolist(), own.counts.tolist(), asks)
    terms = len(weights)
    question = own.sums.new_tensor([float(asks and ranks.is_first)], dtype=torch.float64)
    packed = ranks.total(torch.cat([own.sums.detach().double(), own.counts.double(), question]))
    whole = LossSums(packed[:terms], packed[terms : 2 * terms])
    numbers = packed.tolist()
    return BatchLoss(
        own=own.mean(weights, whole.counts),
        value=float(whole.mean(weights)),
        sums=numbers[:terms],
        counts=numbers[terms : 2 * terms],
        asked=bool(numbers[-1]),
    )


def differentiate(
    loss: BatchLoss, penalty: Tensor | None, parameters: Sequence[nn.Parameter], scaler: GradScaler, ranks: Ranks
) -> None:
    """Leave in every parameter the (scaled) gradient of the whole batch's loss, the same bits on every rank.

    A penalty on the weights, which all ranks know, is shared between them.
    """
    for parameter in parameters:
        parameter.grad = None
    own = loss.own if penalty is None else loss.own + penalty / ranks.size
    torch.autograd.backward(scaler.scale(own))
    ranks.add_gradients(parameters)
