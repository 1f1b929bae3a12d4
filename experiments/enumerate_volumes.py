"""Fits the bond lengths by which `screening enumerate` predicts volumes, and measures how good they are.

    .venv/bin/python experiments/enumerate_volumes.py TRAIN.extxyz.gz VAL.extxyz.gz

Writes screening/enumerate/volumes.csv from all of TRAIN, crystals of the Materials Project (CC BY 4.0), and prints the
median relative error of the volume per atom: on VAL, and for each prototype on the crystals of TRAIN that are of it,
in geometry and with parameters of the prototype, as enumeration has them. There, a crystal is judged by bond lengths
fitted without any crystal of its chemical system (five folds). Beside it stands what a sum of fitted atomic volumes
gives. Needs about five minutes on one core.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from screening.arrays import Bool, Float64, Int64, UInt8
from screening.crystals.batch import Crystals
from screening.crystals.elements import SYMBOLS
from screening.crystals.read import read_batches
from screening.enumerate.chemistry import electronegativities
from screening.enumerate.congruence import geometry_of, mappings
from screening.enumerate.named import named, names
from screening.enumerate.prototype import Prototype
from screening.enumerate.volumes import (
    MEAN_ELECTRONEGATIVITY,
    PAIR_TERMS,
    POWER,
    SHORTEST,
    TABLE,
    Coefficients,
    lengths_of,
    repulsions,
    spacings,
)

FOLDS, STEPS, RATE, DECAY = 5, 1000, 0.03, 1e-4
# Beyond this many atoms a crystal costs more than it teaches; fewer crystals than this teach nothing of an element.
MOST_ATOMS, FEWEST_CRYSTALS = 60, 5
# How far a real crystal may be from its prototype, in the unit of congruence.py.
LIKE = 0.15


@dataclass(frozen=True, eq=False)
class Terms:
    """All pairs of elements in all crystals: term t belongs to crystal[t] and holds the K of one pair."""

    crystal: Int64
    first: Int64
    second: Int64
    repulsion: Float64
    mean_chi: Float64
    spacing: Float64

    def only(self, chosen: Bool) -> "Terms":
        """The crystals that are chosen."""
        place = np.cumsum(chosen) - 1
        kept = chosen[self.crystal]
        columns = self.first[kept], self.second[kept], self.repulsion[kept]
        return Terms(place[self.crystal[kept]], *columns, self.mean_chi[chosen], self.spacing[chosen])


def read(path: Path) -> Crystals:
    """All crystals of a file that are not too large and have an electronegativity for each element."""
    crystals = Crystals.joined([batch.crystals for batch in read_batches([path])])
    chi = electronegativities()
    bad = np.bincount(np.repeat(np.arange(len(crystals)), crystals.atom_counts), np.isnan(chi[crystals.numbers])) > 0
    return crystals.take(np.flatnonzero((crystals.atom_counts <= MOST_ATOMS) & ~bad))


def terms_of(crystals: Crystals) -> Terms:
    """Sum the repulsions of each crystal's own geometry by pairs of elements."""
    chi = electronegativities()
    columns: list[tuple[Int64, Int64, Int64, Float64]] = []
    means, spacing = [], []
    for c, (lattice, fractional, numbers) in enumerate(cells(crystals)):
        elements, kinds = np.unique(numbers, return_inverse=True)
        sums = repulsions(lattice, fractional, kinds, len(elements))
        a, b = np.triu_indices(len(elements))
        both = sums[a, b] * np.where(a == b, 1.0, 2.0)
        columns.append((np.full(len(a), c), elements[a].astype(np.int64), elements[b].astype(np.int64), both))
        means.append(float(chi[numbers].mean()))
        spacing.append((abs(float(np.linalg.det(lattice))) / len(numbers)) ** (1 / 3))
    crystal, first, second, repulsion = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    kept = repulsion > 0
    listed = crystal[kept], first[kept], second[kept], repulsion[kept]
    return Terms(*listed, np.array(means), np.array(spacing))


def cells(crystals: Crystals) -> Iterator[tuple[Float64, Float64, UInt8]]:
    """Lattice, fractional coordinates and elements of each crystal."""
    for c in range(len(crystals)):
        atoms = slice(crystals.atom_offsets[c], crystals.atom_offsets[c + 1])
        lattice = crystals.lattice[c]
        yield lattice, crystals.positions[atoms] @ np.linalg.inv(lattice), crystals.numbers[atoms]


