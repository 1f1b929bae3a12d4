"""Writes packed files (packed.py has the layout), batch by batch, in constant memory."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from screening.crystals.batch import Crystals
from screening.crystals.columns import GrowingColumn, GrowingOffsets, GrowingText
from screening.crystals.crystal import Rejection
from screening.crystals.fingerprint import Fingerprint
from screening.crystals.labels import unit_of
from screening.crystals.packed import FORMAT, REJECTION_FIELDS, SCHEMA_VERSION, stored_name
from screening.crystals.validate import CrystalLimits
from screening.errors import InputError
from screening.files.hdf5 import whole_hdf5
from screening.files.whole import require_place
from screening.version import code_version

MOST_LABELS = 4096


class PackedWriter:
    """Writes one packed file, batch by batch, in constant memory; a context manager.

    Leaving it normally puts the finished file in place of an older one in one step. Leaving it by an exception,
    and a disk that is full, leaves the older file or none. `space_group_tolerance` (angstrom) is that with which the
    crystals got their space groups as a label, if they did.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        limits: CrystalLimits | None = None,
        inputs: Sequence[str] = (),
        space_group_tolerance: float | None = None,
    ) -> None:
        self._path = Path(path)
        refusing = json.dumps(asdict(limits or CrystalLimits()), sort_keys=True)
        self._attributes: dict[str, str | float] = {"limits": refusing}
        if space_group_tolerance is not None:
            self._attributes["space_group_tolerance"] = space_group_tolerance
        self._accepted = self._rejected = 0
        self._fingerprint = Fingerprint()
        require_place(self._path)
        with contextlib.ExitStack() as undo:
            self._file, self._sink = undo.enter_context(whole_hdf5(self._path))
            self._text = {name: GrowingText(self._file, name) for name in ("ids", "sources", "inputs")}
            refused = self._file.create_group("rejections")
            self._rejections = {name: GrowingText(refused, name) for name in REJECTION_FIELDS}
            self._offsets = GrowingOffsets(self._file, "atom_offsets")
            self._columns = {
                "numbers": GrowingColumn(self._file, "numbers", (), np.uint8),
                "positions": GrowingColumn(self._file, "positions", (3,), np.float64),
                "lattice": GrowingColumn(self._file, "lattice", (3, 3), np.float64),
                "pbc": GrowingColumn(self._file, "pbc", (3,), np.bool_),
            }
            self._optional: dict[str, GrowingColumn] = {}
            self._labels: dict[str, GrowingColumn] = {}
            self._label_group = self._file.create_group("labels")
            self._text["inputs"].append(inputs)
            self._sink.check()
            self._whole = undo.pop_all()

    @property
    def fingerprint(self) -> str:
        """What the file says of its crystals so far."""
        return self._fingerprint.hexdigest()

    def append(self, crystals: Crystals, rejections: Sequence[Rejection] = ()) -> None:
        """Add a batch of accepted crystals, and rejections, after all earlier ones."""
        with self._all_or_nothing():
            self._fingerprint.add(crystals, rejections)
            for name, column in self._columns.items():
                column.append(getattr(crystals, name))
            self._offsets.append(crystals.atom_offsets)
            self._text["ids"].append(crystals.ids)
            self._text["sources"].append(crystals.sources or [""] * len(crystals))
            self._accepted += len(crystals)
            self._append_labels(crystals)
            self._append_optional("forces", (3,), crystals.forces, self._offsets.total)
            self._append_optional("stress", (3, 3), crystals.stress, self._accepted)
            self._append_rejections(rejections)

    def _append_labels(self, crystals: Crystals) -> None:
        before = self._accepted - len(crystals)
        for name, values in crystals.labels.items():
            if name not in self._labels:
                self._labels[name] = self._new_label(name)
            self._labels[name].skip_to(before)
            self._labels[name].append(values)
        for column in self._labels.values():
            column.skip_to(self._accepted)

    def _new_label(self, name: str) -> GrowingColumn:
        if len(self._labels) == MOST_LABELS:
            raise InputError(
                f"{self._path}: more than {MOST_LABELS} different labels, `{name}` among them; labels are columns "
                "that many crystals share: check whether something else was read as a label"
            )
        column = GrowingColumn(self._label_group, stored_name(name), (), np.float64)
        column.dataset.attrs["unit"] = np.bytes_(unit_of(name).encode())
        return column

    def _append_optional(self, name: str, shape: tuple[int, ...], values: Any, total: int) -> None:
        if values is not None:
            if name not in self._optional:
                self._optional[name] = GrowingColumn(self._file, name, shape, np.float64)
            self._optional[name].skip_to(total - len(values))
            self._optional[name].append(values)
        elif name in self._optional:
            self._optional[name].skip_to(total)

    def _append_rejections(self, rejections: Sequence[Rejection]) -> None:
        self._rejections["ids"].append([r.id for r in rejections])
        self._rejections["sources"].append([r.source for r in rejections])
        self._rejections["reasons"].append([str(r.reason) for r in rejections])
        self._rejections["messages"].append([r.message for r in rejections])
        self._rejected += len(rejections)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            with self._all_or_nothing():
                self._finish()
        self._whole.__exit__(kind, error, traceback)

    def _finish(self) -> None:
        for column in (*self._columns.values(), *self._optional.values(), *self._labels.values()):
            column.finish()
        for text in (*self._text.values(), *self._rejections.values()):
            text.finish()
        self._offsets.finish()
        counts = {"read": self._accepted + self._rejected, "accepted": self._accepted, "rejected": self._rejected}
        counts["atoms"] = self._offsets.total
        versions = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "code_version": code_version()}
        versions["fingerprint"] = self._fingerprint.hexdigest()
        for name, value in (versions | self._attributes | counts).items():
            # Python strings would be stored with variable length, in a heap without checksums.
            self._file.attrs[name] = np.bytes_(value) if isinstance(value, str) else value

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Remove what was written when anything fails, a write above all."""
        with contextlib.ExitStack() as undo:
            undo.push(self._whole)
            yield
            self._sink.check()
            undo.pop_all()
