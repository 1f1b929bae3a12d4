"""Smooth functions of one number as tables: read at many places for a few multiplications each.

Between points of the grid four rows of the table are joined by the cubic through them. Of ALIGNN's functions of the
cosine that leaves out 1e-7 of their size. It serves float32 on the CPU, where nobody asks for slopes along the number:
those of cubics jump at the points. A place has the same bits in every batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from screening.ops import steady_windows

KNOTS = 512


class Places(NamedTuple):
    """Where numbers lie on the grid: `first` (places,) int32 of four rows, `weight` (places, 4) of each."""

    first: Tensor
    weight: Tensor

    def counts(self) -> Tensor:
        """How often each point of the grid is asked for, (KNOTS,): fractions, whose sum is the number of places."""
        ones = self.weight.new_ones(len(self.first), 1)
        return steady_windows.window_sums(self.weight, self.first, ones, KNOTS)[:, 0]


def serves(values: Tensor) -> bool:
    """Tell whether a table may stand for functions of these numbers; how many there are is not known to a compiler."""
    return (
        not torch.compiler.is_compiling()
        and values.dtype == torch.float32
        and not values.is_cuda
        and not values.requires_grad
    )


def knots(start: float, stop: float, like: Tensor) -> Tensor:
    """The points of the grid, of the type of `like`."""
    grid = torch.arange(KNOTS, dtype=like.dtype, device=like.device)
    return start + (stop - start) / (KNOTS - 1) * grid


def places(values: Tensor, start: float, stop: float) -> Places:
    """Find the rows around each number, and their weights by Lagrange."""
    at = (values - start) * ((KNOTS - 1) / (stop - start))
    first = (torch.floor(at) - 1).clamp(0, KNOTS - 4)
    u = at - first
    v, w, x = u - 1, u - 2, u - 3
    weight = torch.stack([v * w * x / -6, u * w * x / 2, u * v * x / -2, u * v * w / 6], dim=1)
    return Places(first.to(torch.int32), weight)


def read(table: Tensor, at: Places) -> Tensor:
    """Give what a table (KNOTS, columns) holds at each place, (places, columns)."""
    return steady_windows.window_rows(table, at.weight, at.first)
