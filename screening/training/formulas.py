"""Reduced formulas of many crystals at once: element counts divided by their greatest common divisor."""

import numpy as np
import numpy.typing as npt

from screening.crystals.elements import SYMBOLS


def element_counts(numbers: npt.NDArray[np.uint8], atom_offsets: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Count the atoms of each element in each crystal, (crystals, 119)."""
    crystals, elements = len(atom_offsets) - 1, len(SYMBOLS)
    row = np.repeat(np.arange(crystals), np.diff(atom_offsets))
    counts = np.bincount(row * elements + numbers, minlength=crystals * elements)
    return counts.reshape(crystals, elements).astype(np.int64)


def reduced_formulas(numbers: npt.NDArray[np.uint8], atom_offsets: npt.NDArray[np.integer]) -> list[str]:
    """Name each crystal's composition, elements in the order of their symbols: Al2O3, ClNa."""
    counts = element_counts(numbers, atom_offsets)
    divisor = np.maximum(np.gcd.reduce(counts, axis=1), 1)
    reduced = counts // divisor[:, None]
    crystal, element = np.nonzero(reduced)
    parts: list[list[tuple[str, int]]] = [[] for _ in range(len(counts))]
    for c, z, n in zip(crystal.tolist(), element.tolist(), reduced[crystal, element].tolist(), strict=True):
        parts[c].append((SYMBOLS[z], n))
    return ["".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in sorted(part)) for part in parts]
