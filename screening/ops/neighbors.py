"""Neighbour lists of whole batches: checks, allocates, calls the native core. reference.py says what is right."""

from typing import Any, SupportsFloat, SupportsIndex

import numpy as np

from screening import machine
from screening.errors import InputError, ResourceError
from screening.ops import core
from screening.ops.core import Array
from screening.ops.edges import BYTES_PER_EDGE, SHELL_TOLERANCE, EdgeArrays, EdgeRows


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
    threads: int | None = None,
) -> EdgeArrays:
    """Find all edges shorter than the cutoff; see `count_edges` for `max_neighbors`, `exact` and the tolerance."""
    arrays = (positions, lattice, pbc, atom_offsets)
    rows = count_edges(
        *arrays,
        cutoff=cutoff,
        max_neighbors=max_neighbors,
        exact=exact,
        shell_tolerance=shell_tolerance,
        threads=threads,
    )
    return _filled(*arrays, rows, cutoff, threads)


def count_edges(
    positions: Array,
    lattice: Array,
    pbc: Array,
    atom_offsets: Array,
    *,
    cutoff: float,
    max_neighbors: int | None = None,
    exact: bool = False,
    shell_tolerance: float = SHELL_TOLERANCE,
    threads: int | None = None,
) -> EdgeRows:
    """Count each atom's edges without storing them, which costs a fraction of filling.

    With `max_neighbors` an atom keeps its nearest so many, and the whole shell of the last one, so that
    neither atom order nor rounding decides; a shell ends where the next distance is larger by more than a
    factor 1 + `shell_tolerance`. `exact` keeps exactly `max_neighbors` instead, for models trained that
    way: of the last shell the first in row order (source, then shift).
    """
    _require_number("cutoff", cutoff)
    _require_number("shell_tolerance", shell_tolerance)
    if max_neighbors is not None and not (isinstance(max_neighbors, SupportsIndex) and 0 < max_neighbors < 1 << 31):
        told = f"must be at least 1, an integer below 2^31, or None for all, got {max_neighbors!r}"
        raise InputError(f"max_neighbors {told}")
    if exact and max_neighbors is None:
        raise InputError("exact=True needs max_neighbors: without a limit no row is cut")
    _require_usable(positions, lattice, pbc, atom_offsets)
    atoms = len(positions)
    rows = EdgeRows(core.empty(positions, atoms, dtype="int32"), core.empty(positions, atoms, 3, dtype="float64"))
    with core.device_of(positions), core.input_errors():
        core.native.neighbor_count(
            positions,
            lattice,
            pbc,
            atom_offsets,
            cutoff=cutoff,
            max_neighbors=max_neighbors or 0,
            whole_shells=not exact,
            shell_tolerance=shell_tolerance,
            edge_count=rows.edge_count,
            row_cut=rows.row_cut,
            threads=core.thread_count(threads),
            stream=core.stream_of(positions),
        )
    return rows


def fill_edges(
    positions: Array,
    lattice: Array,
    pbc: Array,
    atom_offsets: Array,
    rows: EdgeRows,
    *,
    cutoff: float,
    threads: int | None = None,
) -> EdgeArrays:
    """Store the edges that `count_edges` counted with the same crystals and cutoff."""
    _require_number("cutoff", cutoff)
    _require_usable(positions, lattice, pbc, atom_offsets)
    return _filled(positions, lattice, pbc, atom_offsets, rows, cutoff, threads)


def _filled(
    positions: Array,
    lattice: Array,
    pbc: Array,
    atom_offsets: Array,
    rows: EdgeRows,
    cutoff: float,
    threads: int | None,
) -> EdgeArrays:
    """Store edges of crystals that were looked at before, as those are that were just counted."""
    offsets = _scanned(rows.edge_count)
    edges = int(offsets[-1])
    _require_room(positions, edges)
    out = _edge_arrays(positions, offsets, edges)
    with core.device_of(positions), core.input_errors():
        core.native.neighbor_fill(
            positions,
            lattice,
            pbc,
            atom_offsets,
            cutoff=cutoff,
            edge_offsets=out.edge_offsets,
            row_cut=rows.row_cut,
            edge_source=out.edge_source,
            edge_shift=out.edge_shift,
            edge_vector=out.edge_vector,
            edge_distance=out.edge_distance,
            threads=core.thread_count(threads),
            stream=core.stream_of(positions),
        )
    return out


def _edge_arrays(like: Array, offsets: Array, edges: int) -> EdgeArrays:
    if core.on_cuda(like):
        source, distance = core.empty(like, edges, dtype="int32"), core.empty(like, edges, dtype="float64")
        return EdgeArrays(
            offsets,
            source,
            core.empty(like, edges, 3, dtype="int32"),
            core.empty(like, edges, 3, dtype="float64"),
            distance,
        )
    # Blocks come back to the next batch, which fresh pages would cost as much as its search.
    with core.input_errors():
        block = core.native.block(edges * BYTES_PER_EDGE)
    wide, narrow = block[: edges * 32].view(np.float64), block[edges * 32 :].view(np.int32)
    return EdgeArrays(
        offsets,
        edge_source=narrow[edges * 3 :],
        edge_shift=narrow[: edges * 3].reshape(edges, 3),
        edge_vector=wide[: edges * 3].reshape(edges, 3),
        edge_distance=wide[edges * 3 :],
    )


def _scanned(counts: Array) -> Array:
    if core.on_cuda(counts):
        import torch

        ends: Any = torch.cumsum(counts, 0, dtype=torch.int64)
        total = int(ends[-1]) if len(ends) else 0
        _require_indexable(total)
        return torch.nn.functional.pad(ends, (1, 0)).to(torch.int32)
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    _require_indexable(int(offsets[-1]))
    return offsets.astype(np.int32)


def _require_number(name: str, value: object) -> None:
    if not isinstance(value, SupportsFloat):
        raise InputError(f"{name} must be a number, got {value!r}")


def _require_indexable(edges: int) -> None:
    if edges > np.iinfo(np.int32).max:
        raise ResourceError(f"a batch holds at most 2^31 - 1 edges, got {edges}; split it or use a shorter cutoff")


def _require_room(like: Array, edges: int) -> None:
    need = edges * BYTES_PER_EDGE
    if need < 1 << 28:
        return
    if core.on_cuda(like):
        import torch

        free = torch.cuda.mem_get_info(like.device)[0] + torch.cuda.memory_reserved(like.device)
        free -= torch.cuda.memory_allocated(like.device)
    else:
        free = machine.memory().free
    if need > free:
        raise ResourceError(
            f"{edges} edges need {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; "
            "use smaller batches, a shorter cutoff or max_neighbors"
        )


def _require_usable(positions: Array, lattice: Array, pbc: Array, atom_offsets: Array) -> None:
    if core.on_cuda(positions):
        return  # the CUDA twin looks on its way and says the same; copying a batch to the host costs more than its list
    with core.input_errors():
        problem = core.native.unusable_crystal(positions, lattice, pbc, atom_offsets)
    if problem:
        raise InputError(f"no neighbour list: {problem}")
