"""What a neighbour list is made of, as flat arrays; neighbors.py and reference.py both return these."""

from typing import Any, NamedTuple

SHELL_TOLERANCE = 1e-3
"""Distances that follow each other by less than this factor are one shell: docs/conventions.md says why."""

BYTES_PER_EDGE = 4 + 12 + 24 + 8


class EdgeArrays(NamedTuple):
    """Edges of a batch in CSR order: edges into atom i are rows [edge_offsets[i], edge_offsets[i + 1]).

    `edge_offsets` (atoms + 1,) i32; `edge_source` (edges,) i32, the row of the neighbour in the batch;
    `edge_shift` (edges, 3) i32; `edge_vector` (edges, 3) f64 = r_j - r_i + shift @ lattice;
    `edge_distance` (edges,) f64. Rows are ordered by (source, shift). NumPy arrays on the CPU, torch
    tensors on a GPU.
    """

    edge_offsets: Any
    edge_source: Any
    edge_shift: Any
    edge_vector: Any
    edge_distance: Any


class EdgeRows(NamedTuple):
    """How many edges each atom has and where its row is cut: what counting gives and filling takes."""

    edge_count: Any
    row_cut: Any
