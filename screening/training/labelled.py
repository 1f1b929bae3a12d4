"""Crystals with their edges and labels, built once and kept in memory, from which batches are gathered.

Edges of a crystal lie end to end, and `edge_source` counts from the crystal's first atom, so that a crystal can be laid
anywhere. Gathering is index arithmetic over whole columns: its cost does not grow with the number of crystals but with
that of their edges.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from screening.arrays import Float32, Float64, Int32, Int64, UInt8
from screening.crystals.batch import Crystals
from screening.crystals.elements import SYMBOLS
from screening.crystals.formulas import ReducedFormulas, element_counts
from screening.errors import InputError
from screening.graphs import Graphs, Neighbors, graph_batches
from screening.models.graph_tensors import GraphTensors
from screening.predictions import Target
from screening.training.mechanics import MECHANICAL, forces_of, mechanical_label

# The neighbour list of this many edges, with its vectors and shifts, is in memory at once while building.
BUILD_EDGES, BUILD_ATOMS = 2_000_000, 500_000
# Crystals that are looked at together where all of many are, so that mapped graphs stay on the disk.
AT_ONCE = 16_384
FOLD = "fold"


@dataclass(frozen=True, eq=False)
class LabelledGraphs:
    """Graphs of many crystals; `labels` is (crystals, targets) in the targets' units, NaN where missing.

    `forces` (atoms, 3) are there where they were asked for, NaN where missing. `held` names all labels that any of the
    crystals came with, asked for or not.
    """

    ids: Sequence[str]
    targets: tuple[Target, ...]
    neighbors: Neighbors
    labels: Float64
    folds: Float64
    numbers: UInt8
    atom_offsets: Int64
    edge_offsets: Int64
    edge_source: Int32
    edge_vector: Float32
    forces: Float32 | None = None
    held: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        stream: Iterable[Crystals],
        targets: tuple[Target, ...],
        neighbors: Neighbors,
        *,
        threads: int | None = None,
        forces: bool = False,
    ) -> "LabelledGraphs":
        """List the neighbours of all crystals and look up their labels, and their `forces` if asked."""
        parts = list(cls.parts(stream, targets, neighbors, threads=threads, forces=forces))
        return cls.joined(parts, targets, neighbors, forces=forces)

    @classmethod
    def parts(
        cls,
        stream: Iterable[Crystals],
        targets: tuple[Target, ...],
        neighbors: Neighbors,
        *,
        threads: int | None = None,
        forces: bool = False,
    ) -> Iterator["LabelledGraphs"]:
        """Do the same a batch of crystals at a time."""
        batches = graph_batches(stream, neighbors, max_edges=BUILD_EDGES, max_atoms=BUILD_ATOMS, threads=threads)
        return (_of_batch(batch, targets, forces=forces) for batch in batches)

    @classmethod
    def joined(
        cls,
        parts: Sequence["LabelledGraphs"],
        targets: tuple[Target, ...],
        neighbors: Neighbors,
        *,
        forces: bool = False,
    ) -> "LabelledGraphs":
        """Lay parts end to end, in order."""
        return cls(
            ids=[i for part in parts for i in part.ids],
            targets=targets,
            neighbors=neighbors,
            labels=np.concatenate([np.empty((0, len(targets))), *(part.labels for part in parts)]),
            folds=np.concatenate([np.empty(0), *(part.folds for part in parts)]),
            numbers=np.concatenate([np.empty(0, np.uint8), *(part.numbers for part in parts)]),
            atom_offsets=_offsets([np.diff(part.atom_offsets) for part in parts]),
            edge_offsets=_offsets([np.diff(part.edge_offsets) for part in parts]),
            edge_source=np.concatenate([np.empty(0, np.int32), *(part.edge_source for part in parts)]),
            edge_vector=np.concatenate([np.empty((0, 3), np.float32), *(part.edge_vector for part in parts)]),
            forces=np.concatenate([np.empty((0, 3), np.float32), *map(_forces_of, parts)]) if forces else None,
            held=frozenset[str]().union(*(part.held for part in parts)),
        )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def formulas(self) -> ReducedFormulas:
        """The reduced formula of each crystal, worked out when the first is asked for."""
        return ReducedFormulas(self.numbers, self.atom_offsets)

    @cached_property
    def atom_counts(self) -> Int64:
        """Atoms per crystal, (crystals,)."""
        return np.diff(self.atom_offsets)

    @cached_property
    def edge_counts(self) -> Int64:
        """Edges per crystal, (crystals,)."""
        return np.diff(self.edge_offsets[self.atom_offsets])

    def for_targets(self, targets: tuple[Target, ...]) -> "LabelledGraphs":
        """The same crystals with the labels of some of the targets, in this order; nothing else is copied."""
        absent = [target.name for target in targets if target not in self.targets]
        if absent:
            raise InputError(f"these graphs were built without labels for {', '.join(absent)}; build them with")
        columns = [self.targets.index(target) for target in targets]
        return replace(self, targets=targets, labels=self.labels[:, columns])

    def forces_in(self, rows: Int64) -> Float32:
        """The forces on the atoms of crystals, end to end."""
        if self.forces is None:
            raise InputError("these graphs were built without forces; build them with")
        found: Float32 = self.forces.take(self.atoms_of(rows), axis=0)
        return found

    def first(self, count: int) -> "LabelledGraphs":
        """The first so many crystals; nothing is copied."""
        atoms = int(self.atom_offsets[count])
        edges = int(self.edge_offsets[atoms])
        return replace(
            self,
            ids=self.ids[:count],
            labels=self.labels[:count],
            folds=self.folds[:count],
            numbers=self.numbers[:atoms],
            atom_offsets=self.atom_offsets[: count + 1],
            edge_offsets=self.edge_offsets[: atoms + 1],
            edge_source=self.edge_source[:edges],
            edge_vector=self.edge_vector[:edges],
            forces=None if self.forces is None else self.forces[:atoms],
        )

    def atoms_of(self, rows: Int64) -> Int64:
        """The places of these crystals' atoms among all, end to end."""
        return _ranges(self.atom_offsets[rows], self.atom_counts[rows])

    def lonely_atoms(self, rows: Int64) -> int:
        """How many atoms of these crystals have no neighbour."""
        parts = (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE))
        return sum(int((self._row_lengths(self.atoms_of(part)) == 0).sum()) for part in parts)

    def elements(self, rows: Int64) -> list[int]:
        """The atomic numbers that occur in these crystals, ascending."""
        found = np.zeros(256, np.bool_)
        for start in range(0, len(rows), AT_ONCE):
            found[self.numbers[self.atoms_of(rows[start : start + AT_ONCE])]] = True
        return np.flatnonzero(found).tolist()

    def rows_beyond(self, elements: Sequence[int]) -> Int64:
        """The crystals that have atoms of other elements than these."""
        known = np.zeros(256, np.bool_)
        known[list(elements)] = True
        others = np.flatnonzero(~known[self.numbers])
        return np.unique(np.searchsorted(self.atom_offsets, others, side="right") - 1)

    def fractions(self, rows: Int64) -> Float64:
        """The part of each crystal's atoms that each atomic number has, (crystals, 119)."""
        found: Float64 = np.empty((len(rows), len(SYMBOLS)))
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE]
            counts = element_counts(self.numbers[self.atoms_of(part)], _offsets([self.atom_counts[part]]))
            found[start : start + AT_ONCE] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return found

    def take(
        self, rows: Int64, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> tuple[GraphTensors, Tensor]:
        """Gather crystals into one batch: their graph, and their labels in units, (crystals, targets) float64."""
        atom_counts, edge_counts = self.atom_counts[rows], self.edge_counts[rows]
        atoms = _ranges(self.atom_offsets[rows], atom_counts)
        edges = _ranges(self.edge_offsets[self.atom_offsets[rows]], edge_counts)
        starts = _offsets([atom_counts])
        graph = GraphTensors.of_arrays(
            numbers=self.numbers.take(atoms),
            atom_offsets=starts,
            edge_offsets=_offsets([self._row_lengths(atoms)]),
            edge_source=self.edge_source.take(edges) + np.repeat(starts[:-1].astype(np.int32), edge_counts),
            edge_vector=self.edge_vector.take(edges, axis=0),
            device=device,
            dtype=dtype,
        )
        return graph, torch.from_numpy(self.labels[rows]).to(device)

    def fingerprint(self, rows: Int64) -> str:
        """A hash of these crystals' names, atoms, edges, labels and forces, to tell data sets apart."""
        digest = hashlib.sha256("\0".join(self.ids[r] for r in rows.tolist()).encode("utf-8", "surrogatepass"))
        columns: list[Callable[[Int64], npt.NDArray[Any]]] = [
            lambda part: self.numbers[self.atoms_of(part)],
            lambda part: self._row_lengths(self.atoms_of(part)),
            lambda part: self.edge_vector[_ranges(self.edge_offsets[self.atom_offsets[part]], self.edge_counts[part])],
            lambda part: self.labels[part],
        ]
        if self.forces is not None:
            columns.append(self.forces_in)
        for column in columns:
            for start in range(0, len(rows), AT_ONCE):
                digest.update(np.ascontiguousarray(column(rows[start : start + AT_ONCE])).tobytes())
        return digest.hexdigest()

    def _row_lengths(self, atoms: Int64) -> Int64:
        # Not kept for all atoms: of mapped graphs that would be the one column in memory.
        found: Int64 = self.edge_offsets.take(atoms + 1) - self.edge_offsets.take(atoms)
        return found


def labels_of(crystals: Crystals, target: Target) -> Float64:
    """The labels of a target, (crystals,), NaN where missing.

    A crystal without a label `is_metal` is a metal when its band gap is exactly 0. Classes must be 0 or 1. What
    mechanics.py names is worked out.
    """
    if target.name in MECHANICAL:
        return mechanical_label(crystals, target.name)
    missing = np.full(len(crystals), np.nan)
    found = np.array(crystals.labels.get(target.name, missing), np.float64)
    if target.kind == "classification" and target.name == "is_metal":
        gap = np.asarray(crystals.labels.get("band_gap", missing), np.float64)
        found = np.where(np.isnan(found), np.where(np.isnan(gap), np.nan, gap == 0.0), found)
    if target.kind == "classification":
        wrong = np.flatnonzero(~np.isnan(found) & (found != 0.0) & (found != 1.0))
        if len(wrong):
            c = int(wrong[0])
            raise InputError(
                f"{crystals.ids[c]}: label {target.name} is {found[c]}; a classification has labels 0 and 1"
            )
    return found


def _forces_of(part: LabelledGraphs) -> Float32:
    return np.full((len(part.numbers), 3), np.nan, np.float32) if part.forces is None else part.forces


def _of_batch(graphs: Graphs, targets: tuple[Target, ...], *, forces: bool) -> LabelledGraphs:
    crystals, edges = graphs.crystals, graphs.edges
    atom_offsets = crystals.atom_offsets.astype(np.int64)
    first = np.repeat(crystals.atom_offsets[:-1], graphs.edge_counts)
    columns = [labels_of(crystals, target) for target in targets]
    return LabelledGraphs(
        ids=list(crystals.ids),
        targets=targets,
        neighbors=graphs.neighbors,
        labels=np.stack(columns, axis=1) if columns else np.empty((len(crystals), 0)),
        folds=np.array(crystals.labels.get(FOLD, np.full(len(crystals), np.nan)), np.float64),
        numbers=crystals.numbers,
        atom_offsets=atom_offsets,
        edge_offsets=edges.edge_offsets.astype(np.int64),
        edge_source=edges.edge_source - first,
        edge_vector=edges.edge_vector.astype(np.float32),
        forces=forces_of(crystals) if forces else None,
        held=frozenset(name for name, values in crystals.labels.items() if not np.isnan(values).all()) - {FOLD},
    )


def _offsets(counts: Sequence[Int64]) -> Int64:
    return np.cumsum(np.concatenate([np.zeros(1, np.int64), *counts]), dtype=np.int64)


def _ranges(starts: Int64, counts: Int64) -> Int64:
    """The numbers start, start + 1, ... of each range, end to end."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - ends + counts, counts)
