"""One crystal as data, and one crystal that could not be used, as data too.

Reading yields `Crystal | Rejection`; `Crystals` (batch.py) holds many in flat columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from screening.arrays import Float64, UInt8

PERIODIC = (True, True, True)


class Reason(StrEnum):
    """Why a crystal was refused. The values are stored in files: add, never rename."""

    UNREADABLE = "unreadable"
    EMPTY = "empty"
    DISORDERED = "disordered"
    UNKNOWN_ELEMENT = "unknown_element"
    NON_FINITE = "non_finite"
    TINY_VOLUME = "tiny_volume"
    ATOMS_TOO_CLOSE = "atoms_too_close"
    TOO_MANY_ATOMS = "too_many_atoms"
    DUPLICATE_ID = "duplicate_id"
    NOT_RELAXED = "not_relaxed"


@dataclass(frozen=True, slots=True, eq=False)
class Crystal:
    """Atoms in a lattice, with whatever labels came along.

    `numbers` (atoms,) u8; `positions` (atoms, 3) Cartesian, angstrom; `lattice` (3, 3) with lattice
    vectors as rows; `pbc` per lattice vector; `labels` by canonical name (labels.py has their units);
    `forces` (atoms, 3) eV/angstrom; `stress` (3, 3) eV/angstrom^3, tension positive; `source` says
    where it was read: a path, `::member` in an archive, `#entry` in a file of many.
    """

    id: str
    numbers: UInt8
    positions: Float64
    lattice: Float64
    pbc: tuple[bool, bool, bool] = PERIODIC
    labels: Mapping[str, float] = field(default_factory=dict)
    forces: Float64 | None = None
    stress: Float64 | None = None
    source: str = ""

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A crystal that was refused: which one, from where, a code to count by and a sentence to act on."""

    id: str
    source: str
    reason: Reason
    message: str