def fitted(terms: Terms) -> Coefficients:
    """Fit the coefficients: least absolute error of the logarithm of the spacing, smoothed below 0.3 %."""
    torch.manual_seed(0)
    size = len(SYMBOLS)
    chi = torch.tensor(np.nan_to_num(electronegativities(), nan=MEAN_ELECTRONEGATIVITY))
    first, second, crystal = (torch.tensor(x) for x in (terms.first, terms.second, terms.crystal))
    log_sums, goal = torch.tensor(np.log(terms.repulsion)), torch.tensor(np.log(terms.spacing))
    polar = torch.tanh(chi[second] - chi[first])
    excess = torch.tensor(terms.mean_chi - MEAN_ELECTRONEGATIVITY)[crystal]
    signs = torch.tensor((-1.0) ** np.arange(PAIR_TERMS))
    r = torch.full((size,), 1.3, dtype=torch.float64, requires_grad=True)
    s = torch.full((size,), 0.05, dtype=torch.float64, requires_grad=True)
    q = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    a = (torch.randn(size, PAIR_TERMS, dtype=torch.float64) * 0.05).requires_grad_()
    optimiser = torch.optim.Adam([r, s, q, a], lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS, pct_start=0.2)
    for _ in range(STEPS):
        length = r[first] + r[second] - (s[first] - s[second]) * polar + (q[first] + q[second]) * excess
        length = length + (a[first] * a[second] * signs).sum(1)
        each = torch.exp(POWER * torch.log(length.clamp_min(0.1)) + log_sums)
        logarithm = torch.log(torch.zeros(len(goal), dtype=torch.float64).index_add_(0, crystal, each)) / POWER
        loss = torch.sqrt((logarithm - goal) ** 2 + 1e-5).mean() + DECAY * ((a * a).sum() + (q * q).sum())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    seen = np.bincount(np.concatenate([terms.first, terms.second])[terms_once(terms)], minlength=size)
    found_r, found_s, found_q, found_a = (x.detach().numpy() for x in (r, s, q, a))
    return Coefficients(found_r, found_s, found_q, found_a, known=seen >= FEWEST_CRYSTALS)


def terms_once(terms: Terms) -> Int64:
    """Places in (first, second) end to end that name each element of each crystal once."""
    crystal = np.concatenate([terms.crystal, terms.crystal])
    _, places = np.unique(crystal * 256 + np.concatenate([terms.first, terms.second]), return_index=True)
    return places


def predicted(terms: Terms, coefficients: Coefficients) -> Float64:
    """The volume per atom of each crystal in its own geometry."""
    lengths = lengths_of(coefficients)
    excess = (terms.mean_chi - MEAN_ELECTRONEGATIVITY)[terms.crystal]
    length = (
        lengths.pair[terms.first, terms.second] + (lengths.slope[terms.first] + lengths.slope[terms.second]) * excess
    )
    total = np.bincount(terms.crystal, terms.repulsion * np.maximum(length, SHORTEST) ** POWER)
    return np.asarray(total ** (3 / POWER), np.float64)


def atomic_volumes(crystals: Crystals, volumes: Float64, rows: Bool) -> Float64:
    """Volumes of atoms whose sums are those of the crystals at these rows, with the least relative error."""
    shares = shares_of(crystals)
    weight: Float64 = 1 / volumes[rows]
    found: Float64 = np.zeros(shares.shape[1])
    for _ in range(8):
        design = shares[rows] * weight[:, None]
        normal = design.T @ design + 1e-6 * np.eye(shares.shape[1])
        found = np.asarray(np.linalg.solve(normal, design.T @ (volumes[rows] * weight)), np.float64)
        error = np.abs(shares[rows] @ found / volumes[rows] - 1)
        weight = np.asarray(1 / volumes[rows] / np.sqrt(np.maximum(error, 0.02)), np.float64)
    return found


def shares_of(crystals: Crystals) -> Float64:
    """The share of each element in the atoms of each crystal, (crystals, 119)."""
    row = np.repeat(np.arange(len(crystals)), crystals.atom_counts)
    counts = np.bincount(row * len(SYMBOLS) + crystals.numbers, minlength=len(crystals) * len(SYMBOLS))
    return np.asarray(counts.reshape(len(crystals), -1) / crystals.atom_counts[:, None], np.float64)


def systems(crystals: Crystals) -> Int64:
    """A fold for each crystal, one for all crystals of the same elements."""
    present = shares_of(crystals) > 0
    _, system = np.unique(present, axis=0, return_inverse=True)
    folds: Int64 = np.random.default_rng(0).integers(0, FOLDS, int(system.max()) + 1)[system.ravel()]
    return folds


