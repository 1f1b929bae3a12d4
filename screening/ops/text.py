"""Numbers out of text at native speed: rows of words, lines that are alike, and what a CIF says of sites and cells."""

from collections.abc import Sequence

import numpy as np

from screening.ops import core
from screening.ops.core import Array


def site_coordinates(texts: list[str], *, limit: float) -> tuple[Array, int, bool]:
    """Read every x, then every y, then every z, with or without uncertainty such as 0.3333(2), into rows.

    Gives the rows (sites, 3), the place of the first text that is no finite number below the limit or -1, and
    whether two rows are equal.
    """
    return core.native.site_coordinates(texts, limit)


def cell_lattice(texts: list[str | None], *, limit: float) -> tuple[list[float], Array, int, bool]:
    """Read a, b, c, alpha, beta, gamma (angstrom, degrees), and lay a along x and b in the xy plane.

    Gives the parameters, the lattice (3, 3), the place of the first text that is no finite number below the limit or
    -1, and whether there is a cell with these parameters.
    """
    return core.native.cell_lattice(texts, limit)


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
    core.native.scan_rows(
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
    core.native.scan_lines(
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
