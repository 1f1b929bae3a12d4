"""Crystals from JSON lines and ASE databases, against what people use to read them, one process each.

`floor` is the least that a reader in Python can do: orjson, then the element symbols and positions as arrays,
nothing checked. It is there to show how much the checks cost, and is compared apart from the peers.

    python benchmarks/read_json.py [--quick] [--json PATH]
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import timing
from made import PERIODIC_KINDS, made_crystals

from screening.crystals.crystal import Crystal
from screening.crystals.elements import NUMBER_OF, SYMBOLS
from screening.crystals.formats.ase_db import AseDb
from screening.crystals.formats.format import Document, Format
from screening.crystals.formats.pymatgen_json import PymatgenJson

SEED = 20261121
MAX_ATOMS = 24


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure the same crystals in both kinds of file."""
    count, rounds = (100, 3) if quick else (2000, 7)
    crystals = made_crystals(count, seed=SEED, max_atoms=MAX_ATOMS, kinds=PERIODIC_KINDS, missing=0.0)
    with tempfile.TemporaryDirectory() as folder:
        return [*_json_rows(Path(folder), crystals, rounds), *_database_rows(Path(folder), crystals[:500], rounds)]


def _json_rows(folder: Path, crystals: list[Crystal], rounds: int) -> list[timing.Row]:
    path = folder / "crystals.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps(_entry(crystal)) for crystal in crystals))
    contestants: dict[str, Callable[[], object]] = {
        "reader": lambda: _read(PymatgenJson(), path, len(crystals)),
        "orjson + Structure.from_dict": lambda: _pymatgen(path),
        "floor": lambda: _floor(path),
    }
    seconds = timing.interleaved(contestants, rounds)
    case = f"JSON lines, {np.mean([len(c) for c in crystals]):.1f} atoms"
    return [
        timing.versus_fastest(
            f"{case}, against {peer}", {n: seconds[n] for n in ("reader", peer)}, ours="reader", count=len(crystals)
        )
        for peer in ("orjson + Structure.from_dict", "floor")
    ]


def _database_rows(folder: Path, crystals: list[Crystal], rounds: int) -> list[timing.Row]:
    from ase import Atoms, db

    connect: Callable[..., Any] = db.connect  # without types of its own
    path = folder / "crystals.db"
    with connect(path) as database:
        for c in crystals:
            atoms = Atoms(c.numbers, c.positions, cell=c.lattice, pbc=c.pbc)
            database.write(atoms, **{name: c.labels[name] for name in c.labels})
    contestants: dict[str, Callable[[], object]] = {
        "reader": lambda: _read(AseDb(), path, len(crystals)),
        "ase.db select, toatoms": lambda: [row.toatoms() for row in connect(path).select()],
    }
    seconds = timing.interleaved(contestants, rounds)
    return [timing.versus_fastest("ASE database", seconds, ours="reader", count=len(crystals))]


def _entry(crystal: Crystal) -> dict[str, Any]:
    """A row as pymatgen writes it, with an id and two labels."""
    from pymatgen.core import Lattice, Structure

    symbols = [SYMBOLS[number] for number in crystal.numbers]
    structure = Structure(Lattice(crystal.lattice), symbols, crystal.positions, coords_are_cartesian=True)
    return {"material_id": crystal.id, **crystal.labels, "structure": structure.as_dict()}


def _read(reader: Format, path: Path, count: int) -> None:
    pieces = reader.split(Document(str(path), path))
    if sum(isinstance(entry, Crystal) for piece in pieces for entry in reader.parse(piece)) != count:
        raise AssertionError(f"{path.name}: expected {count} crystals")


def _pymatgen(path: Path) -> None:
    from pymatgen.core import Structure

    with path.open("rb") as lines:
        for line in lines:
            Structure.from_dict(orjson.loads(line)["structure"])


def _floor(path: Path) -> None:
    with path.open("rb") as lines:
        for line in lines:
            structure = orjson.loads(line)["structure"]
            np.array([NUMBER_OF[site["species"][0]["element"]] for site in structure["sites"]], np.uint8)
            np.array([site["xyz"] for site in structure["sites"]])
            np.array(structure["lattice"]["matrix"])


if __name__ == "__main__":
    timing.main(run)
