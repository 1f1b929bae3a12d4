"""Neighbour lists of whole batches against what people use crystal by crystal: pymatgen's C routine, matscipy, vesin.

Same crystals, same cutoff, one run, contestants in turn; each gives centre, neighbour, shift and distance of every
edge (ours vectors too). Ours works in batches of 250,000 edges, as a screen does; peers have no batches. Two sets:
`small`, random cells of 12 atoms on average, skewed ones among them; `mixed`, of 25 atoms on average and up to 200,
or the crystals of `--data FILE`.

    python benchmarks/neighbor_lists.py [--quick] [--json PATH] [--data FILE]
"""

import hashlib
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import timing
from batches import Flat, laid, random_cells

from screening.crystals.batch import Crystals
from screening.crystals.read import read_batches
from screening.ops import neighbors
from screening.ops.edges import EdgeArrays

BATCH_EDGES = 250_000
NEIGHBORS = 12
GRAPH_CUTOFF = 8.0
PROMISED = {"small": 5.0, "mixed": 4.0}
PROMISED_GRAPHS = 12.0
PROMISED_THREADS = 1.8


def run(*, quick: bool = False, data: Path | None = None) -> list[timing.Row]:
    """Measure full lists, 12-neighbour graphs, threads and the growth with the size of the cell."""
    count, rounds = (200, 3) if quick else (2000, 7)
    rows = []
    for name, cells in (("small", small(count)), ("mixed", mixed(count, data))):
        for cutoff in (5.0, 8.0):
            rows += full_lists(name, cells, cutoff, rounds)
        rows += graphs(name, cells, rounds)
    rows.append(arithmetic(rounds))
    return rows + growth((1, 2, 5) if quick else (1, 2, 5, 10))


def small(count: int) -> Flat:
    """Random cells of 4 to 20 atoms."""
    return random_cells(count, seed=1, atoms=(4, 20), skew=0.5, density=0.058)


def mixed(count: int, data: Path | None) -> Flat:
    """The first crystals of a file, or random cells with the sizes of real ones."""
    if data is not None:
        batch = Crystals.joined([read.crystals for read in read_batches(data)])[:count]
        return Flat(batch.positions, batch.lattice, batch.pbc, batch.atom_offsets)
    sizes = np.clip(np.random.default_rng(2).lognormal(2.95, 0.75, count).astype(int), 1, 200)
    return joined(random_cells(1, seed=c, atoms=(n, n), skew=0.4, density=0.058) for c, n in enumerate(sizes.tolist()))


def joined(cells: Iterable[Flat]) -> Flat:
    """Cells end to end."""
    parts = list(cells)
    counts = np.concatenate([np.diff(part.atom_offsets) for part in parts])
    return Flat(
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.lattice for part in parts]),
        np.concatenate([part.pbc for part in parts]),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
    )


def full_lists(name: str, cells: Flat, cutoff: float, rounds: int) -> list[timing.Row]:
    """All edges within the cutoff, against each peer; then two threads against one."""
    batches, singles = cut(cells, cutoff), [cells.single(c) for c in range(len(cells.lattice))]
    contestants: dict[str, Callable[[], int]] = {
        "ours": lambda: ours(batches, cutoff, threads=1),
        **{peer: partial(counted, find, singles, cutoff) for peer, find in PEERS.items()},
    }
    found = {peer: call() for peer, call in contestants.items()}
    if max(found.values()) - min(found.values()) > 1e-6 * found["ours"]:
        raise AssertionError(f"{name} {cutoff}: the lists differ in length: {found}")
    case = f"edges, {name}, {cutoff:g} angstrom, {found['ours'] / len(cells.lattice):.0f} a crystal"
    seconds = timing.interleaved(contestants, rounds)
    count = len(cells.lattice)
    return [
        timing.versus_fastest(case, seconds, ours="ours", count=count, at_least=PROMISED[name]),
        two_threads(case, partial(ours, batches, cutoff), count, rounds),
    ]


def graphs(name: str, cells: Flat, rounds: int) -> list[timing.Row]:
    """The 12 nearest within 8 angstrom, against a peer's list and a sort in NumPy."""
    batches, singles = cut(cells, GRAPH_CUTOFF, NEIGHBORS), [cells.single(c) for c in range(len(cells.lattice))]
    call = partial(ours, batches, GRAPH_CUTOFF, max_neighbors=NEIGHBORS)
    contestants: dict[str, Callable[[], object]] = {
        "ours": partial(call, threads=1),
        **{f"{peer} + NumPy": partial(all_nearest, find, singles) for peer, find in PEERS.items()},
    }
    case, count = f"{NEIGHBORS} neighbours, {name}", len(cells.lattice)
    seconds = timing.interleaved(contestants, rounds)
    return [
        timing.versus_fastest(case, seconds, ours="ours", count=count, at_least=PROMISED_GRAPHS),
        two_threads(case, call, count, rounds),
    ]


def two_threads(case: str, call: Callable[..., int], count: int, rounds: int) -> timing.Row:
    """Two threads against one; peers between them would leave neither its memory."""
    pair = {"1 thread": partial(call, threads=1), "2 threads": partial(call, threads=2)}
    seconds = timing.interleaved(pair, 3 * rounds)
    return timing.versus_fastest(
        f"{case}, 2 threads", seconds, ours="2 threads", count=count, at_least=PROMISED_THREADS
    )


