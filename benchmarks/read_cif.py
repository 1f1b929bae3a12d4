"""CIF files on disk to crystals in memory, against pymatgen's CifParser on the same files, one process each.

The crystals are grown in random space groups and written by pymatgen's CifWriter: with every atom listed (P1), and as
an asymmetric unit with symmetry operations. `reader` is the format alone, as pymatgen's parser is, and carries the
promise; `read` is what users call, with folder walk, validation and duplicate check, which the parser does not do.

    python benchmarks/read_cif.py [--quick] [--json PATH]
"""

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import timing
from spacegroups import grown

from screening.crystals.crystal import Crystal
from screening.crystals.formats.cif import Cif
from screening.crystals.formats.format import Document
from screening.crystals.read import read_batches

PROMISED = 30.0
# A turn of ours is as often the same work, so that it lasts about as long as a turn of the peer.
REPEATS = 30
SEED = 20261121


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure files with every atom listed and files with symmetry."""
    count, rounds = (40, 3) if quick else (300, 7)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, symprec in (("P1", None), ("symmetric", 0.01)):
            paths = _written(Path(folder) / kind, count, symprec)
            rows += _compared(kind, paths, rounds)
    return rows


def _compared(kind: str, paths: list[Path], rounds: int) -> list[timing.Row]:
    atoms = [len(crystal) for crystal in _ours(paths)]
    if _pymatgen(paths) != atoms:
        raise AssertionError(f"{kind}: the two readers disagree on the number of atoms")
    case = f"CIF {kind}, {sum(atoms) / len(atoms):.1f} atoms"
    contestants: dict[str, Callable[[], object]] = {
        "reader": lambda: [len(_ours(paths)) for _ in range(REPEATS)],
        "read": lambda: [len(batch) for _ in range(REPEATS) for batch in read_batches(paths[0].parent)],
        "pymatgen CifParser": lambda: _pymatgen(paths),
    }
    seconds = timing.interleaved(contestants, rounds)
    for ours in ("reader", "read"):
        seconds[ours] = [turn / REPEATS for turn in seconds[ours]]
    return [
        timing.versus_fastest(
            f"{case}, {ours}",
            {name: seconds[name] for name in (ours, "pymatgen CifParser")},
            ours=ours,
            count=len(paths),
            at_least=promised,
        )
        for ours, promised in (("reader", PROMISED), ("read", None))
    ]


def _written(folder: Path, count: int, symprec: float | None) -> list[Path]:
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.cif import CifWriter

    folder.mkdir()
    rng = np.random.default_rng(SEED)
    paths: list[Path] = []
    for number in rng.integers(1, 231, count).tolist():
        crystal = grown(number, rng, sites=3, most_atoms=40)
        structure = Structure(Lattice(crystal.lattice), crystal.symbols, crystal.fractional)
        paths.append(folder / f"crystal-{len(paths):05d}.cif")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            CifWriter(structure, symprec=symprec).write_file(paths[-1])
    return paths


def _ours(paths: list[Path]) -> list[Crystal]:
    reader = Cif()
    documents = (Document(str(path), path) for path in paths)
    entries = [entry for document in documents for piece in reader.split(document) for entry in reader.parse(piece)]
    return [entry for entry in entries if isinstance(entry, Crystal)]


def _pymatgen(paths: list[Path]) -> list[int]:
    """The number of atoms of each crystal."""
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [len(CifParser(path).parse_structures(primitive=False)[0]) for path in paths]


if __name__ == "__main__":
    timing.main(run)
