"""The zero of energy of each source of labels: an energy for every element, by least squares.

Labels of different codes and settings differ by what their atoms weigh alone. E = sum over atoms of reference[Z] + what
is learned, an energy that is zero on average; so labels of many sources can be learned together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from screening.arrays import Float64, Int64
from screening.crystals.elements import SYMBOLS


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """`energies` (sources, elements + 1): eV of an atom of each number; NaN of an element that no energy tells of."""

    sources: tuple[str, ...]
    energies: Float64

    @classmethod
    def fit(cls, fractions: Float64, per_atom: Float64, source: Int64, sources: Sequence[str]) -> "References":
        """Fit energies per atom (crystals,) of crystals of known composition; NaN where a label is missing.

        `fractions` (crystals, elements + 1): the part of the atoms that each number has; `source` (crystals,). Where
        compositions do not tell elements apart, the smallest energies that fit are taken.
        """
        found = np.full((len(sources), fractions.shape[1]), np.nan)
        for s in range(len(sources)):
            rows = (source == s) & ~np.isnan(per_atom)
            there = (fractions[rows] > 0).any(axis=0)
            if there.any():
                chosen = fractions[np.ix_(rows, there)]
                found[s, there] = np.linalg.lstsq(chosen, per_atom[rows], rcond=1e-6)[0]
        return cls(tuple(sources), found)

    def per_atom(self, fractions: Float64, source: Int64) -> Float64:
        """The reference energy of crystals, in eV/atom (crystals,); NaN where an element has none."""
        found: Float64 = np.where(fractions > 0, fractions * self.energies[source], 0.0).sum(axis=1)
        return found

    def as_card(self) -> Mapping[str, Mapping[str, float]]:
        """By source and symbol, as a model file has them."""
        return {
            source: {SYMBOLS[z]: float(row[z]) for z in np.flatnonzero(~np.isnan(row)).tolist()}
            for source, row in zip(self.sources, self.energies, strict=True)
        }
