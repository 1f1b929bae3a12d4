"""Random crystals in each of the 230 space groups: the generator that symmetry tests and benchmarks share.

The operations come from the tables in gemmi, the crystals from the definition: a point is moved onto a special
position by averaging it over a cyclic subgroup that has a fixed point, then every operation is applied and equal
points are counted once. No code of the package takes part.
"""

from dataclasses import dataclass
from itertools import count, product

import gemmi
import numpy as np

from screening.arrays import Float64

SAME_POINT = 1e-6
SMALLEST_DISTANCE = 0.9
ELEMENTS = ("Li", "O", "Na", "Mg", "Al", "Si", "S", "Ca", "Ti", "Fe", "Zn", "Sr", "Ba", "La", "Pb")


@dataclass(frozen=True, slots=True)
class Grown:
    """A crystal, all its atoms, and the asymmetric unit and operations that it grew from."""

    number: int
    symbols: list[str]
    lattice: Float64
    fractional: Float64
    asymmetric: Float64
    asymmetric_symbols: list[str]
    operations: list[str]

    def __len__(self) -> int:
        return len(self.symbols)


def grown(number: int, rng: np.random.Generator, *, sites: int = 2, most_atoms: int = 24) -> Grown:
    """Grow a crystal in the reference setting of space group `number` with at most about `most_atoms` atoms."""
    group = gemmi.find_spacegroup_by_number(number)
    operations = np.array([op.float_seitz() for op in group.operations()])
    while True:
        shape = _shape(rng, group)
        chosen = [_site(rng, operations, most_atoms // sites) for _ in range(int(rng.integers(1, sites + 1)))]
        orbits = [_orbit(x, operations) for x in chosen]
        fractional = np.concatenate(orbits)
        lattice = shape * (rng.uniform(14.0, 22.0) * len(fractional) / abs(np.linalg.det(shape))) ** (1 / 3)
        if closest(fractional, lattice) > SMALLEST_DISTANCE:
            break
    names = [str(name) for name in rng.choice(ELEMENTS, len(chosen), replace=False)]
    return Grown(
        number=number,
        symbols=[name for name, orbit in zip(names, orbits, strict=True) for _ in orbit],
        lattice=lattice,
        fractional=fractional,
        asymmetric=np.array(chosen),
        asymmetric_symbols=names,
        operations=[op.triplet() for op in group.operations()],
    )


def closest(fractional: Float64, lattice: Float64) -> float:
    """The smallest distance between two atoms or an atom and its image, by trying every image."""
    return float(_distances(fractional, lattice).min())


def sorted_distances(fractional: Float64, lattice: Float64, per_atom: int = 24) -> Float64:
    """The smallest of all distances from an atom to another or an image, sorted, so many for each atom."""
    distances = np.sort(_distances(fractional, lattice).ravel())
    return distances[: per_atom * len(fractional)]


def cif_of(crystal: Grown, *, decimals: int = 6, symmetry: str = "operations") -> str:
    """Write the asymmetric unit; `symmetry` says how the group is told: operations, hall, hm or number."""
    group = gemmi.find_spacegroup_by_number(crystal.number)
    told = {
        "operations": "loop_\n_symmetry_equiv_pos_as_xyz\n" + "".join(f"'{op}'\n" for op in crystal.operations),
        "hall": f"_space_group_name_Hall '{group.hall}'\n",
        "hm": f"_symmetry_space_group_name_H-M '{group.xhm()}'\n",
        "number": f"_space_group_IT_number {crystal.number}\n",
    }[symmetry]
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    cell = "".join(f"_cell_{n} {v:.8f}\n" for n, v in zip(names, parameters_of(crystal.lattice), strict=True))
    tags = "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
    rows = zip(crystal.asymmetric_symbols, crystal.asymmetric.tolist(), strict=True)
    atoms = "".join(
        f"{name}{i} {x:.{decimals}f} {y:.{decimals}f} {z:.{decimals}f}\n" for i, (name, (x, y, z)) in enumerate(rows, 1)
    )
    return f"data_group_{crystal.number}\n{cell}{told}{tags}{atoms}"


def parameters_of(lattice: Float64) -> list[float]:
    """The lengths and angles (degrees) of a cell."""
    lengths = np.linalg.norm(lattice, axis=1)
    cosines = [lattice[i] @ lattice[j] / (lengths[i] * lengths[j]) for i, j in ((1, 2), (0, 2), (0, 1))]
    return [*lengths.tolist(), *np.degrees(np.arccos(cosines)).tolist()]


def _shape(rng: np.random.Generator, group: gemmi.SpaceGroup) -> Float64:
    """A random cell that the operations of the group leave as it is: a random metric, averaged over them."""
    start = np.diag(rng.uniform(0.7, 1.4, 3)) + rng.uniform(-0.2, 0.2, (3, 3))
    metric = start @ start.T
    rotations = np.array([op.rot for op in group.operations()], np.float64) / gemmi.Op.DEN
    lattice: Float64 = np.linalg.cholesky(np.mean(rotations.transpose(0, 2, 1) @ metric @ rotations, axis=0))
    return lattice


def _site(rng: np.random.Generator, operations: Float64, most_images: int) -> Float64:
    """A random point, special enough to have few images where the group has many operations."""
    for attempt in count():
        # Fixed points of rotations lie on multiples of 1/24; those of mirrors and axes run through free coordinates.
        x = np.where(rng.random(3) < rng.random(), rng.integers(0, 24, 3) / 24, rng.random(3))
        for operation in operations[rng.permutation(len(operations))[: int(rng.integers(0, 4))]]:
            x = _onto_fixed_point(x, operation, rng)
        # Some groups have no such point, and in others it is rare: ask for less and less.
        if len(_orbit(x, operations)) <= most_images * (1 + attempt / 50):
            break
    return x


def _onto_fixed_point(x: Float64, operation: Float64, rng: np.random.Generator) -> Float64:
    """Average a point over the powers of an operation, shifted by a random lattice vector, if they close."""
    shifted = operation.copy()
    shifted[:3, 3] += rng.integers(-1, 2, 3)
    power, points = np.eye(4), []
    for _ in range(6):
        points.append((power @ [*x, 1.0])[:3])
        power = shifted @ power
        if np.abs(power - np.eye(4)).max() < SAME_POINT:
            x = np.mean(points, axis=0)
            break
    return x


def _orbit(x: Float64, operations: Float64) -> Float64:
    """All different images of a point in one cell."""
    images = operations[:, :3, :3] @ x + operations[:, :3, 3]
    steps = images[None] - images[:, None]
    same = np.abs(steps - np.round(steps)).max(axis=-1) < SAME_POINT
    points: Float64 = images[~np.tril(same, -1).any(axis=1)]
    return points - np.floor(points)


def _distances(fractional: Float64, lattice: Float64) -> Float64:
    reach = np.ceil(6.0 * np.linalg.norm(np.linalg.inv(lattice), axis=0)).astype(int) + 1
    shifts = np.array(list(product(*(range(-n, n + 1) for n in reach))), np.float64)
    steps = fractional[None] - fractional[:, None]
    steps = (steps - np.round(steps)) @ lattice
    lengths: Float64 = np.linalg.norm(steps[:, :, None] + shifts @ lattice, axis=-1)
    lengths[np.eye(len(fractional), dtype=bool)[:, :, None] & (shifts == 0).all(axis=1)] = np.inf
    return lengths
