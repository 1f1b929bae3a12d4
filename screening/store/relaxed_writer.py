"""Writes the relaxed crystals of a run as a packed file, `relaxed.h5`, which every command reads.

It accepts the crystals that were relaxed, in the order of the rows, and refuses the others for the reason that results
have. What it is given at once changes no byte of it.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Reason, Rejection
from screening.crystals.packed import PackedCrystals
from screening.crystals.packed_writer import PackedWriter
from screening.store import failures
from screening.store.relaxed import RelaxedRows
from screening.store.schema import Array, Stamp

# Rows of the input that are handed on together, whichever files they come from.
BLOCK = 1 << 13
FINGERPRINT = "relaxed_fingerprint"


class RelaxedWriter:
    """Takes the columns of rows in their order; `attributes` tell, at the end, which crystals were written."""

    def __init__(self, packed: PackedCrystals, writer: PackedWriter | None) -> None:
        self._packed, self._writer = packed, writer
        self._crystals: list[Crystals] = []
        self._refused: list[Rejection] = []
        self._rows = 0
        self.attributes: dict[str, str] = {}

    @classmethod
    @contextlib.contextmanager
    def of(cls, stamp: Stamp, packed: PackedCrystals, path: Path) -> "Iterator[RelaxedWriter]":
        """Write to a file, which is there when this is left; of a run that relaxes nothing, write none."""
        if stamp.relaxation is None:
            yield cls(packed, None)
            return
        with PackedWriter(path, limits=packed.limits, inputs=packed.inputs) as writer:
            found = cls(packed, writer)
            yield found
            found._hand_on()
        found.attributes[FINGERPRINT] = writer.fingerprint

    def append(self, start: int, columns: Mapping[str, Array]) -> None:
        """Add the rows from `start` on, whose columns these are."""
        if self._writer is None:
            return
        rows = RelaxedRows.of_columns(columns)
        before = replace(self._packed[start : start + len(rows)], labels={}, forces=None, stress=None)
        relaxed, has_atoms = rows.of(before), rows.has_atoms
        failed, texts = columns[failures.ROW], failures.messages_in(columns)
        place = 0
        while place < len(rows):
            end = min(place + BLOCK - self._rows, len(rows))
            first, last = (int(has_atoms[:k].sum()) for k in (place, end))
            self._crystals.append(relaxed[first:last])
            for k in (np.flatnonzero(~has_atoms[place:end]) + place).tolist():
                message = texts[int(np.searchsorted(failed, start + k))]
                self._refused.append(Rejection(before.ids[k], before.sources[k], Reason.NOT_RELAXED, message))
            self._rows += end - place
            place = end
            if self._rows == BLOCK:
                self._hand_on()

    def _hand_on(self) -> None:
        if self._writer is not None and self._rows:
            self._writer.append(Crystals.joined(self._crystals), self._refused)
        self._crystals, self._refused, self._rows = [], [], 0
