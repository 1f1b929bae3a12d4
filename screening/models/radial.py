"""Distances as a few coefficients each: the radial bases whose terms all convolutions of a batch share.

A basis has `rows` functions of the distance d on a grid, and only a window of neighbouring ones matters at any d. So
sum_k f_k(d) table[k] = sum_m weight[m] table[first + m], and no tensor of (edges, rows) is ever made.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from screening.errors import InputError


class RadialTerms(NamedTuple):
    """What edges are to a convolution, differentiable in the distance.

    `first` (edges,) int32: the first row of each window; `weight` (edges, window): the weights of its rows; `scale`
    (edges, 1): the factor of each message, which lets it fade out at the cutoff.
    """

    first: Tensor
    weight: Tensor
    scale: Tensor


class RadialBasis(ABC):
    """Functions of the distance on a grid."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many functions there are."""

    @abstractmethod
    def terms(self, distance: Tensor) -> RadialTerms:
        """Evaluate the functions that matter at each distance (edges,)."""


@dataclass(frozen=True, slots=True)
class GaussianBasis(RadialBasis):
    """exp(-((d - start - k step) / width)^2) for k = 0, 1, ... up to `stop`; the nearest `window` of them count.

    With window w, what is left out is at most exp(-(w / 2 step / width)^2): 1.1e-7 for w = 8 and width = step.
    """

    start: float = 0.0
    stop: float = 8.0
    step: float = 0.2
    width: float = 0.2
    window: int = 8

    def __post_init__(self) -> None:
        if not (self.step > 0 and self.width > 0 and self.stop > self.start and self.window > 0):
            raise InputError(f"Gaussians need start < stop and a positive step, width and window, got {self}")

    @property
    def rows(self) -> int:
        return round((self.stop - self.start) / self.step) + 1

    def terms(self, distance: Tensor) -> RadialTerms:
        window = min(self.window, self.rows)
        place = (distance.detach() - self.start) / self.step
        first = (torch.floor(place) - (window // 2 - 1)).clamp(0, self.rows - window)
        grid = torch.arange(window, device=distance.device, dtype=distance.dtype)
        centres = self.start + self.step * (first[:, None] + grid)
        off = (distance[:, None] - centres) / self.width
        weight = torch.exp(-off * off)
        return RadialTerms(first.to(torch.int32), weight, torch.ones_like(distance)[:, None])

    def expand(self, values: Tensor) -> Tensor:
        """Evaluate all functions at each value, (values, rows): for products that cannot be split by windows."""
        grid = torch.arange(self.rows, device=values.device, dtype=values.dtype)
        off = (values[:, None] - (self.start + self.step * grid)) / self.width
        return torch.exp(-off * off)


@dataclass(frozen=True, slots=True)
class SplineBasis(RadialBasis):
    """Cubic B-splines on `intervals` equal intervals of [0, cutoff], with an envelope that fades out at the cutoff.

    The envelope is 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2) with x = d / cutoff and p = `power`: it and
    two derivatives are 0 at the cutoff (arXiv:2003.03123, equation 8).
    """

    cutoff: float
    intervals: int = 32
    power: int = 6

    def __post_init__(self) -> None:
        if not (self.cutoff > 0 and self.intervals > 0 and self.power > 0):
            raise InputError(f"splines need a positive cutoff, number of intervals and power, got {self}")

    @property
    def rows(self) -> int:
        return self.intervals + 3

    def terms(self, distance: Tensor) -> RadialTerms:
        place = distance * (self.intervals / self.cutoff)
        first = torch.floor(place.detach()).clamp(0, self.intervals - 1)
        u = place - first
        rest = 1 - u
        weight = torch.stack(
            [rest**3, 3 * u**3 - 6 * u**2 + 4, 3 * rest**3 - 6 * rest**2 + 4, u**3],
            dim=1,
        )
        return RadialTerms(first.to(torch.int32), weight / 6, self.envelope(distance)[:, None])

    def envelope(self, distance: Tensor) -> Tensor:
        """Fade from 1 at distance 0 to 0 at the cutoff and beyond."""
        p = self.power
        x = (distance / self.cutoff).clamp(max=1.0)
        return 1 + _power(x, p) * (-(p + 1) * (p + 2) / 2 + p * (p + 2) * x - p * (p + 1) / 2 * x * x)


def _power(values: Tensor, exponent: int) -> Tensor:
    """Multiply out, for torch's own powers give an edge other bits at the end of a batch than within."""
    result = values
    for _ in range(exponent - 1):
        result = result * values
    return result
