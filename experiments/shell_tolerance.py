"""How wide is a shell? Rounds the coordinates of real crystals and counts the neighbours that come or go.

    .venv/bin/python experiments/shell_tolerance.py CRYSTALS...

For each number of decimals of the fractional coordinates: how far the distances of the nearest 16 neighbours move. For
each tolerance: how many edges atoms keep at max_neighbors=12, and how many atoms keep another number after rounding.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from screening.arrays import Bool, Float64, Int32
from screening.crystals.batch import Crystals
from screening.crystals.read import read_batches
from screening.ops import neighbors

DECIMALS = (3, 4, 5, 6, 8)
TOLERANCES = (1e-8, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
EDGES = (0, 1e-9, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1, np.inf)
CUTOFF, KEPT, NEAREST = 8.0, 12, 16


def rounded(crystals: Crystals, decimals: int) -> Crystals:
    """The crystals as a file that keeps so many decimals of the fractional coordinates would hold them."""
    lattice = np.repeat(crystals.lattice, crystals.atom_counts, axis=0)
    fractional = np.einsum("ab,abc->ac", crystals.positions, np.linalg.inv(lattice))
    positions = np.einsum("ab,abc->ac", np.round(fractional, decimals), lattice)
    return Crystals(crystals.ids, crystals.numbers, positions, crystals.lattice, crystals.pbc, crystals.atom_offsets)


def nearest(crystals: Crystals) -> Float64:
    """Distances of the nearest neighbours, sorted, (atoms, 16); infinite where there are fewer."""
    edges = neighbors.neighbor_list(*arrays(crystals), cutoff=CUTOFF)
    counts = np.diff(edges.edge_offsets)
    centre = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((edges.edge_distance, centre))
    rank = np.arange(len(centre)) - np.repeat(edges.edge_offsets[:-1], counts)
    found = np.full((len(counts), NEAREST), np.inf)
    close = rank < NEAREST
    found[centre[close], rank[close]] = edges.edge_distance[order][close]
    return found


def kept(crystals: Crystals, tolerance: float) -> Int32:
    """How many edges each atom keeps."""
    rows = neighbors.count_edges(*arrays(crystals), cutoff=CUTOFF, max_neighbors=KEPT, shell_tolerance=tolerance)
    return np.asarray(rows.edge_count)


def arrays(crystals: Crystals) -> tuple[Float64, Float64, Bool, Int32]:
    """What the native core takes."""
    return crystals.positions, crystals.lattice, crystals.pbc, crystals.atom_offsets


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables and the distribution of gaps for the crystals in these files."""
    parser = argparse.ArgumentParser(description="Round coordinates of crystals and count neighbours that change.")
    parser.add_argument("crystals", nargs="+", type=Path, metavar="CRYSTALS", help="files of crystals")
    chosen = parser.parse_args(arguments)
    crystals = Crystals.joined([batch.crystals for batch in read_batches(chosen.crystals)])
    print(f"{len(crystals)} crystals, {len(crystals.numbers)} atoms")
    exact = nearest(crystals)
    gap = exact[:, KEPT] / exact[:, KEPT - 1] - 1
    shares = np.histogram(gap, EDGES)[0] / len(gap)
    print(f"\nrelative gap between neighbours {KEPT} and {KEPT + 1}")
    for low, high, share in zip(EDGES, EDGES[1:], shares, strict=False):
        print(f"  {low:7.0e} to {high:7.0e} {share:7.2%}")

    coarse = {decimals: rounded(crystals, decimals) for decimals in DECIMALS}
    print(f"\nrelative move of the nearest {NEAREST} distances\n  decimals   median     99%   99.9%     max")
    for decimals, other in coarse.items():
        found = nearest(other)
        both = np.isfinite(exact) & np.isfinite(found)
        move = np.abs(found[both] / exact[both] - 1)
        print(f"  {decimals:8} ", " ".join(f"{q:7.1e}" for q in np.quantile(move, (0.5, 0.99, 0.999, 1))))

    print(f"\nmax_neighbors={KEPT}: kept on average, and atoms whose number changes with the decimals")
    print("  tolerance   kept", " ".join(f"{decimals:7}" for decimals in DECIMALS))
    for tolerance in TOLERANCES:
        before = kept(crystals, tolerance)
        changed = [np.mean(kept(other, tolerance) != before) for other in coarse.values()]
        print(f"  {tolerance:9.0e} {before.mean():6.3f}", " ".join(f"{share:7.3%}" for share in changed))


if __name__ == "__main__":
    main()
