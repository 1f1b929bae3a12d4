"""What result files hold: columns with types and units, status codes, and what two files of one run have in common.

docs/store.md is this page for readers; tests compare the two.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from screening.crystals.packed import stored_name
from screening.predictions import Target
from screening.relaxation_limits import Relaxation

Array = npt.NDArray[Any]

SHARD_FORMAT = "screening.shard"
RESULTS_FORMAT = "screening.results"
SCHEMA_VERSION = 1
# Of runs that relax: a release that knows nothing of that would take them for others.
RELAXING_VERSION = 2
VERSIONS = (SCHEMA_VERSION, RELAXING_VERSION)
READ_VERSIONS = " and ".join(map(str, VERSIONS))

TARGETS = "targets"
EMBEDDING = "embedding"
RELAXATION = "relaxation"


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


class Ending(IntEnum):
    """How the relaxation of a crystal ended, as files have it. The codes are stored: add, never renumber."""

    CONVERGED = 0
    TIMED_OUT = 1
    DIVERGED = 2
    NONE = 3

    @property
    def word(self) -> str:
        """The code in words, as files and tables show it."""
        return self.name.lower()

    @property
    def has_atoms(self) -> bool:
        """Whether there is a relaxed crystal."""
        return self in (Ending.CONVERGED, Ending.TIMED_OUT)


STATUS_DTYPE: np.dtype[Any] = h5py.enum_dtype({status.word: int(status) for status in Status}, basetype="u1")
ENDING_DTYPE: np.dtype[Any] = h5py.enum_dtype({ending.word: int(ending) for ending in Ending}, basetype="u1")
ENUMERATIONS: Mapping[str, np.dtype[Any]] = MappingProxyType({"status": STATUS_DTYPE, RELAXATION: ENDING_DTYPE})
"""Columns of codes, and what these mean."""


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
RELAXATION_COLUMNS = (
    Column(RELAXATION, "|u1", "1", "converged 0, timed_out 1, diverged 2, none 3"),
    Column("relaxation_steps", "<u4", "1", "steps that were taken"),
    Column("unrelaxed_energy_per_atom", "<f4", "eV/atom", "by the potential, of the crystal as it came"),
    Column("relaxed_energy_per_atom", "<f4", "eV/atom", "by the potential, where the relaxation ended"),
    Column("remaining_force", "<f4", "eV/angstrom", "length of the largest force there"),
    Column("remaining_stress", "<f4", "eV/angstrom^3", "largest component of stress there"),
    Column("volume_change", "<f4", "1", "volume there over volume before, minus 1"),
)
"""In the results of runs that relax."""
RELAXED_COLUMNS = (
    Column("relaxed/row", "<i8", "1", "`row` of each crystal that was relaxed, in the order of the rows"),
    Column("relaxed/atom_offsets", "<i8", "1", "atoms of crystal k are positions [k], [k + 1)"),
    Column("relaxed/lattice", "<f8", "angstrom", "rows are lattice vectors", (3, 3)),
    Column("relaxed/positions", "<f8", "angstrom", "Cartesian", (3,)),
)
"""In shards of such runs; merging puts them into a packed file."""
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
    """What all shards of a run have in common: one model, one packed input, these targets, one way to relax or none."""

    model_hash: str
    input_fingerprint: str
    targets: tuple[Target, ...]
    relaxation: Relaxation | None = None

    @property
    def version(self) -> int:
        """The version of files that have it."""
        return SCHEMA_VERSION if self.relaxation is None else RELAXING_VERSION

    def attributes(self) -> dict[str, str]:
        """The stamp as attributes of a file."""
        targets = json.dumps([asdict(target) for target in self.targets], sort_keys=True)
        found = {"model_hash": self.model_hash, "input_fingerprint": self.input_fingerprint, "targets": targets}
        if self.relaxation is not None:
            found[RELAXATION] = json.dumps(asdict(self.relaxation), sort_keys=True)
        return found

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> "Stamp":
        """The stamp in the attributes of a file; raises KeyError, ValueError or TypeError where there is none."""
        targets = tuple(Target(**fields) for fields in json.loads(attributes["targets"]))
        relaxation = Relaxation(**json.loads(attributes[RELAXATION])) if RELAXATION in attributes else None
        return cls(str(attributes["model_hash"]), str(attributes["input_fingerprint"]), targets, relaxation)

    def differences(self, other: "Stamp") -> list[str]:
        """Name what differs from another stamp, in words; empty when they agree."""
        found = []
        for what, ours, theirs in (
            ("model hash", self.model_hash, other.model_hash),
            ("input fingerprint", self.input_fingerprint, other.input_fingerprint),
            ("targets", _listed(self.targets), _listed(other.targets)),
            ("relaxation", self.relaxation or "none", other.relaxation or "none"),
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
