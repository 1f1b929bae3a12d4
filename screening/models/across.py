"""A batch that several processes share: what a model needs of the whole of it, it asks for here.

Each process, a rank, has some crystals of the batch, and a model sees these alone. Two things must not depend on how a
batch was divided: moments over its rows, and random numbers. Without ranks, or outside of `sharing`, nothing here does
anything: a model that uses these functions need not know whether it is alone.

Every rank must ask the same things in the same order, whatever crystals it has, and if it has none.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What this rank has of a batch: the `places` (crystals,) of its crystals among the `crystals` of the batch.

    `add` sums a tensor over all ranks, which all then have; it need not be differentiable.
    """

    rank: int
    ranks: int
    places: Tensor
    crystals: int
    add: Callable[[Tensor], Tensor]


# Of the process, not of a thread: the backward pass may run in another one.
_share: Share | None = None


@contextmanager
def sharing(share: Share) -> Iterator[None]:
    """Let models know, while the block runs, that they see a part of a batch."""
    global _share
    before, _share = _share, share
    try:
        yield
    finally:
        _share = before


def is_shared() -> bool:
    """Tell whether what a model sees is a part of a batch."""
    return _share is not None


def total(values: Tensor) -> Tensor:
    """Sum a tensor of one shape over all ranks, differentiable any number of times."""
    if _share is None:
        return values
    return _summed(values, _share.add)


def of_each_rank(values: Tensor) -> Tensor:
    """Stack a tensor of one shape from all ranks, (ranks, ...), differentiable any number of times."""
    if _share is None:
        return values[None]
    # All but one addend are zero, so that the order in which they are added changes no bit.
    mine = values.new_zeros(_share.ranks, *[1] * values.dim())
    mine[_share.rank] = 1
    return total(mine * values)


def pooled_moments(mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give mean and biased variance (columns,) over the rows of all ranks, and how many rows these are.

    mean = sum_r n_r mean_r / n, variance = sum_r n_r (variance_r + (mean_r - mean)^2) / n, in float64.
    """
    own = torch.cat([mean.new_full((1,), count).double(), mean.double(), variance.double()])
    each = of_each_rank(own)
    counts, means, variances = each.detach()[:, :1], *each[:, 1:].chunk(2, dim=1)
    n = counts.sum()
    rows = n.clamp(min=1)
    pooled = (counts * means).sum(0) / rows
    spread = (counts * (variances + (means - pooled).square())).sum(0) / rows
    return pooled.to(mean.dtype), spread.to(mean.dtype), n


def uniform_like(rows: Tensor, dim: int) -> Tensor:
    """Draw a number in [0, 1) for each element of a tensor whose dimension `dim` counts crystals.

    A crystal draws the same numbers whichever rank has it, and all ranks' generators move by as much.
    """
    if _share is None:
        return torch.rand_like(rows)
    shape = list(rows.shape)
    shape[dim] = _share.crystals
    return torch.rand(shape, dtype=rows.dtype, device=rows.device).index_select(dim, _share.places)


class _Total(Function):
    """The sum over ranks, whose derivative is the sum over ranks again: each rank's loss is a part of one loss."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.add = add
        return add(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _summed(gradients[0], ctx.add), None


def _summed(values: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:
    # torch does not say the types of `apply`.
    apply: Callable[..., Tensor] = _Total.apply
    return apply(values, add)
