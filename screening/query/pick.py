"""Crystals of the packed input at rows of the results, and where they were read."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from screening.arrays import Int64
from screening.crystals.crystal import Crystal
from screening.crystals.packed import PackedCrystals
from screening.errors import FileFormatError, InputError
from screening.store.ids import stored_id
from screening.store.parts import Atoms
from screening.store.read import Results

# So many crystals are held at a time; those that lie in one block of the input are read together.
GROUP = 4096
BLOCK = 1024


def picked_crystals(
    results: Results, places: Int64, labels: Mapping[str, Sequence[float]], *, relaxed: bool = True
) -> Iterator[Crystal]:
    """Crystals in the order of their places, with these labels and none of the input's own.

    In a run that relaxed them they are as its predictions are for, unless `relaxed` is false. What the input knows
    about a crystal, its labels, forces and stress, stays there: they could not be told from predictions. Raises
    InputError for a crystal that packing refused, of which there is nothing but its id, or that was not relaxed.
    """
    relaxed = relaxed and results.stamp.relaxation is not None
    order = np.argsort(places, kind="stable")
    rows, ids = np.empty_like(places), np.empty(len(places), object)
    rows[order] = results.take("row", places[order])
    ids[order] = results.take("id", places[order]).tolist()
    refused = np.flatnonzero(rows < 0)
    if len(refused):
        raise InputError(
            f"{_shown(ids[refused[0]])}: was refused by packing, so there are no atoms of it; leave out rejected and "
            "duplicate crystals, or write a table"
        )
    with results.record.open_input(results.packed) as packed:
        for start in range(0, len(rows), GROUP):
            atoms = _relaxed(results, places[start : start + GROUP]) if relaxed else {}
            for k, crystal in enumerate(_gathered(packed, rows[start : start + GROUP]), start):
                _require_same(packed, int(rows[k]), crystal.id, ids[k])
                there = atoms[int(places[k])] if relaxed else Atoms(crystal.positions, crystal.lattice)
                if there is None:
                    raise InputError(
                        f"{crystal.id!r}: was not relaxed, as its message says; leave out crystals that failed, write "
                        "a table, or ask for --unrelaxed crystals"
                    )
                yield _predicted(crystal, there, {name: values[k] for name, values in labels.items()})


def picked_sources(results: Results, places: Int64) -> list[str]:
    """Where the rows at some places, ascending, were read, those that packing refused too."""
    rows, ids = results.take("row", places), results.take("id", places).tolist()
    found: list[str] = []
    with results.record.open_input(results.packed) as packed:
        for near in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows // BLOCK)) + 1):
            if len(near):
                first, names, sources = _texts_around(packed, rows[near])
                for k in near.tolist():
                    at = int(abs(rows[k] - first))
                    _require_same(packed, int(rows[k]), names[at], ids[k])
                    found.append(sources[at])
    return found


def _texts_around(packed: PackedCrystals, rows: Int64) -> tuple[int, Sequence[str], Sequence[str]]:
    """The ids and the sources from the first of some rows, or of refused crystals, to the last; and that first row."""
    first, last = int(abs(rows + (rows < 0)).min()), int(abs(rows + (rows < 0)).max())
    if rows[0] >= 0:
        return first, packed.ids(first, last + 1), packed.sources(first, last + 1)
    ids, sources = (packed.rejection_text(field, first, last + 1) for field in ("ids", "sources"))
    return -1 - first, ids, sources


def _require_same(packed: PackedCrystals, row: int, there: str, id: bytes) -> None:
    if stored_id(there) != id:
        raise FileFormatError(
            f"{packed.path}: row {row} is {there!r}, but {_shown(id)} in the results; the input was replaced after the "
            "run had started: bring it back"
        )


def _gathered(packed: PackedCrystals, rows: Int64) -> list[Crystal]:
    found: dict[int, Crystal] = {}
    ascending = np.unique(rows)
    for block in np.split(ascending, np.flatnonzero(np.diff(ascending // BLOCK)) + 1):
        if len(block):
            first = int(block[0])
            batch = packed[first : int(block[-1]) + 1]
            found.update({row: batch[row - first] for row in block.tolist()})
    return [found[row] for row in rows.tolist()]


def _relaxed(results: Results, places: Int64) -> dict[int, Atoms | None]:
    ascending = np.unique(places)
    return dict(zip(ascending.tolist(), results.relaxed(ascending), strict=True))


def _predicted(crystal: Crystal, there: Atoms, labels: Mapping[str, float]) -> Crystal:
    return Crystal(
        id=crystal.id,
        numbers=crystal.numbers,
        positions=there.positions,
        lattice=there.lattice,
        pbc=crystal.pbc,
        labels={name: value for name, value in labels.items() if value == value},
        source=crystal.source,
    )


def _shown(id: bytes) -> str:
    return repr(id.decode("utf-8", "replace"))
