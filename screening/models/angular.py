"""Directions of edges as factors of messages: sums with these, squared by degree, know the angles of neighbours."""

import math

import torch
from torch import Tensor


def harmonics(vector: Tensor, distance: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics of the directions up to a degree of 0, 1 or 2, (edges, (degree + 1)^2).

    Those of degree l are scaled so that the sum of their products at two directions is the Legendre polynomial P_l of
    the angle between these. So the squared sum over an atom's edges is that over all pairs of them.
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


def powers(sums: Tensor) -> list[Tensor]:
    """From sums with harmonics, (atoms, (degree + 1)^2, width), what no rotation changes, (atoms, width) each.

    The sums of degree 0, and the squared length of those of each other degree.
    """
    each = sums.unbind(1)
    found, begin = [each[0]], 1
    while begin < len(each):
        end = begin + 2 * len(found) + 1
        total = each[begin] * each[begin]
        for one in each[begin + 1 : end]:
            total = total + one * one
        found.append(total)
        begin = end
    return found