def members(crystals: Crystals) -> dict[str, list[tuple[int, list[int]]]]:
    """For each prototype the rows of the crystals that are of it, and their elements by site."""
    prototypes = [named(name) for name in names()]
    by_kind = defaultdict(list)
    for prototype in prototypes:
        geometry = geometry_of(prototype.lattice, prototype.fractional, prototype.site_of)
        by_kind[geometry.kind].append((prototype, geometry))
    most = max(len(prototype.sites) for prototype in prototypes)
    found = defaultdict(list)
    for c, (lattice, fractional, numbers) in enumerate(cells(crystals)):
        elements, kinds = np.unique(numbers, return_inverse=True)
        if not 2 <= len(elements) <= most:
            continue
        ours = geometry_of(lattice, fractional, kinds)
        for prototype, theirs in by_kind.get(ours.kind, ()):
            mapping = next(mappings(theirs, ours, tolerance=LIKE), None)
            if mapping is not None:
                found[prototype.name].append((c, elements[list(mapping)].tolist()))
    return found


def in_prototype(prototype: Prototype, elements: UInt8, coefficients: Coefficients) -> Float64:
    """Volumes per atom as enumeration predicts them."""
    sums = repulsions(prototype.lattice, prototype.fractional, prototype.site_of, len(prototype.sites))
    shares = prototype.counts / prototype.counts.sum()
    return np.asarray(spacings(sums, shares, elements, lengths_of(coefficients)) ** 3)


def write_table(coefficients: Coefficients, crystals: Crystals) -> None:
    """Write the coefficients, four decimals each."""
    counts = (shares_of(crystals) > 0).sum(axis=0)
    with TABLE.open("w", encoding="ascii", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["symbol", "crystals", "r", "s", "q", *(f"a{k}" for k in range(PAIR_TERMS))])
        for z in np.flatnonzero(coefficients.known).tolist():
            numbers = [coefficients.r[z], coefficients.s[z], coefficients.q[z], *coefficients.a[z]]
            rows.writerow([SYMBOLS[z], counts[z], *(f"{x:.4f}" for x in numbers)])


def median_error(found: Float64, expected: Float64) -> float:
    """In per cent."""
    return float(100 * np.median(np.abs(found / expected - 1)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, write and report."""
    parser = argparse.ArgumentParser(description="Fit bond lengths to crystals and measure how good they are.")
    parser.add_argument("train", type=Path, metavar="TRAIN", help="crystals to fit to")
    parser.add_argument("val", type=Path, metavar="VAL", help="crystals to measure on too")
    chosen = parser.parse_args(arguments)
    crystals, others = read(chosen.train), read(chosen.val)
    terms, other_terms = terms_of(crystals), terms_of(others)
    volumes, other_volumes = terms.spacing**3, other_terms.spacing**3
    final = fitted(terms)
    write_table(final, crystals)
    everything = np.ones(len(crystals), np.bool_)
    sums = shares_of(others) @ atomic_volumes(crystals, volumes, everything)
    ours = predicted(other_terms, final)
    print(f"{len(crystals)} crystals of {chosen.train}; {len(others)} of {chosen.val}, in their own geometry:")
    errors = median_error(ours, other_volumes), median_error(sums, other_volumes)
    print(f"  bond lengths {errors[0]:.1f} %, atomic volumes {errors[1]:.1f} %")

    fold = systems(crystals)
    fits = [fitted(terms.only(fold != k)) for k in range(FOLDS)]
    summed = [shares_of(crystals) @ atomic_volumes(crystals, volumes, fold != k) for k in range(FOLDS)]
    print(f"\n{'prototype':36} crystals  bond lengths  bias  90th  atomic volumes")
    medians = []
    for name, found in members(crystals).items():
        rows = np.array([c for c, _ in found])
        elements = np.array([z for _, z in found], np.uint8)
        each = np.stack([in_prototype(named(name), elements, fit) for fit in fits])
        ours = each[fold[rows], np.arange(len(rows))]
        theirs = np.stack(summed)[fold[rows], rows]
        ratio = ours / volumes[rows] - 1
        figures = median_error(ours, volumes[rows]), median_error(theirs, volumes[rows])
        medians.append(figures)
        bias, tail = 100 * np.median(ratio), 100 * np.quantile(np.abs(ratio), 0.9)
        print(f"{name:36} {len(rows):8} {figures[0]:11.1f} % {bias:+5.1f} {tail:5.1f} {figures[1]:13.1f} %")
    print(f"{'median over the prototypes':36} {'':8} {np.median(medians, axis=0)}")


if __name__ == "__main__":
    main()
