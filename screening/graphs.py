"""Crystals to periodic graphs: neighbour lists for a whole batch, and batches cut by a budget of edges and atoms.

The arrays and their meaning are those of docs/conventions.md; ops/neighbors.py does the work.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from screening.arrays import Int32
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.errors import InputError
from screening.ops import core
from screening.ops.edges import SHELL_TOLERANCE, EdgeArrays, EdgeRows
from screening.ops.neighbors import count_edges, fill_edges
from screening.ops.neighbors import neighbor_list as list_edges


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Which neighbours an atom has, as a model declares it and a checkpoint stores it.

    All closer than `cutoff` (angstrom), or with `max_neighbors` the nearest so many and the rest of the
    last one's shell: distances that follow each other by less than a factor 1 + `shell_tolerance`. `exact`
    keeps exactly `max_neighbors`, the first of the last shell by (source, shift), for models trained so.
    """

    cutoff: float
    max_neighbors: int | None = None
    exact: bool = False
    shell_tolerance: float = SHELL_TOLERANCE

    @property
    def words(self) -> str:
        """The same as settings of models say it, for messages."""
        most = '"all"' if self.max_neighbors is None else self.max_neighbors
        exact = " (exactly so many)" if self.exact else ""
        shells = "" if self.shell_tolerance == SHELL_TOLERANCE else f" and shells within {self.shell_tolerance:g}"
        return f"cutoff = {self.cutoff} and max_neighbors = {most}{exact}{shells}"


@dataclass(frozen=True, slots=True, eq=False)
class Graphs:
    """A batch of crystals with their edges; `edge_source` counts atoms through the batch."""

    crystals: Crystals
    edges: EdgeArrays
    neighbors: Neighbors

    def __len__(self) -> int:
        return len(self.crystals)

    @property
    def edge_counts(self) -> Int32:
        """Edges per crystal, (crystals,)."""
        counts: Int32 = np.diff(self.edges.edge_offsets[self.crystals.atom_offsets])
        return counts


def neighbor_list(
    crystals: Crystals | Iterable[Crystal],
    *,
    cutoff: float,
    max_neighbors: int | None = None,
    exact: bool = False,
    shell_tolerance: float = SHELL_TOLERANCE,
    device: str = "cpu",
    threads: int | None = None,
) -> EdgeArrays:
    """List every atom's neighbours within the cutoff, or its nearest ones, for all crystals at once.

    >>> edges = neighbor_list(crystals, cutoff=8.0, max_neighbors=12)
    >>> edges.edge_distance[edges.edge_offsets[0] : edges.edge_offsets[1]]  # of the first atom
    """
    return list_edges(
        *_arrays(_batch(crystals), device),
        cutoff=cutoff,
        max_neighbors=max_neighbors,
        exact=exact,
        shell_tolerance=shell_tolerance,
        threads=threads,
    )


def pack_graphs(
    crystals: Crystals | Iterable[Crystal], neighbors: Neighbors, *, device: str = "cpu", threads: int | None = None
) -> Graphs:
    """Turn all crystals into one batch of graphs."""
    batch = _batch(crystals)
    arrays = _arrays(batch, device)
    with _named(batch, neighbors):
        rows = _count(arrays, neighbors, threads)
    return Graphs(batch, fill_edges(*arrays, rows, cutoff=neighbors.cutoff, threads=threads), neighbors)


def graph_batches(
    stream: Iterable[Crystals],
    neighbors: Neighbors,
    *,
    max_edges: int,
    max_atoms: int,
    threads: int | None = None,
) -> Iterator[Graphs]:
    """Cut a stream of crystals, in order, into batches of at most so many edges and atoms.

    Edges are counted before any is stored, so no batch exceeds the budget, except that a crystal larger
    than the budget is a batch of its own. A graph does not depend on the batch it is in.
    """
    budget = _Budget(max_edges, max_atoms)
    waiting: list[tuple[Crystals, EdgeRows]] = []
    for crystals in stream:
        with _named(crystals, neighbors):
            rows = _count(_arrays(crystals, "cpu"), neighbors, threads)
        ends = budget.ends(_sums(rows.edge_count, crystals.atom_offsets), crystals.atom_counts)
        for start, end in zip([0, *ends], [*ends, len(crystals)], strict=True):
            if start < end:
                waiting.append(_part(crystals, rows, start, end))
            if end in ends and waiting:
                yield _filled(waiting, neighbors, threads)
                waiting = []
    if waiting:
        yield _filled(waiting, neighbors, threads)


