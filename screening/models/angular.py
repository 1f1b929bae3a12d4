"""Directions of edges as factors of messages: the lengths of such sums know the angles between neighbours."""

import math

import torch
from torch import Tensor

from screening.ops.steady_lengths import sum_lengths

SOFTENING = 1e-3
"""Added to the squared lengths of sums with harmonics."""


def harmonics(vector: Tensor, distance: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics of the directions up to a degree of 0, 1 or 2, (edges, (degree + 1)^2).

    Those of degree l are scaled so that the sum of their products at two directions is the Legendre polynomial P_l of
    the angle between these. So the squared length of a sum over an atom's edges is a sum over all pairs of them.
    """
    columns = [torch.ones_like(distance)]
    if degree > 0:
        # Term by term, so that an edge has the same bits in every batch.
        x, y, z = (component / distance for component in vector.unbind(1))
        columns += [x, y, z]
    if degree > 1:
        root = math.sqrt(3)
        columns += [root * x * y, root * y * z, root * x * z, (3 * z * z - 1) / 2, root / 2 * (x * x - y * y)]
    return torch.stack(columns, dim=1)


def lengths(sums: Tensor) -> Tensor:
    """From sums with harmonics, (atoms, (degree + 1)^2, width), what no rotation changes, (atoms, (degree + 1) width).

    The sums of degree 0 and, beside them, the lengths of those of each other degree, softened where they vanish, so
    that they have derivatives there.
    """
    return sum_lengths(sums, SOFTENING).flatten(1)
