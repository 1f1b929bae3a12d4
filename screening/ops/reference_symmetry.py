"""What native `expand_sites` and `cell_lattice` must give, in plain NumPy: slow, obvious, the definition of right."""

from itertools import product

import numpy as np

from screening.arrays import Float64, Int32


def expand_sites(
    fractional: Float64, rotations: Float64, translations: Float64, lattice: Float64, tolerance: float
) -> tuple[Float64, Int32]:
    """Apply every operation x' = R x + t to every site; images of one site within `tolerance` are one atom.

    Returns `fractional` (atoms, 3) in [0, 1) and `site` (atoms,). An atom is the mean of the images that lie within
    `tolerance` angstrom of its first one, whatever lattice translation brings them there.
    """
    atoms: list[Float64] = []
    sites: list[int] = []
    for site, x in enumerate(fractional):
        clusters: list[list[Float64]] = []
        for image in _wrapped(rotations @ x + translations):
            _place(image, clusters, lattice, tolerance)
        atoms += [_wrapped(np.mean(cluster, axis=0)) for cluster in clusters]
        sites += [site] * len(clusters)
    return np.array(atoms, np.float64).reshape(-1, 3), np.array(sites, np.int32)


def lattice_of(a: float, b: float, c: float, alpha: float, beta: float, gamma: float) -> Float64:
    """Lay a along x and b in the xy plane, lengths in angstrom, angles in degrees; NaN where no cell has them."""
    x, y, z = np.cos(np.radians([alpha, beta, gamma]))
    sine = np.sqrt(1 - z**2)
    across = (x - y * z) / sine
    with np.errstate(invalid="ignore"):
        height = np.sqrt(1 - y**2 - across**2)
    return np.array([[a, 0, 0], [b * z, b * sine, 0], [c * y, c * across, c * height]])


def _place(image: Float64, clusters: list[list[Float64]], lattice: Float64, tolerance: float) -> None:
    for cluster in clusters:
        shift = _shift_to(image - cluster[0], lattice)
        if np.linalg.norm((image + shift - cluster[0]) @ lattice) < tolerance:
            cluster.append(image + shift)
            return
    clusters.append([image])


def _shift_to(difference: Float64, lattice: Float64, reach: int = 3) -> Float64:
    """The lattice translation, among those of up to `reach` cells, that makes a difference shortest."""
    shifts = np.array(list(product(range(-reach, reach + 1), repeat=3))) - np.round(difference)
    shortest: Float64 = shifts[np.argmin(np.linalg.norm((difference + shifts) @ lattice, axis=1))]
    return shortest


def _wrapped(fractional: Float64) -> Float64:
    inside = fractional - np.floor(fractional)
    return np.where(inside >= 1, 0.0, inside)