def arithmetic(rounds: int) -> timing.Row:
    """What a second thread is worth on this machine where nothing is shared: SHA-256 of a block in the first cache."""
    block = bytes(16384)

    def hashed(times: int) -> None:
        for _ in range(times):
            hashlib.sha256(block)

    def in_two() -> None:
        other = threading.Thread(target=hashed, args=(500,))
        other.start()
        hashed(500)
        other.join()

    seconds = timing.interleaved({"1 thread": partial(hashed, 1000), "2 threads": in_two}, 3 * rounds)
    return timing.versus_fastest("SHA-256, 2 threads", seconds, ours="2 threads", count=1000, unit="blocks/s")


def growth(repeats: tuple[int, ...]) -> list[timing.Row]:
    """Microseconds per atom in a cell of 100 atoms and its supercells, and the slowest over the fastest."""
    cell = random_cells(1, seed=3, atoms=(100, 100), skew=0.3, density=0.058)
    per_atom = {}
    for repeat in repeats:
        shifts = np.stack(np.meshgrid(*[np.arange(repeat)] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell.lattice[0]
        positions = (shifts[:, None] + cell.positions[None]).reshape(-1, 3)
        size = len(positions)
        cells = laid([(positions, repeat * cell.lattice[0], (True, True, True))] * max(1, 20_000 // size)).arrays()
        call = partial(neighbors.neighbor_list, *cells, cutoff=5.0, threads=1)
        seconds = timing.interleaved({"ours": call}, 5)["ours"]
        per_atom[size] = 1e6 * median(seconds) / len(cells[0])
    rows = [timing.Row(f"one cell of {size} atoms, 5 angstrom", "us/atom", cost) for size, cost in per_atom.items()]
    spread = max(per_atom.values()) / min(per_atom.values())
    return [*rows, timing.Row("slowest size over fastest", "ratio", spread)]


def cut(cells: Flat, cutoff: float, max_neighbors: int | None = None) -> list[Flat]:
    """The crystals in batches of about so many edges."""
    rows = neighbors.count_edges(*cells.arrays(), cutoff=cutoff, max_neighbors=max_neighbors)
    edges = np.concatenate([[0], np.cumsum(rows.edge_count)])[cells.atom_offsets]
    ends = np.searchsorted(edges, np.arange(BATCH_EDGES, edges[-1], BATCH_EDGES))
    batches = []
    for start, end in pairwise([0, *ends.tolist(), len(cells.lattice)]):
        atoms = slice(cells.atom_offsets[start], cells.atom_offsets[end])
        offsets = cells.atom_offsets[start : end + 1] - cells.atom_offsets[start]
        batches.append(Flat(cells.positions[atoms], cells.lattice[start:end], cells.pbc[start:end], offsets))
    return batches


def ours(batches: list[Flat], cutoff: float, *, threads: int, max_neighbors: int | None = None) -> int:
    """How many edges all batches have."""
    edges = 0
    for batch in batches:
        found: EdgeArrays = neighbors.neighbor_list(
            *batch.arrays(), cutoff=cutoff, max_neighbors=max_neighbors, threads=threads
        )
        edges += len(found.edge_source)
    return edges


Found = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def pymatgen_edges(cell: Flat, cutoff: float) -> Found:
    """Centre, neighbour, shift, distance; the atom itself taken out."""
    from pymatgen.optimization.neighbors import find_points_in_spheres

    centre, source, shift, distance = find_points_in_spheres(
        cell.positions, cell.positions, r=cutoff, pbc=cell.pbc[0].astype(np.int64), lattice=cell.lattice[0], tol=1e-8
    )
    other = distance > 1e-8
    return centre[other], source[other], shift[other], distance[other]


def matscipy_edges(cell: Flat, cutoff: float) -> Found:
    """Centre, neighbour, shift, distance."""
    from matscipy_neighbours import neighbour_list

    found: Found = neighbour_list(
        "ijSd", cutoff=cutoff, positions=cell.positions, cell=cell.lattice[0], pbc=cell.pbc[0]
    )
    return found


def vesin_edges(cell: Flat, cutoff: float) -> Found:
    """Centre, neighbour, shift, distance; results borrowed, not copied."""
    from vesin import NeighborList

    found: Found = NeighborList(cutoff=cutoff, full_list=True).compute(
        cell.positions, cell.lattice[0], periodic=cell.pbc[0], quantities="ijSd", copy=False
    )
    return found


PEERS: dict[str, Callable[[Flat, float], Found]] = {
    "pymatgen find_points_in_spheres": pymatgen_edges,
    "matscipy-neighbours": matscipy_edges,
    "vesin": vesin_edges,
}


def counted(find: Callable[[Flat, float], Found], cells: list[Flat], cutoff: float) -> int:
    """How many edges a peer finds, crystal by crystal."""
    return sum(len(find(cell, cutoff)[0]) for cell in cells)


def all_nearest(find: Callable[[Flat, float], Found], cells: list[Flat]) -> None:
    """The nearest neighbours through a peer, crystal by crystal."""
    for cell in cells:
        nearest(*find(cell, GRAPH_CUTOFF))


def nearest(centre: np.ndarray, source: np.ndarray, shift: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, ...]:
    """The nearest neighbours of every atom, vectorised over the crystal."""
    order = np.lexsort((distance, centre))
    centre = centre[order]
    first = np.searchsorted(centre, centre)
    kept = order[np.arange(len(centre)) - first < NEIGHBORS]
    return source[kept], shift[kept], distance[kept]


if __name__ == "__main__":
    timing.main(run)
