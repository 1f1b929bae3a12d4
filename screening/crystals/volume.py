"""The volume that three lattice vectors span."""

from screening.arrays import Float64


def volume_of(lattice: Float64) -> float:
    """|a . (b x c)| in the cube of the lattice's unit; NaN or infinite, without a warning, where a number is."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = lattice.tolist()
    return abs(float(ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)))
