"""Which crystals make up each batch of an epoch, and how the next batches are gathered while one is computed."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from screening.arrays import Int64
from screening.training.labelled import LabelledGraphs

B = TypeVar("B")

AHEAD = 2


def epoch_batches(
    graphs: LabelledGraphs,
    rows: Int64,
    *,
    batch_size: int,
    max_atoms: int,
    max_edges: int,
    seed: int,
    epoch: int,
) -> list[Int64]:
    """Shuffle rows by seed and epoch, and cut them into batches.

    Batches are of nearly equal size, so that none at the end is too small to learn from; one that exceeds a budget is
    cut again. A crystal larger than a budget is a batch of its own.
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return _cut(graphs, order, batch_size=batch_size, max_atoms=max_atoms, max_edges=max_edges)


def ordered_batches(
    graphs: LabelledGraphs, rows: Int64, *, batch_size: int, max_atoms: int, max_edges: int
) -> list[Int64]:
    """Cut rows into batches in their order."""
    return _cut(graphs, rows, batch_size=batch_size, max_atoms=max_atoms, max_edges=max_edges)


def prefetched(batches: Sequence[Int64], make: Callable[[Int64], B]) -> Iterator[tuple[Int64, B]]:
    """Yield each batch of rows with what is made of it, made ahead in another thread, in order."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="gather")
    waiting: deque[tuple[Int64, Future[B]]] = deque()
    try:
        for rows in batches:
            waiting.append((rows, pool.submit(make, rows)))
            if len(waiting) > AHEAD:
                first, made = waiting.popleft()
                yield first, made.result()
        while waiting:
            first, made = waiting.popleft()
            yield first, made.result()
    finally:
        # It ends by itself. A signal that was raised in the middle of a wait for it may make another wait endless.
        pool.shutdown(wait=False, cancel_futures=True)


def _cut(graphs: LabelledGraphs, order: Int64, *, batch_size: int, max_atoms: int, max_edges: int) -> list[Int64]:
    if len(order) == 0:
        return []
    parts = np.array_split(order, -(-len(order) // batch_size))
    return [piece for part in parts for piece in _within_budget(graphs, part, max_atoms, max_edges)]


def _within_budget(graphs: LabelledGraphs, part: Int64, max_atoms: int, max_edges: int) -> list[Int64]:
    atoms, edges = graphs.atom_counts[part], graphs.edge_counts[part]
    if (atoms.sum() <= max_atoms and edges.sum() <= max_edges) or len(part) == 1:
        return [part]
    cuts, a, e = [], 0, 0
    for k, (more_atoms, more_edges) in enumerate(zip(atoms.tolist(), edges.tolist(), strict=True)):
        if k and (a + more_atoms > max_atoms or e + more_edges > max_edges):
            cuts.append(k)
            a = e = 0
        a, e = a + more_atoms, e + more_edges
    return np.split(part, cuts)
