"""The error that is minimised: per target a mean over the labels that are there, summed with the targets' weights.

    loss = sum_t w_t * mean over labelled crystals c of l_t(output[c, t], label[c, t]) / sum_t w_t

A missing label (NaN) takes no part: neither in the value, nor in any gradient, nor in a count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from screening.training.config import LossName


@dataclass(frozen=True, slots=True)
class TargetLoss:
    """The loss of one head."""

    name: LossName
    weight: float = 1.0
    delta: float = 1.0


class LossSums(NamedTuple):
    """Per term of a loss, (terms,), the sum over what it is a mean of, and how many that are, by their weights.

    Sums and counts of the parts of a batch add up to those of the batch, as means do not.
    """

    sums: Tensor
    counts: Tensor

    def mean(self, weights: Sequence[float], counts: Tensor | None = None) -> Tensor:
        """The scalar to minimise; with the counts of a whole batch, what this part of it adds to the scalar."""
        factors = self.sums.new_tensor(weights)
        of = (self.counts if counts is None else counts).to(self.sums.dtype)
        found: Tensor = (factors * self.sums / torch.where(of > 0, of, 1.0)).sum() / factors.sum()
        return found


class LossParts(NamedTuple):
    """The scalar to minimise, and per target the sum of its losses and how many labels they are of."""

    total: Tensor
    sums: Tensor
    counts: Tensor


def masked_loss(outputs: Tensor, labels: Tensor, losses: Sequence[TargetLoss]) -> LossParts:
    """Compare outputs with labels, both normalised, (crystals, targets)."""
    found = masked_sums(outputs, labels, losses)
    return LossParts(found.mean([loss.weight for loss in losses]), found.sums.detach(), found.counts)


def masked_sums(outputs: Tensor, labels: Tensor, losses: Sequence[TargetLoss]) -> LossSums:
    """Add up the losses of each target over the labels that are there."""
    each, present = crystal_losses(outputs, labels, losses)
    return LossSums(each.sum(0), present.sum(0))


def crystal_losses(outputs: Tensor, labels: Tensor, losses: Sequence[TargetLoss]) -> tuple[Tensor, Tensor]:
    """The unweighted loss of each crystal and target, 0 where the label is missing, and where it is present."""
    present = ~torch.isnan(labels)
    # The output is put in place of a missing label, and replaced itself, so that no NaN enters a gradient.
    zeros = torch.zeros_like(outputs)
    shown, right = torch.where(present, outputs, zeros), torch.where(present, labels.to(outputs.dtype), zeros)
    columns = [_one(shown[:, t], right[:, t], loss) for t, loss in enumerate(losses)]
    return torch.where(present, torch.stack(columns, dim=1), zeros), present


def _one(output: Tensor, label: Tensor, loss: TargetLoss) -> Tensor:
    match loss.name:
        case LossName.MSE:
            return (output - label).square()
        case LossName.L1:
            return (output - label).abs()
        case LossName.HUBER:
            return F.huber_loss(output, label, reduction="none", delta=loss.delta)
        case LossName.SMOOTH_L1:
            return F.smooth_l1_loss(output, label, reduction="none", beta=loss.delta)
        case LossName.BCE:
            return F.binary_cross_entropy_with_logits(output, label, reduction="none")
