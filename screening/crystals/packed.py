"""The packed file: many crystals as flat HDF5 columns and offsets, with the rejections that came along.

    positions (atoms, 3) f64   numbers (atoms,) u8   lattice (crystals, 3, 3) f64   pbc (crystals, 3) bool
    atom_offsets (crystals + 1,) i64                  forces (atoms, 3), stress (crystals, 3, 3) f64, if any has them
    labels/<name> (crystals,) f64, attribute `unit`   NaN where a crystal has none
    ids, sources, rejections/{ids,sources,reasons,messages}, inputs: groups of `utf8` bytes and `offsets`

Attributes of the file: `format`, `schema_version`, `read` = `accepted` + `rejected`, `atoms`, `limits` (JSON),
`fingerprint` (fingerprint.py says of what), `code_version`; `space_group_tolerance` (angstrom) when space groups were
worked out, which then are the label `spacegroup_number`, 0 for a crystal without one.
Every column is chunked, shuffled, compressed and checksummed (columns.py). A file exists exactly when it is whole:
it is written under another name, synchronised and renamed. Nothing in it depends on the time or on worker counts.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Self, overload
from urllib.parse import quote, unquote

import h5py
import numpy as np

from screening.arrays import Float64, Int64
from screening.crystals.batch import Crystals
from screening.crystals.columns import StoredText
from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.fingerprint import Fingerprint
from screening.crystals.text import SURROGATES
from screening.crystals.validate import CrystalLimits
from screening.errors import FileFormatError, InputError
from screening.files.hdf5 import reading

FORMAT = "screening.crystals"
SCHEMA_VERSION = 1
COLUMNS = ("atom_offsets", "numbers", "positions", "lattice", "pbc", "forces", "stress")
REJECTION_FIELDS = ("ids", "sources", "reasons", "messages")
# The dataset of a label without a name, which no other label is stored as.
NAMELESS = "%"
# Chunks of a column that stay decompressed: the one that two neighbouring reads share, and some to spare.
CHUNK_CACHE_BYTES = 2 << 20
REJECTIONS_AT_ONCE = 8192
CURE = "it is damaged or of another kind: copy it again from its origin, or make it again with `screening pack`"


class PackedCrystals(Sequence[Crystal]):
    """A packed file to read from: a slice is a `Crystals` batch, an index one crystal. A context manager.

    Files are never changed once they are there, so reading takes no lock and many processes can read at once.
    `content` is the file's bytes when they are not on disk; `path` is then their name in messages.
    """

    def __init__(self, path: Path | str, *, content: BinaryIO | None = None) -> None:
        self.path = Path(path)
        with contextlib.ExitStack() as undo, self._reading("open"):
            self._file = h5py.File(content or self.path, "r", locking=False, rdcc_nbytes=CHUNK_CACHE_BYTES)
            undo.callback(self._file.close)
            self._require_format()
            self.attributes: dict[str, Any] = {n: _plain(value) for n, value in self._file.attrs.items()}
            self.limits = CrystalLimits(**json.loads(self.attributes["limits"]))
            # Held open, because the cache of decompressed chunks lives and dies with an open dataset.
            self._columns = {name: self._file[name] for name in COLUMNS if name in self._file}
            self._labels = {label_name(name): column for name, column in self._file["labels"].items()}
            self._text = {name: StoredText(self._file[name]) for name in ("ids", "sources", "inputs")}
            self._rejections = {name: StoredText(self._file["rejections"][name]) for name in REJECTION_FIELDS}
            self._require_shapes()
            undo.pop_all()

    @property
    def rejected(self) -> int:
        """How many crystals were refused when the file was made; the length is how many were accepted."""
        return int(self.attributes["rejected"])

    @property
    def units(self) -> Mapping[str, str]:
        """The labels in the file and the unit of each; "" where it is not known."""
        return {name: _plain(column.attrs["unit"]) for name, column in self._labels.items()}

    @property
    def inputs(self) -> Sequence[str]:
        """The paths that the file was made from, as they were given."""
        with self._reading():
            return list(self._text["inputs"].read(0, None))

    @property
    def fingerprint(self) -> str:
        """A hash of the crystals and rejections; files of earlier releases lack it and are read through for it."""
        if "fingerprint" in self.attributes:
            return str(self.attributes["fingerprint"])
        found = Fingerprint()
        for batch in self.batches():
            found.add(batch)
        for start in range(0, self.rejected, REJECTIONS_AT_ONCE):
            found.add(Crystals.of([]), self.rejections(start, start + REJECTIONS_AT_ONCE))
        return found.hexdigest()

    @property
    def space_group_tolerance(self) -> float | None:
        """With what tolerance, angstrom, space groups were worked out when the file was made; None if they were not."""
        found = self.attributes.get("space_group_tolerance")
        return None if found is None else float(found)

    def label(self, name: str, start: int = 0, stop: int | None = None) -> Float64:
        """One label of all crystals, or of a range, without the rest of them; NaN where a crystal has none."""
        if name not in self._labels:
            raise InputError(f"{self.path}: has no label {name}; it has {', '.join(self._labels) or 'none'}")
        with self._reading():
            start, stop, _ = slice(start, stop).indices(len(self))
            found: Float64 = self._labels[name][start : max(start, stop)]
            return found

    def ids(self, start: int = 0, stop: int | None = None) -> Sequence[str]:
        """The ids of all crystals, or of a range, without the rest of them."""
        return self._texts("ids", start, stop)

    def sources(self, start: int = 0, stop: int | None = None) -> Sequence[str]:
        """Where all crystals, or those of a range, were read."""
        return self._texts("sources", start, stop)

    def _texts(self, name: str, start: int, stop: int | None) -> Sequence[str]:
        with self._reading():
            start, stop, _ = slice(start, stop).indices(len(self))
            return self._text[name].read(start, max(start, stop))

    def rejections(self, start: int = 0, stop: int | None = None) -> list[Rejection]:
        """The refused crystals, or those of a range, in the order they were read."""
        with self._reading():
            start, stop, _ = slice(start, stop).indices(self.rejected)
            fields = [self._rejections[name].read(start, max(start, stop)) for name in REJECTION_FIELDS]
            return [Rejection(i, s, Reason(r), m) for i, s, r, m in zip(*fields, strict=True)]

    def rejection_text(self, field: str, start: int = 0, stop: int | None = None) -> Sequence[str]:
        """One of the `REJECTION_FIELDS` of the refused crystals, or of a range; decoded when it is looked at."""
        with self._reading():
            start, stop, _ = slice(start, stop).indices(self.rejected)
            return self._rejections[field].read(start, max(start, stop))

    def batches(self, size: int = 8192) -> Iterator[Crystals]:
        """All crystals in order, `size` at a time."""
        if size < 1:
            raise InputError(f"a batch has at least one crystal, got {size}")
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def __len__(self) -> int:
        return int(self.attributes["accepted"])

    @overload
    def __getitem__(self, index: int) -> Crystal: ...
    @overload
    def __getitem__(self, index: slice) -> Crystals: ...
    def __getitem__(self, index: int | slice) -> Crystal | Crystals:
        if not isinstance(index, slice):
            c = range(len(self))[index]
            return self[c : c + 1][0]
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise InputError(f"a packed file can be sliced with step 1 only, got {step}; use take() on the batch")
        return self._read(start, max(start, stop))

    def atoms(self, start: int, stop: int) -> Crystals:
        """Rows [start, stop) with ids, atoms and cells alone, which is all that a prediction takes."""
        start, stop, _ = slice(start, stop).indices(len(self))
        return self._read_atoms(start, max(start, stop))[0]

    def atom_offsets(self, start: int, stop: int) -> Int64:
        """Where the atoms of rows [start, stop) begin among all, and where the last one's end."""
        with self._reading():
            offsets: Int64 = self._columns["atom_offsets"][start : stop + 1]
            return offsets

    def _read_atoms(self, start: int, stop: int) -> tuple[Crystals, int, int]:
        columns, offsets = self._columns, self.atom_offsets(start, stop)
        first, last = int(offsets[0]), int(offsets[-1])
        if last - first > np.iinfo(np.int32).max:
            raise InputError(f"{self.path}: {last - first} atoms are too many for one batch (2^31 - 1); slice less")
        with self._reading():
            crystals = Crystals(
                ids=self._text["ids"].read(start, stop),
                numbers=columns["numbers"][first:last],
                positions=columns["positions"][first:last],
                lattice=columns["lattice"][start:stop],
                pbc=columns["pbc"][start:stop],
                atom_offsets=(offsets - first).astype(np.int32),
            )
        return crystals, first, last

    def _read(self, start: int, stop: int) -> Crystals:
        columns = self._columns
        crystals, first, last = self._read_atoms(start, stop)
        with self._reading():
            labels = {name: column[start:stop] for name, column in self._labels.items()}
            forces = columns["forces"][first:last] if "forces" in columns else None
            stress = columns["stress"][start:stop] if "stress" in columns else None
            return replace(
                crystals,
                labels={name: values for name, values in labels.items() if not np.isnan(values).all()},
                forces=None if forces is None or np.isnan(forces).all() else forces,
                stress=None if stress is None or np.isnan(stress).all() else stress,
                sources=self._text["sources"].read(start, stop),
            )

    def close(self) -> None:
        """Close the file; batches read from it stay."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type["PackedCrystals"], tuple[Path]]:
        return PackedCrystals, (self.path,)

    def _require_format(self) -> None:
        found = _plain(self._file.attrs.get("format"))
        if found != FORMAT:
            raise FileFormatError(
                f"{self.path}: an HDF5 file, but not of packed crystals (format {found!r}, expected {FORMAT!r}); "
                "make one with `screening pack`"
            )
        version = self._file.attrs.get("schema_version")
        if version != SCHEMA_VERSION:
            raise FileFormatError(
                f"{self.path}: written with schema version {version}, this release reads {SCHEMA_VERSION}; "
                "update crystal-screening, or pack the crystals again"
            )

    def _require_shapes(self) -> None:
        crystals, atoms = len(self), int(self._columns["atom_offsets"][-1])
        expected: dict[str, tuple[int, ...]] = {"atom_offsets": (crystals + 1,), "numbers": (atoms,)}
        expected |= {"positions": (atoms, 3), "lattice": (crystals, 3, 3), "pbc": (crystals, 3)}
        expected |= {"forces": (atoms, 3)} if "forces" in self._columns else {}
        expected |= {"stress": (crystals, 3, 3)} if "stress" in self._columns else {}
        expected |= {f"labels/{name}": (crystals,) for name in self._file["labels"]}
        expected |= {f"{name}/offsets": (crystals + 1,) for name in ("ids", "sources")}
        expected |= {f"rejections/{name}/offsets": (self.rejected + 1,) for name in REJECTION_FIELDS}
        for name, shape in expected.items():
            if self._file[name].shape != shape:
                found = self._file[name].shape
                raise FileFormatError(f"{self.path}: damaged: `{name}` has shape {found}, expected {shape}")

    def _reading(self, verb: str = "read") -> AbstractContextManager[None]:
        return reading(self.path, "packed crystals", CURE, verb)


def _plain(value: Any) -> Any:
    """An attribute as Python has it."""
    return value.decode() if isinstance(value, bytes) else value


def stored_name(label: str) -> str:
    """A label as the name of a dataset: `/` and NUL cannot be in one, and dots alone mean folders."""
    quoted = quote(label, safe=" !\"#$&'()*+,:;<=>?@[\\]^`{|}~", errors=SURROGATES)
    if set(quoted) <= {"."}:
        return quoted.replace(".", "%2E") or NAMELESS
    return quoted


def label_name(stored: str) -> str:
    """The label of a dataset."""
    return "" if stored == NAMELESS else unquote(stored, errors=SURROGATES)
