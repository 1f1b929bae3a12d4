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


class LossParts(NamedTuple):
    """The scalar to minimise, and per target the sum of its losses and how many labels they are of."""

    total: Tensor
    sums: Tensor
    counts: Tensor


def masked_loss(outputs: Tensor, labels: Tensor, losses: Sequence[TargetLoss]) -> LossParts:
    """Compare outputs with labels, both normalised, (crystals, targets)."""
    each, present = crystal_losses(outputs, labels, losses)
    sums, counts = each.sum(0), present.sum(0)
    weights = each.new_tensor([loss.weight for loss in losses])
    total = (weights * sums / counts.clamp(min=1)).sum() / weights.sum()
    return LossParts(total, sums.detach(), counts)


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
