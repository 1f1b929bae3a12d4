"""What a worker has found out about a range of rows of the packed input, and the same as columns of a file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from screening.arrays import Float32, Float64, UInt8, UInt32, UInt64
from screening.crystals.batch import Crystals
from screening.crystals.elements import SYMBOLS
from screening.crystals.formulas import conventional_formulas, element_amounts
from screening.crystals.volume import volumes_of
from screening.errors import InputError
from screening.predictions import Target
from screening.store.failures import Failure, failure_columns, failures_in
from screening.store.ids import bytes_column, id_column, text_of
from screening.store.relaxed import RelaxedRows
from screening.store.schema import COLUMNS, EMBEDDING, RELAXATION, TARGETS, Array, Status, target_column

REASON = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, eq=False)
class ShardRows:
    """What is known about rows [start, stop) of the packed input, one entry per row; schema.py has the columns."""

    start: int
    stop: int
    ids: Sequence[str]
    formulas: Sequence[str]
    nsites: UInt32
    nelements: UInt8
    elements: UInt64
    volume_per_atom: Float32
    status: UInt8
    values: Mapping[str, Float32]
    failures: Sequence[Failure] = ()
    embedding: Float32 | None = field(default=None)
    relaxed: RelaxedRows | None = field(default=None)

    @classmethod
    def of(cls, start: int, crystals: Crystals, targets: Sequence[Target] = ()) -> "ShardRows":
        """Work out what follows from the crystals alone; every value is NaN yet, every status ok."""
        count = len(crystals)
        amounts = element_amounts(crystals.numbers, crystals.atom_offsets)
        return cls(
            start=start,
            stop=start + count,
            ids=crystals.ids,
            formulas=conventional_formulas(amounts, count),
            nsites=crystals.atom_counts.astype(np.uint32),
            nelements=np.bincount(amounts.crystal, minlength=count).astype(np.uint8),
            elements=element_masks(amounts.crystal, amounts.number, count),
            volume_per_atom=volumes_per_atom(crystals).astype(np.float32),
            status=np.full(count, Status.OK, np.uint8),
            values={target.name: np.full(count, np.nan, np.float32) for target in targets},
        )

    def __len__(self) -> int:
        return self.stop - self.start


def element_masks(crystal: npt.NDArray[np.integer], number: npt.NDArray[np.integer], crystals: int) -> UInt64:
    """Set a bit for each element of each crystal: bit (z - 1) % 64 of word (z - 1) // 64, (crystals, 2)."""
    masks = np.zeros((crystals, 2), np.uint64)
    bit = (number - 1).astype(np.uint64)
    np.bitwise_or.at(masks, (crystal, bit // 64), np.uint64(1) << bit % 64)
    return masks


def element_names(masks: UInt64) -> Array:
    """Name the elements of each mask, alphabetically: `O-Sr-Ti`; empty for none."""
    # As one item of 16 bytes, masks sort faster than as rows, and most crystals share theirs with others.
    items = np.ascontiguousarray(masks).view("V16").reshape(-1)
    kinds, place = np.unique(items, return_inverse=True)
    words = kinds.view(np.uint64).reshape(-1, 2).tolist()
    return bytes_column([_names(low | high << 64) for low, high in words])[place]


def _names(mask: int) -> bytes:
    return "-".join(sorted(SYMBOLS[z] for z in range(1, len(SYMBOLS)) if mask >> (z - 1) & 1)).encode()


def volumes_per_atom(crystals: Crystals) -> Float64:
    """The volume per atom of each crystal, angstrom^3; NaN unless periodic in all three directions."""
    per_atom = volumes_of(crystals.lattice, crystals.pbc) / np.maximum(crystals.atom_counts, 1)
    return np.where((crystals.atom_counts > 0) & (per_atom <= np.finfo(np.float32).max), per_atom, np.nan)


# --- rows as columns ------------------------------------------------------------------------------------------


def columns_of(rows: ShardRows, targets: Sequence[Target]) -> dict[str, Array]:
    """Lay rows out as the columns of a file, in the order that its hash takes them; refuse rows that make no sense."""
    _require_sense(rows, targets)
    columns: dict[str, Array] = {
        "row": np.arange(rows.start, rows.stop, dtype="<i8"),
        "status": rows.status,
        "id": id_column(rows.ids),
        "formula": bytes_column([formula.encode() for formula in rows.formulas]),
        "nsites": rows.nsites,
        "nelements": rows.nelements,
        "elements": rows.elements,
        "volume_per_atom": rows.volume_per_atom,
    }
    columns |= {target_column(target.name): rows.values[target.name] for target in targets}
    if rows.embedding is not None:
        columns[EMBEDDING] = rows.embedding
    if rows.relaxed is not None:
        columns |= rows.relaxed.columns(rows.start)
    columns |= failure_columns(rows.failures)
    types = {column.name: column.dtype for column in COLUMNS if column.dtype != "S"}
    types |= {name: "<f4" for name in columns if name == EMBEDDING or name.startswith(f"{TARGETS}/")}
    return {name: np.ascontiguousarray(values, types.get(name)) for name, values in columns.items()}


def rows_of(columns: Mapping[str, Array], targets: Sequence[Target]) -> ShardRows:
    """Undo `columns_of`; ids that were too long come as they are stored."""
    return ShardRows(
        start=int(columns["row"][0]),
        stop=int(columns["row"][-1]) + 1,
        ids=text_of(columns["id"]),
        formulas=text_of(columns["formula"]),
        nsites=columns["nsites"],
        nelements=columns["nelements"],
        elements=columns["elements"],
        volume_per_atom=columns["volume_per_atom"],
        status=columns["status"],
        values={target.name: columns[target_column(target.name)] for target in targets},
        failures=failures_in(columns),
        embedding=columns.get(EMBEDDING),
        relaxed=RelaxedRows.of_columns(columns) if RELAXATION in columns else None,
    )


def hash_of(identity: str, columns: Mapping[str, Array]) -> str:
    """SHA-256 over the identity of a file and each column: its name, type, shape and bytes, in order."""
    digest = sha256(identity.encode())
    for name, values in columns.items():
        digest.update(f"\n{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).view(np.uint8).data if values.size else b"")
    return digest.hexdigest()


def _require_sense(rows: ShardRows, targets: Sequence[Target]) -> None:
    for problem in _problems(rows, targets):
        raise InputError(f"rows {rows.start} to {rows.stop}: {problem}; this is an error of the program that made them")


def _problems(rows: ShardRows, targets: Sequence[Target]) -> Iterator[str]:
    count = len(rows)
    if rows.start < 0 or count < 1:
        yield "a shard has at least one row, and its first is not negative"
    lengths = {name: len(getattr(rows, name)) for name in ("ids", "formulas", "nsites", "nelements", "elements")}
    lengths |= {name: len(getattr(rows, name)) for name in ("volume_per_atom", "status")}
    lengths |= {name: len(values) for name, values in rows.values.items()}
    lengths |= {} if rows.embedding is None else {EMBEDDING: len(rows.embedding)}
    yield from (f"{name} has {length} entries, expected {count}" for name, length in lengths.items() if length != count)
    if sorted(rows.values) != sorted(target.name for target in targets):
        yield f"values of {sorted(rows.values)}, expected those of {sorted(target.name for target in targets)}"
    ok = rows.status == Status.OK
    bad = np.flatnonzero(~ok) + rows.start
    if [failure.row for failure in rows.failures] != bad.tolist():
        yield f"{len(rows.failures)} failures, expected one for each of the {len(bad)} rows that are not ok, in order"
    if not np.isin(rows.status, list(Status)).all():
        yield f"a status of {rows.status.max()}, expected one of {', '.join(f'{s.word} {s}' for s in Status)}"
    yield from (
        f"{name} has type {v.dtype}, expected float32" for name, v in rows.values.items() if v.dtype != np.float32
    )
    for name, values in rows.values.items():
        wrong = np.flatnonzero(np.where(ok, ~np.isfinite(values), ~np.isnan(values)))
        if len(wrong):
            yield (
                f"{name} of row {rows.start + wrong[0]} is {values[wrong[0]]}, and its status "
                f"{Status(int(rows.status[wrong[0]])).word}; a row that is ok has finite values, others NaN"
            )
    if rows.relaxed is not None:
        yield from rows.relaxed.problems(ok, rows.nsites)
    for failure in rows.failures:
        if not REASON.fullmatch(failure.reason):
            yield f"the reason {failure.reason!r} of row {failure.row}, expected a code such as non_finite_prediction"
