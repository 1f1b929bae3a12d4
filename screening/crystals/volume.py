"""The volumes that lattice vectors span.

Written out, because a library's determinant may differ in its last bit from machine to machine.
"""

import numpy as np

from screening.arrays import Bool, Float64


def volume_of(lattice: Float64) -> float:
    """|a . (b x c)| in the cube of the lattice's unit; NaN or infinite, without a warning, where a number is."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = lattice.tolist()
    return abs(float(ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)))


def volumes_of(lattices: Float64, pbc: Bool) -> Float64:
    """The volume of each of many cells, (crystals,); NaN where a crystal is not periodic in all directions."""
    a, b, c = (lattices[:, k] for k in range(3))
    with np.errstate(over="ignore", invalid="ignore"):
        normal = [b[:, (k + 1) % 3] * c[:, (k + 2) % 3] - b[:, (k + 2) % 3] * c[:, (k + 1) % 3] for k in range(3)]
        volume = np.abs(a[:, 0] * normal[0] + a[:, 1] * normal[1] + a[:, 2] * normal[2])
    return np.where(pbc.all(axis=1), volume, np.nan)
