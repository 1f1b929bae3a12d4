"""Writes `results.h5`, block by block, in constant memory: the columns of schema.py over all rows of a run."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from hashlib import sha256
from typing import Any

import h5py
import numpy as np

from screening.crystals.columns import FILTERS, GrowingColumn
from screening.files.sink import Sink
from screening.store.failures import MESSAGES, OFFSETS, REASON, ROW
from screening.store.ids import bytes_column
from screening.store.schema import (
    COLUMNS,
    EMBEDDING,
    ENUMERATIONS,
    FAILURE_COLUMNS,
    NOTE_COLUMNS,
    RELAXATION_COLUMNS,
    RESULTS_FORMAT,
    Array,
    ShardNote,
    Stamp,
    Status,
    target_column,
    write_attributes,
)


@dataclass(frozen=True, slots=True)
class Widths:
    """What must be known before the first row is written: bytes of texts, numbers of an embedding (0: none)."""

    id: int = 1
    formula: int = 1
    reason: int = 1
    embedding: int = 0

    def joined(self, other: "Widths") -> "Widths":
        """The widths that hold what either holds."""
        return Widths(*map(max, astuple(self), astuple(other)))


class ResultsWriter:
    """Adds rows to a new file; `attributes` are written at the end, with the counts of statuses and a hash.

    The hash is over types, shapes and bytes of all columns, so that runs with equal results have equal hashes.
    """

    def __init__(self, file: h5py.File, sink: Sink, stamp: Stamp, widths: Widths) -> None:
        self._file, self._sink, self._stamp = file, sink, stamp
        self._columns: dict[str, GrowingColumn] = {}
        self._text = 0
        self.counts: Counter[Status] = Counter()
        self.failures = 0
        texts = {"id": widths.id, "formula": widths.formula, REASON: widths.reason}
        for column in COLUMNS:
            self._create(column.name, texts.get(column.name, column.dtype), column.unit, column.shape, column.meaning)
        for target in stamp.targets:
            self._create(target_column(target.name), "<f4", target.unit, meaning="prediction; NaN unless status is ok")
            write_attributes(self.dataset(target_column(target.name)), {"kind": target.kind, "scale": target.scale})
        if widths.embedding:
            self._create(EMBEDDING, "<f4", "1", (widths.embedding,), "what the model made of the crystal; NaN likewise")
        for column in RELAXATION_COLUMNS if stamp.relaxation is not None else ():
            self._create(column.name, column.dtype, column.unit, column.shape, column.meaning)
        for column in FAILURE_COLUMNS:
            self._create(column.name, texts.get(column.name, column.dtype), column.unit, (), column.meaning)
        self._hashes = {name: sha256() for name in self._columns}
        self._append(OFFSETS, np.zeros(1, np.int64))

    def dataset(self, name: str) -> Any:
        """A column as it is being written."""
        return self._columns[name].dataset

    def append(self, columns: Mapping[str, Array]) -> None:
        """Add the columns of some rows, with their failures, after all earlier ones."""
        for name in self._columns:
            values = columns[name]
            if name == OFFSETS:
                values = values[1:] - values[0] + self._text
            self._append(name, values)
        self._text += len(columns[MESSAGES])
        self.failures += len(columns[ROW])
        codes, counts = np.unique(columns["status"], return_counts=True)
        self.counts.update({Status(code): count for code, count in zip(codes.tolist(), counts.tolist(), strict=True)})
        self._sink.check()

    def finish(self, attributes: Mapping[str, object], notes: Sequence[ShardNote] = ()) -> None:
        """Write what still waits, notes on how it came about, which are in no hash, and the attributes."""
        for column in self._columns.values():
            column.finish()
        counts = {status.word: self.counts[status] for status in Status}
        identity = {"format": RESULTS_FORMAT, "schema_version": self._stamp.version}
        everything = identity | self._stamp.attributes() | {"read": self.counts.total()} | counts
        everything |= {"sha256": self._hash()} | dict(attributes)
        write_attributes(self._file, everything)
        self._write_notes(notes)
        self._sink.check()

    def _write_notes(self, notes: Sequence[ShardNote]) -> None:
        columns: tuple[Array, ...] = (
            np.array([note.start for note in notes], np.int64),
            np.array([note.stop for note in notes], np.int64),
            np.array([note.written for note in notes], np.float64),
            bytes_column([note.worker.encode() for note in notes]),
            bytes_column([json.dumps(note.timing, sort_keys=True).encode() for note in notes]),
        )
        for column, values in zip(NOTE_COLUMNS, columns, strict=True):
            filters = {"chunks": True, **FILTERS} if values.size else {}
            write_attributes(
                self._file.create_dataset(column.name, data=values, **filters),
                {"unit": column.unit, "meaning": column.meaning},
            )

    def _create(self, name: str, dtype: str | int, unit: str, shape: tuple[int, ...] = (), meaning: str = "") -> None:
        parent, _, own = name.rpartition("/")
        group = self._file.require_group(parent) if parent else self._file
        kind: Any = ENUMERATIONS.get(name) or (f"S{dtype}" if isinstance(dtype, int) else dtype)
        self._columns[name] = GrowingColumn(group, own, shape, kind)
        write_attributes(self.dataset(name), {"unit": unit, "meaning": meaning})

    def _append(self, name: str, values: Array) -> None:
        column = self._columns[name]
        rows = np.ascontiguousarray(values, column.dataset.dtype)
        self._hashes[name].update(rows.view(np.uint8).data if rows.size else b"")
        column.append(rows)

    def _hash(self) -> str:
        lines = {
            name: [column.dataset.dtype.str, column.dataset.shape, self._hashes[name].hexdigest()]
            for name, column in self._columns.items()
        }
        return sha256(json.dumps(lines).encode()).hexdigest()