@contextmanager
def _named(crystals: Crystals, neighbors: Neighbors) -> Iterator[None]:
    """Say which crystal has no neighbour list by its id: its place in a batch of a stream tells nobody anything."""
    try:
        yield
    except InputError:
        for c, name in enumerate(crystals.ids):
            try:
                _count(_arrays(crystals[c : c + 1], "cpu"), neighbors, 1)
            except InputError as error:
                raise InputError(f"{name}: {str(error).replace('crystal 0: ', '')}") from error
        raise


class _Budget:
    """How full the batch being gathered is."""

    def __init__(self, max_edges: int, max_atoms: int) -> None:
        if max_edges < 1 or max_atoms < 1:
            raise InputError(f"the budget must be at least 1 edge and 1 atom, got {max_edges} and {max_atoms}")
        self._max_edges, self._max_atoms = max_edges, max_atoms
        self._edges = self._atoms = self._crystals = 0

    def ends(self, edges: Any, atoms: Any) -> list[int]:
        """Add a block of crystals; tell before which of them a batch ends."""
        found = []
        for c, (e, a) in enumerate(zip(edges.tolist(), atoms.tolist(), strict=True)):
            if self._crystals and (self._edges + e > self._max_edges or self._atoms + a > self._max_atoms):
                found.append(c)
                self._edges = self._atoms = self._crystals = 0
            self._edges += e
            self._atoms += a
            self._crystals += 1
        return found


def _part(crystals: Crystals, rows: EdgeRows, start: int, end: int) -> tuple[Crystals, EdgeRows]:
    atoms = slice(int(crystals.atom_offsets[start]), int(crystals.atom_offsets[end]))
    return crystals[start:end], EdgeRows(rows.edge_count[atoms], rows.row_cut[atoms])


def _filled(parts: list[tuple[Crystals, EdgeRows]], neighbors: Neighbors, threads: int | None) -> Graphs:
    crystals = Crystals.joined([part for part, _ in parts])
    rows = EdgeRows(
        np.concatenate([rows.edge_count for _, rows in parts]), np.concatenate([rows.row_cut for _, rows in parts])
    )
    edges = fill_edges(*_arrays(crystals, "cpu"), rows, cutoff=neighbors.cutoff, threads=threads)
    return Graphs(crystals, edges, neighbors)


def _sums(counts: Any, offsets: Int32) -> Any:
    ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return np.diff(ends[offsets])


def _batch(crystals: Crystals | Iterable[Crystal]) -> Crystals:
    if isinstance(crystals, Crystal):
        raise InputError("expected crystals, got a single one; write [crystal]")
    if isinstance(crystals, Crystals):
        return crystals
    listed: Sequence[Crystal] = list(crystals)
    for c, crystal in enumerate(listed):
        if not isinstance(crystal, Crystal):
            raise InputError(
                f"crystal {c} is a {type(crystal).__name__}; convert it first with screening.crystals.convert"
            )
    return Crystals.of(listed)


def _arrays(crystals: Crystals, device: str) -> tuple[Any, Any, Any, Any]:
    arrays = (crystals.positions, crystals.lattice, crystals.pbc, crystals.atom_offsets)
    contiguous = tuple(np.ascontiguousarray(array) for array in arrays)
    if device == "cpu":
        return contiguous[0], contiguous[1], contiguous[2], contiguous[3]
    import torch

    if not core.cuda_compiled() or not torch.cuda.is_available():
        raise InputError(f"device {device!r} was asked for, but no CUDA device can be used; see `screening doctor`")
    moved = [torch.from_numpy(array).to(device) for array in contiguous]
    return moved[0], moved[1], moved[2], moved[3]


def _count(arrays: tuple[Any, Any, Any, Any], neighbors: Neighbors, threads: int | None) -> EdgeRows:
    return count_edges(
        *arrays,
        cutoff=neighbors.cutoff,
        max_neighbors=neighbors.max_neighbors,
        exact=neighbors.exact,
        shell_tolerance=neighbors.shell_tolerance,
        threads=threads,
    )
