"""Every operation in plain NumPy, slow and obvious: the definition of correct that kernels are tested against."""

from typing import Any

import numpy as np
import numpy.typing as npt

from screening.ops.edges import SHELL_TOLERANCE, EdgeArrays

Array = npt.NDArray[Any]


def neighbor_list(
    positions: Array,
    lattice: Array,
    pbc: Array,
    atom_offsets: Array,
    *,
    cutoff: float,
    max_neighbors: int | None = None,
    exact: bool = False,
    shell_tolerance: float = SHELL_TOLERANCE,
    only: frozenset[int] | None = None,
) -> EdgeArrays:
    """Measure every atom against every image that could be in reach, crystal by crystal and atom by atom.

    `only` leaves the rows of all other atoms empty: a sample of a crystal too large to measure whole.
    """
    rows: list[tuple[Array, Array, Array]] = []
    nothing = np.empty(0, np.int64), np.empty((0, 3), np.int64), np.empty((0, 3))
    for c in range(len(lattice)):
        first, end = int(atom_offsets[c]), int(atom_offsets[c + 1])
        shifts = _shifts_in_reach(positions[first:end], lattice[c], pbc[c], cutoff)
        for i in range(end - first):
            if only is not None and first + i not in only:
                rows.append(nothing)
                continue
            source, shift, vector = _row(positions[first:end], i, lattice[c], shifts, cutoff)
            if max_neighbors is not None:
                kept = _kept(np.linalg.norm(vector, axis=1), max_neighbors, exact, shell_tolerance)
                source, shift, vector = source[kept], shift[kept], vector[kept]
            rows.append((source + first, shift, vector))
    counts = [len(source) for source, _, _ in rows]
    vectors = np.concatenate([vector for _, _, vector in rows] or [np.empty((0, 3))])
    return EdgeArrays(
        np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int32),
        np.concatenate([source for source, _, _ in rows] or [np.empty(0)]).astype(np.int32),
        np.concatenate([shift for _, shift, _ in rows] or [np.empty((0, 3))]).astype(np.int32),
        vectors,
        np.linalg.norm(vectors, axis=1),
    )


def _shifts_in_reach(positions: Array, lattice: Array, pbc: Array, cutoff: float) -> Array:
    """All shifts along periodic vectors that bring any atom within the cutoff of any other, in ascending order."""
    periodic = np.flatnonzero(pbc)
    if not len(positions) or not len(periodic):
        return np.zeros((1, 3), np.int64)
    rows = lattice[periodic]
    # |shift_a + (f_j - f_i)_a| is at most cutoff over the spacing of planes, which is 1 / |dual_a|.
    dual = np.linalg.pinv(rows)
    fractional = positions @ dual
    reach = cutoff * np.linalg.norm(dual, axis=0) + np.ptp(fractional, axis=0)
    ranges = [np.zeros(1, np.int64)] * 3
    for axis, bound in zip(periodic, np.ceil(reach).astype(np.int64), strict=True):
        ranges[axis] = np.arange(-bound, bound + 1)
    return np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)


def _row(positions: Array, i: int, lattice: Array, shifts: Array, cutoff: float) -> tuple[Array, Array, Array]:
    """Sources, shifts and vectors of the edges into atom i, ordered by (source, shift)."""
    periodic_shifts = np.where(np.isfinite(lattice), lattice, 0.0)
    vectors = (positions - positions[i])[:, None, :] + (shifts @ periodic_shifts)[None]
    near = np.linalg.norm(vectors, axis=2) < cutoff
    near[i] &= shifts.any(axis=1)
    source, image = np.nonzero(near)
    return source, shifts[image], vectors[source, image]


def _kept(distances: Array, max_neighbors: int, exact: bool, tolerance: float) -> Array:
    """Which edges of a row stay: the nearest `max_neighbors` and, unless exact, the rest of the last one's shell."""
    if len(distances) <= max_neighbors:
        return np.arange(len(distances))
    ascending = np.sort(distances)
    start = end = max_neighbors - 1
    while end + 1 < len(ascending) and ascending[end + 1] <= ascending[end] * (1 + tolerance):
        end += 1
    if not exact:
        return np.flatnonzero(distances <= ascending[end])
    while start > 0 and ascending[start] <= ascending[start - 1] * (1 + tolerance):
        start -= 1
    inside = np.flatnonzero(distances < ascending[start])
    shell = np.flatnonzero((distances >= ascending[start]) & (distances <= ascending[end]))
    return np.sort(np.concatenate([inside, shell[: max_neighbors - len(inside)]]))
