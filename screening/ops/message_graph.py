"""Which atom hears which, and which crystal it is in: what message passing takes of a batch of graphs."""

from typing import Any, NamedTuple


class EdgeGraph(NamedTuple):
    """Edges of a batch in CSR order, as int32 torch tensors on one device.

    `edge_offsets` (atoms + 1,): edges into atom i are rows [i], [i + 1) of every edge array; `edge_source` (edges,):
    the atom each comes from; `atom_offsets` (crystals + 1,): atoms of crystal c are rows [c], [c + 1).
    """

    edge_offsets: Any
    edge_source: Any
    atom_offsets: Any
