"""Seeded random crystals that pass validation: small, skewed, left-handed, partly periodic, labelled.

Every test file that needs crystals takes them from here, so that none depends on a data folder.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np

from screening.arrays import Bool, Float64
from screening.crystals.batch import Crystals
from screening.crystals.crystal import PERIODIC, Crystal

KINDS = ("cell", "skewed", "left_handed", "outside", "slab", "wire", "molecule")
PERIODIC_KINDS = ("cell", "skewed", "left_handed", "outside")
PBC = {"slab": (True, True, False), "wire": (False, False, True), "molecule": (False, False, False)}
SMALLEST_DISTANCE = 1.2


def made_crystals(
    count: int,
    *,
    seed: int = 0,
    max_atoms: int = 12,
    kinds: Sequence[str] = KINDS,
    labels: Sequence[str] = ("formation_energy_per_atom", "band_gap"),
    missing: float = 0.3,
    forces: bool = False,
    prefix: str = "made",
) -> list[Crystal]:
    """Make `count` crystals of these kinds in turn; a fraction `missing` of labels, forces and stress is absent."""
    rng = np.random.default_rng(seed)
    return [
        made_crystal(
            rng,
            f"{prefix}-{c:06d}",
            kind=kinds[c % len(kinds)],
            max_atoms=max_atoms,
            labels=labels,
            missing=missing,
            forces=forces,
        )
        for c in range(count)
    ]


def made_crystal(
    rng: np.random.Generator,
    id: str,
    *,
    kind: str = "cell",
    max_atoms: int = 12,
    labels: Sequence[str] = (),
    missing: float = 0.0,
    forces: bool = False,
) -> Crystal:
    """Make one crystal whose closest atoms are at least 1.2 angstrom apart."""
    atoms = int(rng.integers(1, max_atoms + 1))
    pbc = PBC.get(kind, PERIODIC)
    lattice, positions = _spread_out(_shape(rng, kind), _scattered(rng, atoms), pbc)
    if kind == "outside":
        positions = positions + rng.integers(-2, 3, (atoms, 3)) @ lattice
    if kind == "molecule":
        lattice = np.zeros((3, 3))
    return Crystal(
        id=id,
        numbers=rng.integers(1, 95, atoms).astype(np.uint8),
        positions=positions,
        lattice=lattice,
        pbc=pbc,
        labels={name: float(rng.normal()) for name in labels if rng.random() >= missing},
        forces=rng.normal(size=(atoms, 3)) if forces and rng.random() >= missing else None,
        stress=_symmetric(rng) if forces and rng.random() >= missing else None,
        source=f"{id}.made",
    )


def made_batch(count: int, *, seed: int = 0, pool: int = 64, prefix: str = "made") -> Crystals:
    """Make many crystals quickly: a pool of made crystals, each copy stretched by a random factor of its own."""
    rng = np.random.default_rng(seed)
    pooled = Crystals.of(made_crystals(min(pool, count), seed=seed, kinds=PERIODIC_KINDS, max_atoms=23))
    rows = np.arange(count) % len(pooled)
    batch = pooled.take(rows)
    factor = rng.uniform(1.0, 1.1, count)
    return Crystals(
        ids=[f"{prefix}-{c:09d}" for c in range(count)],
        numbers=batch.numbers,
        positions=batch.positions * np.repeat(factor, batch.atom_counts)[:, None],
        lattice=batch.lattice * factor[:, None, None],
        pbc=batch.pbc,
        atom_offsets=batch.atom_offsets,
        labels=batch.labels,
        sources=[f"{prefix}.made#{c}" for c in range(count)],
    )


def assert_same(ours: Crystal, expected: Crystal, *, source: bool = True) -> None:
    """Assert that two crystals are equal to the last bit, labels, forces and stress included."""
    assert ours.id == expected.id
    assert ours.pbc == expected.pbc
    assert dict(ours.labels) == dict(expected.labels)
    assert not source or ours.source == expected.source
    for name in ("numbers", "positions", "lattice", "forces", "stress"):
        a, b = getattr(ours, name), getattr(expected, name)
        assert (a is None) == (b is None), f"{ours.id}: only one has {name}"
        if a is not None:
            np.testing.assert_array_equal(a, b, err_msg=f"{ours.id}: {name}", strict=True)


def closest_distance(positions: Float64, lattice: Float64, pbc: Sequence[bool], radius: float) -> float:
    """Find the smallest distance between two atoms, own images included, by trying every image; `radius` if none."""
    periodic = np.array(pbc)
    box = _completed(lattice, periodic)
    inverse = np.linalg.inv(box)
    fractional = positions @ inverse
    wrapped = positions - np.where(periodic, np.floor(fractional), 0.0) @ box
    # Wrapped atoms differ by less than one cell, hence one image more than the radius alone needs.
    reach = np.where(periodic, np.ceil(radius * np.linalg.norm(inverse, axis=0)).astype(int) + 1, 0)
    shifts = np.array(list(product(*(range(-n, n + 1) for n in reach))))
    lengths = np.linalg.norm(wrapped[None, :, None] - wrapped[:, None, None] + shifts @ box, axis=-1)
    itself = np.eye(len(positions), dtype=bool)[:, :, None] & (shifts == 0).all(axis=1)
    return min(float(lengths[~itself].min(initial=radius)), radius)


def _scattered(rng: np.random.Generator, atoms: int) -> Float64:
    """Fractional coordinates on distinct points of a grid, each moved by up to a quarter of the spacing."""
    side = int(np.ceil(atoms ** (1 / 3)))
    points = rng.permutation(side**3)[:atoms]
    grid = np.stack([points // side**2, points // side % side, points % side], axis=1)
    return (grid + rng.uniform(-0.25, 0.25, (atoms, 3)) + 0.5) / side


def _shape(rng: np.random.Generator, kind: str) -> Float64:
    lattice = np.diag(rng.uniform(0.8, 1.4, 3)) + rng.uniform(-0.15, 0.15, (3, 3))
    if kind == "skewed":
        lattice[1] += lattice[0] * rng.uniform(0.5, 2.0)
        lattice[2] -= lattice[1] * rng.uniform(0.3, 1.0)
    if np.linalg.det(lattice) < 0:
        lattice[0] *= -1
    return -lattice if kind == "left_handed" else lattice


def _spread_out(shape: Float64, fractional: Float64, pbc: Sequence[bool]) -> tuple[Float64, Float64]:
    """Scale to at least 1.2 angstrom between atoms and 8 cubic angstrom per atom."""
    scale = (8.0 * len(fractional) / abs(float(np.linalg.det(shape)))) ** (1 / 3)
    lattice = shape * scale
    closest = closest_distance(fractional @ lattice, lattice, pbc, SMALLEST_DISTANCE)
    lattice = lattice * (1.001 * SMALLEST_DISTANCE / closest if closest < SMALLEST_DISTANCE else 1.0)
    return lattice, fractional @ lattice


def _completed(lattice: Float64, periodic: Bool) -> Float64:
    """The lattice with unit vectors normal to the periodic ones in place of the others."""
    box = np.where(periodic[:, None], lattice, 0.0)
    normals = list(np.linalg.svd(box)[2][int(periodic.sum()) :])
    return np.array([box[k] if periodic[k] else normals.pop() for k in range(3)])


def _symmetric(rng: np.random.Generator) -> Float64:
    stress = rng.normal(scale=0.01, size=(3, 3))
    return (stress + stress.T) / 2
