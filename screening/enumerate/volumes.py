"""Predicts the volume of a crystal from its geometry and its elements.

Atoms repel by an inverse power of their distance d in units of a bond length l that both elements set. A geometry is
scaled until, per atom,

    sum over neighbours j of (l_ij / d_ij)^8 = 1,    averaged over the atoms i

so that the volume per atom is a^3 with a^8 = sum over pairs of sites of K_st l_st^8, where K_st sums d^-8 over the
geometry at one atom per unit volume, once for each prototype.

    l_ij = r_i + r_j - (s_i - s_j) tanh(X_j - X_i) + (q_i + q_j) (<X> - 2.2) + sum over k of (-1)^k a_ik a_jk

X is Pauling's electronegativity, <X> its mean over the atoms. The nine numbers of an element are fitted to crystals of
the Materials Project (CC BY 4.0) by experiments/enumerate_volumes.py, which also says how far off the volumes are.
"""

import csv
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from screening.arrays import Bool, Float64, Int64, UInt8
from screening.crystals.elements import NUMBER_OF, SYMBOLS
from screening.enumerate.chemistry import electronegativities
from screening.ops.neighbors import neighbor_list

TABLE = Path(__file__).parent / "volumes.csv"
POWER = 8
# In units of the cube root of the volume per atom: about 65 neighbours.
REACH = 2.5
MEAN_ELECTRONEGATIVITY = 2.2
PAIR_TERMS = 6
# Elements that never met in the fit can come out at any length; nothing is shorter than this (angstrom).
SHORTEST = 0.5


class Lengths(NamedTuple):
    """Bond lengths of pairs of elements at the mean electronegativity, (119, 119), and their slopes by element."""

    pair: Float64
    slope: Float64
    known: Bool


class Coefficients(NamedTuple):
    """The fitted numbers, by atomic number: r, s and q (119,), a (119, terms), and which elements were fitted."""

    r: Float64
    s: Float64
    q: Float64
    a: Float64
    known: Bool


def lengths_of(coefficients: Coefficients) -> Lengths:
    """Work out the bond lengths of all pairs of elements."""
    chi = np.nan_to_num(electronegativities(), nan=MEAN_ELECTRONEGATIVITY)
    difference = np.tanh(chi[None, :] - chi[:, None])
    signs = (-1.0) ** np.arange(coefficients.a.shape[1])
    additive = coefficients.r[:, None] + coefficients.r[None, :]
    polar = (coefficients.s[:, None] - coefficients.s[None, :]) * difference
    return Lengths(
        pair=additive - polar + (coefficients.a * signs) @ coefficients.a.T,
        slope=coefficients.q,
        known=coefficients.known,
    )


@lru_cache(maxsize=1)
def fitted_lengths() -> Lengths:
    """The bond lengths of the table."""
    size = len(SYMBOLS)
    columns = {name: np.zeros(size) for name in ("r", "s", "q")}
    terms, known = np.zeros((size, PAIR_TERMS)), np.zeros(size, np.bool_)
    with TABLE.open(encoding="ascii", newline="") as file:
        for row in csv.DictReader(file):
            z = NUMBER_OF[row["symbol"]]
            known[z] = True
            for name, column in columns.items():
                column[z] = float(row[name])
            terms[z] = [float(row[f"a{k}"]) for k in range(PAIR_TERMS)]
    return lengths_of(Coefficients(**columns, a=terms, known=known))


def repulsions(lattice: Float64, fractional: Float64, site_of: Int64, sites: int) -> Float64:
    """K_st of a geometry, (sites, sites): per atom, sums of d^-8 over neighbours, at one atom per unit volume."""
    scale = (len(site_of) / abs(float(np.linalg.det(lattice)))) ** (1 / 3)
    offsets = np.array([0, len(site_of)], np.int32)
    cell = lattice * scale
    periodic = np.ones((1, 3), np.bool_)
    edges = neighbor_list(fractional @ cell, cell[None], periodic, offsets, cutoff=REACH, threads=1)
    centre = np.repeat(site_of, np.diff(edges.edge_offsets))
    sums = np.bincount(
        centre * sites + site_of[edges.edge_source], edges.edge_distance**-POWER, minlength=sites * sites
    )
    return (sums / len(site_of)).reshape(sites, sites)


def spacings(repulsion: Float64, fractions: Float64, elements: UInt8, lengths: Lengths | None = None) -> Float64:
    """Predict for each row of elements (crystals, sites) the cube root of the volume per atom, in angstrom.

    `fractions` (sites,) are the shares of the atoms on each site.
    """
    pair, slope, _ = lengths or fitted_lengths()
    chi = np.nan_to_num(electronegativities(), nan=MEAN_ELECTRONEGATIVITY)
    sites = range(elements.shape[1])
    excess = sum(chi[elements[:, s]] * fractions[s] for s in sites) - MEAN_ELECTRONEGATIVITY
    total = np.zeros(len(elements))
    for s in sites:
        for t in range(s, elements.shape[1]):
            ours, theirs = elements[:, s], elements[:, t]
            length = np.maximum(pair[ours, theirs] + (slope[ours] + slope[theirs]) * excess, SHORTEST)
            # Multiplied out: the same bits for every length of the array, which vectorised powers do not promise.
            square = length * length
            fourth = square * square
            total += (repulsion[s, t] * (1.0 if s == t else 2.0)) * (fourth * fourth)
    # The eighth root is three square roots, which are correctly rounded.
    return np.sqrt(np.sqrt(np.sqrt(total)))
