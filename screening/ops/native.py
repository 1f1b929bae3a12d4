"""The native core behind NumPy (or, on a GPU, torch) arrays: checks, allocates outputs, calls `_core`.

The only module that imports `_core`. It knows flat arrays, not crystals; reference.py says what is right.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from screening import machine
from screening.errors import InputError, NativeError, ResourceError
from screening.ops.edges import BYTES_PER_EDGE, SHELL_TOLERANCE, EdgeArrays, EdgeRows

try:
    from screening import _core
except ImportError as missing:  # pragma: no cover - only without a build
    raise NativeError(
        f"the native core is not built ({missing}); run `make build` in a checkout, or `pip install .` again"
    ) from missing

Array = Any
"""A NumPy array, or a torch tensor on a CUDA device: results lie where the arguments do."""


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
    return fill_edges(*arrays, rows, cutoff=cutoff, threads=threads)


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
    if max_neighbors is not None and max_neighbors < 1:
        raise InputError(f"max_neighbors must be at least 1 or None for all, got {max_neighbors}")
    if exact and max_neighbors is None:
        raise InputError("exact=True needs max_neighbors: without a limit no row is cut")
    _require_usable(positions, lattice, pbc, atom_offsets)
    atoms = len(positions)
    rows = EdgeRows(_empty(positions, atoms, dtype="int32"), _empty(positions, atoms, 3, dtype="float64"))
    with _device_of(positions), _input_errors():
        _core.neighbor_count(
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
            threads=_threads(threads),
            stream=_stream(positions),
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
    offsets = _scanned(rows.edge_count)
    edges = int(offsets[-1])
    _require_room(positions, edges)
    out = _edge_arrays(positions, offsets, edges)
    with _device_of(positions), _input_errors():
        _core.neighbor_fill(
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
            threads=_threads(threads),
            stream=_stream(positions),
        )
    return out


def expand_sites(
    fractional: Array, rotations: Array, translations: Array, lattice: Array, tolerance: float
) -> tuple[Array, Array]:
    """Apply symmetry operations to sites and merge images closer than the tolerance: (positions, site of each)."""
    fractions, sites = _core.expand_sites(fractional, rotations, translations, lattice, tolerance)
    return fractions, sites


def site_coordinates(texts: list[str], *, limit: float) -> tuple[Array, int, bool]:
    """Read every x, then every y, then every z, with or without uncertainty such as 0.3333(2), into rows.

    Gives the rows (sites, 3), the place of the first text that is no finite number below the limit or -1, and
    whether two rows are equal.
    """
    return _core.site_coordinates(texts, limit)


def cell_lattice(texts: list[str | None], *, limit: float) -> tuple[list[float], Array, int, bool]:
    """Read a, b, c, alpha, beta, gamma (angstrom, degrees), and lay a along x and b in the xy plane.

    Gives the parameters, the lattice (3, 3), the place of the first text that is no finite number below the limit or
    -1, and whether there is a cell with these parameters.
    """
    return _core.cell_lattice(texts, limit)


def scan_rows(
    text: bytes, starts: Array, row_offsets: Array, targets: Array, *, exact: bool
) -> tuple[Array, Array, Array]:
    """Read rows of words into columns: (atomic numbers (rows,), values (groups, rows, 3), first bad row of a block).

    Block b is rows [row_offsets[b], row_offsets[b + 1]) from byte starts[b] on; `targets` says what each word
    is: -1 skipped, -2 an element, 3 g + k a number for values[g, row, k]. A block without a bad row has -1.
    """
    rows = int(row_offsets[-1]) if len(row_offsets) else 0
    groups = max((int(target) // 3 + 1 for target in targets if target >= 0), default=0)
    numbers = np.zeros(rows, np.uint8)
    values = np.empty((groups, rows, 3))
    faults = np.empty(len(starts), np.int64)
    _core.scan_rows(
        text,
        np.ascontiguousarray(starts, np.int64),
        np.ascontiguousarray(row_offsets, np.int64),
        np.ascontiguousarray(targets, np.int32),
        exact=exact,
        numbers=numbers,
        values=values,
        faults=faults,
    )
    return numbers, values, faults


def scan_lines(
    text: bytes, begins: Array, ends: Array, literals: Sequence[bytes], kinds: Array
) -> tuple[Array, Array, Array]:
    """Read lines that are alike: (which fit (lines,), numbers (lines, numbers), text spans (lines, spans, 2)).

    A line fits when it is literals[0], a field, literals[1], a field, ... literals[-1], and its fields are what
    `kinds` says: -1 text that is noted as a span, -2 text that is no number, -3 a finite number, k > 0 for k numbers.
    """
    count = int(np.maximum(kinds, 0).sum() + np.count_nonzero(kinds == -3))
    fits = np.empty(len(begins), np.bool_)
    numbers = np.empty((len(begins), count))
    spans = np.empty((len(begins), int(np.count_nonzero(kinds == -1)), 2), np.int64)
    _core.scan_lines(
        text,
        np.ascontiguousarray(begins, np.int64),
        np.ascontiguousarray(ends, np.int64),
        literals=b"".join(literals),
        literal_offsets=np.cumsum([0, *map(len, literals)], dtype=np.int64),
        kinds=np.ascontiguousarray(kinds, np.int32),
        fits=fits,
        numbers=numbers,
        spans=spans,
    )
    return fits, numbers, spans


_thread_setting: int | None = None


def set_threads(count: int | None) -> None:
    """Set how many threads every native call uses; None for all processors this process may run on."""
    global _thread_setting
    if count is not None and count < 1:
        raise InputError(f"threads must be at least 1 or None for all processors, got {count}")
    _thread_setting = count


def threads() -> int:
    """Tell how many threads native calls use now."""
    return _thread_setting or _allowed_processors()


@cache
def _allowed_processors() -> int:
    return machine.processors().allowed


def simd_levels() -> list[str]:
    """List the levels this processor runs, widest first."""
    return _core.simd_levels()


def simd_level() -> str:
    """Name the level in use."""
    return _core.simd_level()


@contextmanager
def forced_simd_level(name: str) -> Iterator[None]:
    """Use another level for a while; results do not change, speed does."""
    before = _core.simd_level()
    with _input_errors():
        _core.set_simd_level(name)
    try:
        yield
    finally:
        _core.set_simd_level(before)


def cuda_compiled() -> bool:
    """Tell whether this build holds the CUDA kernels."""
    return _core.cuda_compiled()


def cuda_device_count() -> int:
    """Count the CUDA devices that can be used: 0 without a driver."""
    return _core.cuda_device_count()


def _threads(count: int | None) -> int:
    if count is not None and count < 1:
        raise InputError(f"threads must be at least 1, got {count}")
    return count or threads()


@contextmanager
def _input_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as wrong:
        raise InputError(str(wrong)) from wrong
    except MemoryError as full:
        raise ResourceError("out of memory in the native core; use smaller batches") from full


@contextmanager
def _device_of(array: Array) -> Iterator[None]:
    if not _on_cuda(array):
        yield
        return
    import torch

    # torch exports arrays of the current device only.
    with torch.cuda.device(array.device):
        yield


def _on_cuda(array: Array) -> bool:
    return getattr(getattr(array, "device", None), "type", "cpu") == "cuda"


def _empty(like: Array, *shape: int, dtype: str) -> Array:
    if not _on_cuda(like):
        return np.empty(shape, dtype)
    import torch

    tensor: Any = torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    return tensor


def _edge_arrays(like: Array, offsets: Array, edges: int) -> EdgeArrays:
    if _on_cuda(like):
        source, distance = _empty(like, edges, dtype="int32"), _empty(like, edges, dtype="float64")
        return EdgeArrays(
            offsets, source, _empty(like, edges, 3, dtype="int32"), _empty(like, edges, 3, dtype="float64"), distance
        )
    # Blocks come back to the next batch, which fresh pages would cost as much as its search.
    with _input_errors():
        block = _core.block(edges * BYTES_PER_EDGE)
    wide, narrow = block[: edges * 32].view(np.float64), block[edges * 32 :].view(np.int32)
    return EdgeArrays(
        offsets,
        edge_source=narrow[edges * 3 :],
        edge_shift=narrow[: edges * 3].reshape(edges, 3),
        edge_vector=wide[: edges * 3].reshape(edges, 3),
        edge_distance=wide[edges * 3 :],
    )


def _stream(array: Array) -> int:
    if not _on_cuda(array):
        return 0
    import torch

    return int(torch.cuda.current_stream(array.device).cuda_stream)


def _scanned(counts: Array) -> Array:
    if _on_cuda(counts):
        import torch

        ends: Any = torch.cumsum(counts, 0, dtype=torch.int64)
        total = int(ends[-1]) if len(ends) else 0
        _require_indexable(total)
        return torch.nn.functional.pad(ends, (1, 0)).to(torch.int32)
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    _require_indexable(int(offsets[-1]))
    return offsets.astype(np.int32)


def _require_indexable(edges: int) -> None:
    if edges > np.iinfo(np.int32).max:
        raise ResourceError(f"a batch holds at most 2^31 - 1 edges, got {edges}; split it or use a shorter cutoff")


def _require_room(like: Array, edges: int) -> None:
    need = edges * BYTES_PER_EDGE
    if need < 1 << 28:
        return
    if _on_cuda(like):
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
    if _on_cuda(positions):
        return  # the CUDA twin looks on its way and says the same; copying a batch to the host costs more than its list
    with _input_errors():
        problem = _core.unusable_crystal(positions, lattice, pbc, atom_offsets)
    if problem:
        raise InputError(f"no neighbour list: {problem}")
