"""One shard file: what was predicted for a range of rows, whole or not there, readable by any HDF5 library.

The name tells the rows: `rows-000000000000-000000010000.h5` holds rows [0, 10000) of the packed input, so a listing of
the folder says what is done. A file is made in memory and written in one go under another name, synchronised and
renamed: HDF5 never meets a full disk, and a killed writer leaves nothing under the name. Names under way carry a random
part, because a worker that was given up may still be writing the same rows.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from screening.crystals.columns import FILTERS
from screening.errors import FileFormatError, InputError
from screening.files.hdf5 import reading
from screening.files.whole import write_whole
from screening.store import failures
from screening.store.failures import Failure
from screening.store.ids import text_of
from screening.store.rows import ShardRows, columns_of, hash_of, rows_of
from screening.store.schema import (
    COLUMNS,
    EMBEDDING,
    ENUMERATIONS,
    FAILURE_COLUMNS,
    READ_VERSIONS,
    RELAXATION_COLUMNS,
    RELAXED_COLUMNS,
    SHARD_FORMAT,
    VERSIONS,
    Array,
    ShardNote,
    Stamp,
    plain_attributes,
    target_column,
    write_attributes,
)
from screening.version import code_version

NAME = re.compile(r"rows-(\d{12})-(\d{12})\.h5")
PART = re.compile(rf"{NAME.pattern}\.[0-9a-f]{{8}}\.part")
ALWAYS, RELAXING = (*COLUMNS, *FAILURE_COLUMNS), (*RELAXATION_COLUMNS, *RELAXED_COLUMNS)
CURE = "remove it and give the same `screening screen` command again: these rows alone are predicted anew"


def shard_name(start: int, stop: int) -> str:
    """The name of the file for rows [start, stop)."""
    return f"rows-{start:012d}-{stop:012d}.h5"


def shard_ranges(folder: Path) -> list[tuple[int, int, Path]]:
    """List start, stop and path of every shard in a folder, in the order of rows; all other names are passed over."""
    found = []
    for entry in _listed(folder):
        name = NAME.fullmatch(entry)
        if name and int(name[1]) < int(name[2]):
            found.append((int(name[1]), int(name[2]), folder / entry))
    return sorted(found)


def sweep_parts(folder: Path) -> int:
    """Remove what killed writers left in a folder and tell how many files; a writer at work fails and leaves none."""
    left = [folder / entry for entry in _listed(folder) if PART.fullmatch(entry)]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def _listed(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); expected a folder of shards") from error


# --- writing --------------------------------------------------------------------------------------------------


def write_shard(folder: Path, rows: ShardRows, stamp: Stamp, *, timing: Mapping[str, float], worker: str = "") -> Path:
    """Write rows to their file in a folder; it is there when this returns, whatever happens to the machine then.

    A file of the same rows is replaced. `timing` (seconds by stage) and `worker` say how it came about and are in no
    hash.
    """
    if (rows.relaxed is None) != (stamp.relaxation is None):
        raise InputError(f"rows {rows.start} to {rows.stop} are relaxed and their run is not, or the other way round")
    columns = columns_of(rows, stamp.targets)
    identity = _identity(rows.start, rows.stop, stamp)
    attributes = identity | {"sha256": hash_of(json.dumps(identity, sort_keys=True), columns)}
    circumstances = {"timing": json.dumps(dict(timing), sort_keys=True), "worker": worker, "written": time.time()}
    circumstances["code_version"] = code_version()
    image = _image(columns, attributes | circumstances, stamp)
    return write_whole(folder / shard_name(rows.start, rows.stop), [image])


def _identity(start: int, stop: int, stamp: Stamp) -> dict[str, Any]:
    return {"format": SHARD_FORMAT, "schema_version": stamp.version, "start": start, "stop": stop} | stamp.attributes()


def _image(columns: Mapping[str, Array], attributes: Mapping[str, object], stamp: Stamp) -> bytes:
    """An HDF5 file as bytes."""
    units = {column.name: {"unit": column.unit} for column in ALWAYS + RELAXING}
    units |= {target_column(t.name): {"unit": t.unit, "kind": t.kind, "scale": t.scale} for t in stamp.targets}
    units[EMBEDDING] = {"unit": "1"}
    # A name of its own, though none is on any disk: HDF5 refuses two open files of one name, and threads write at once.
    with h5py.File(os.urandom(8).hex(), "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        write_attributes(file, attributes)
        for name, values in columns.items():
            # One chunk: a file is small, and the checksum of a chunk guards a column that is read alone.
            filters = {"chunks": values.shape, **FILTERS} if values.size else {}
            dtype = ENUMERATIONS.get(name, values.dtype)
            dataset = file.create_dataset(name, data=values, dtype=dtype, **filters)
            write_attributes(dataset, units[name])
        file.flush()
        return bytes(file.id.get_file_image())


# --- reading --------------------------------------------------------------------------------------------------


class ShardFile:
    """A shard to read from, a context manager: its rows and stamp at once, its columns when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.ExitStack() as undo, _reading(path, "open"):
            self._file = h5py.File(path, "r", locking=False)
            undo.callback(self._file.close)
            self.attributes = plain_attributes(self._file)
            self._require_format()
            self.start, self.stop = int(self.attributes["start"]), int(self.attributes["stop"])
            self.stamp = Stamp.of(self.attributes)
            undo.pop_all()
        if path.name != shard_name(self.start, self.stop):
            self.close()
            raise FileFormatError(f"{path}: holds rows {self.start} to {self.stop}, which its name denies; {CURE}")

    @property
    def embedding_width(self) -> int:
        """How many numbers the embedding of a crystal has; 0 if there are none."""
        with _reading(self.path):
            return int(self._file[EMBEDDING].shape[1]) if EMBEDDING in self._file else 0

    @property
    def note(self) -> ShardNote:
        """When, by whom and in how much time it was written."""
        with _reading(self.path):
            timing = json.loads(self.attributes["timing"])
            written, worker = float(self.attributes["written"]), str(self.attributes["worker"])
            return ShardNote(self.start, self.stop, written, worker, timing)

    def dtype(self, name: str) -> np.dtype[Any]:
        """The type of a column, without reading it."""
        with _reading(self.path):
            found: np.dtype[Any] = self._file[name].dtype
            return found

    def columns(self) -> dict[str, Array]:
        """Read all columns, and refuse them if their hash is not the one that was written."""
        with _reading(self.path):
            columns = {name: self._file[name][()] for name in self._names()}
            identity = json.dumps(_identity(self.start, self.stop, self.stamp), sort_keys=True)
            found, expected = hash_of(identity, columns), self.attributes["sha256"]
            if found != expected:
                raise ValueError(f"its columns have SHA-256 {found}, expected {expected}")
            return columns

    def column(self, name: str) -> Array:
        """Read one column, guarded by its own checksum alone."""
        with _reading(self.path):
            return np.asarray(self._file[name][()])

    def close(self) -> None:
        """Close the file; columns read from it stay."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _names(self) -> list[str]:
        names = [column.name for column in COLUMNS] + [target_column(target.name) for target in self.stamp.targets]
        names += [EMBEDDING] if EMBEDDING in self._file else []
        names += [column.name for column in RELAXING] if self.stamp.relaxation is not None else []
        return names + [column.name for column in FAILURE_COLUMNS]

    def _require_format(self) -> None:
        found, version = self.attributes.get("format"), self.attributes.get("schema_version")
        if found != SHARD_FORMAT:
            raise ValueError(f"format {found!r}, expected {SHARD_FORMAT!r}")
        if version not in VERSIONS:
            raise FileFormatError(
                f"{self.path}: written with schema version {version}, this release reads {READ_VERSIONS}; use the "
                "release of crystal-screening that the run was started with"
            )


def read_shard(path: Path) -> ShardRows:
    """Read a shard and verify its hash."""
    with ShardFile(path) as file:
        columns = file.columns()
        with _reading(path):
            return rows_of(columns, file.stamp.targets)


def read_failures(path: Path) -> list[tuple[str, Failure]]:
    """Read which crystals of a shard have no prediction, by id, and why, without the other columns."""
    with ShardFile(path) as file:
        columns = {name: file.column(name) for name in failures.NAMES}
        ids = text_of(file.column("id")[columns[failures.ROW] - file.start])
        return list(zip(ids, failures.failures_in(columns), strict=True))


def require_stamp(file: ShardFile, stamp: Stamp) -> None:
    """Refuse a shard of another run."""
    different = file.stamp.differences(stamp)
    if different:
        raise FileFormatError(f"{file.path}: is of another run: {'; '.join(different)}; {CURE}")


def _reading(path: Path, verb: str = "read") -> AbstractContextManager[None]:
    return reading(path, "a shard", CURE, verb)
