"""What result files hold: columns with types and units, status codes, and what two files of one run have in common.

docs/store.md is this page for readers; tests compare the two.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from screening.crystals.packed import stored_name
from screening.predictions import Target

Array = npt.NDArray[Any]

SHARD_FORMAT = "screening.shard"
RESULTS_FORMAT = "screening.results"
SCHEMA_VERSION = 1

TARGETS = "targets"
EMBEDDING = "embedding"
FAILURES = "failures"


class Status(IntEnum):
    """What became of a crystal. The codes are stored in files: add, never renumber."""

    OK = 0
    REJECTED = 1
    DUPLICATE = 2
    FAILED = 3

    @property
    def word(self) -> str:
        """The code in words, as files and tables show it."""
        return self.name.lower()


STATUS_DTYPE: np.dtype[Any] = h5py.enum_dtype({status.word: int(status) for status in Status}, basetype="u1")


@dataclass(frozen=True, slots=True)
class Column:
    """A column that every result file has: its type (`S` is bytes of one width per file), unit and meaning."""

    name: str
    dtype: str
    unit: str
    meaning: str
    shape: tuple[int, ...] = ()


COLUMNS = (
    Column("row", "<i8", "1", "row in the packed input; -1 - k for its rejection k"),
    Column("status", "|u1", "1", "ok 0, rejected 1, duplicate 2, failed 3"),
    Column("id", "S", "text", "id of the crystal, UTF-8"),
    Column("formula", "S", "text", "reduced formula, elements by electronegativity"),
    Column("nsites", "<u4", "1", "atoms in the cell"),
    Column("nelements", "|u1", "1", "different elements"),
    Column("elements", "<u8", "1", "bit (z - 1) % 64 of word (z - 1) // 64 is set for atomic number z", (2,)),
    Column("volume_per_atom", "<f4", "angstrom^3/atom", "NaN unless periodic in all three directions"),
)
FAILURE_COLUMNS = (
    Column("failures/row", "<i8", "1", "`row` of each crystal that is not ok, in the order of the rows"),
    Column("failures/reason", "S", "text", "code to count by"),
    Column("failures/message/utf8", "|u1", "text", "sentences end to end, UTF-8"),
    Column("failures/message/offsets", "<i8", "1", "sentence k is bytes [k], [k + 1)"),
)


NOTE_COLUMNS = (
    Column("shards/start", "<i8", "1", "first row of each shard that was merged"),
    Column("shards/stop", "<i8", "1", "one past its last row"),
    Column("shards/written", "<f8", "s", "when it was written, in seconds since 1970"),
    Column("shards/worker", "S", "text", "who wrote it, UTF-8"),
    Column("shards/timing", "S", "text", "JSON: seconds by stage"),
)


@dataclass(frozen=True, slots=True)
class ShardNote:
    """How rows [start, stop) came about: when they were written (seconds since 1970), by whom, seconds by stage."""

    start: int
    stop: int
    written: float
    worker: str
    timing: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What all shards of a run have in common: one model, one packed input, these targets."""

    model_hash: str
    input_fingerprint: str
    targets: tuple[Target, ...]

    def attributes(self) -> dict[str, str]:
        """The stamp as attributes of a file."""
        targets = json.dumps([asdict(target) for target in self.targets], sort_keys=True)
        return {"model_hash": self.model_hash, "input_fingerprint": self.input_fingerprint, "targets": targets}

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> "Stamp":
        """The stamp in the attributes of a file; raises KeyError, ValueError or TypeError where there is none."""
        targets = tuple(Target(**fields) for fields in json.loads(attributes["targets"]))
        return cls(str(attributes["model_hash"]), str(attributes["input_fingerprint"]), targets)

    def differences(self, other: "Stamp") -> list[str]:
        """Name what differs from another stamp, in words; empty when they agree."""
        found = []
        for what, ours, theirs in (
            ("model hash", self.model_hash, other.model_hash),
            ("input fingerprint", self.input_fingerprint, other.input_fingerprint),
            ("targets", _listed(self.targets), _listed(other.targets)),
        ):
            if ours != theirs:
                found.append(f"{what} {ours}, expected {theirs}")
        return found


def target_column(name: str) -> str:
    """The dataset of a target."""
    return f"{TARGETS}/{stored_name(name)}"


def plain_attributes(holder: h5py.HLObject) -> dict[str, Any]:
    """Attributes of a file or dataset, bytes as text."""
    return {name: v.decode() if isinstance(v, bytes) else v for name, v in holder.attrs.items()}


def write_attributes(holder: h5py.HLObject, attributes: Mapping[str, object]) -> None:
    """Write attributes; text as bytes of fixed width, since HDF5 keeps no checksums of others."""
    for name, value in attributes.items():
        holder.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value


def _listed(targets: Sequence[Target]) -> str:
    return ", ".join(f"{t.name} ({t.unit or 'unknown unit'}, {t.kind}, {t.scale})" for t in targets) or "none"
