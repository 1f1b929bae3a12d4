"""Extended XYZ files to crystals in memory, against ase.io.read on the same file, one process each.

The frames are written by ase.io.write: crystals with labels, and crystals with energy, forces and stress. `reader` is
the format alone, as ASE's is; `read` is what users call: validation and duplicate check included. Files lie
uncompressed on disk, because ASE seeks in them.

    python benchmarks/read_extxyz.py [--quick] [--json PATH] [--data FILE]
"""

import gzip
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import ase.io
import timing
from made import PERIODIC_KINDS, made_crystals

from screening.crystals.convert import crystal_to_ase
from screening.crystals.crystal import Crystal
from screening.crystals.formats.extxyz import ExtXyz
from screening.crystals.formats.format import Document
from screening.crystals.read import read_batches

PROMISED = 10.0
SEED = 20261121
# As in sets of real crystals: 25 atoms on average.
MOST_ATOMS = 49
LABELS = ("formation_energy_per_atom", "band_gap", "efermi", "total_magnetization")
ASE = "ase.io.read"


def run(*, quick: bool = False, data: Path | None = None) -> list[timing.Row]:
    """Measure frames with labels and frames with forces, or the frames of `data`."""
    count, rounds = (60, 3) if quick else (2000, 7)
    with tempfile.TemporaryDirectory() as folder:
        if data is not None:
            return _compared(data.name, _plain(data, Path(folder)), rounds)
        rows = []
        for kind, labels, forces in (("labels", LABELS, False), ("forces", ("energy",), True)):
            crystals = made_crystals(
                count, seed=SEED, max_atoms=MOST_ATOMS, kinds=PERIODIC_KINDS, labels=labels, missing=0.1, forces=forces
            )
            path = Path(folder) / f"{kind}.xyz"
            ase.io.write(path, [crystal_to_ase(crystal) for crystal in crystals], format="extxyz")
            rows += _compared(kind, path, rounds)
        return rows


def _plain(data: Path, folder: Path) -> Path:
    """The file itself, or a decompressed copy of it."""
    if data.suffix != ".gz":
        return data
    plain = folder / data.stem
    with gzip.open(data) as packed, plain.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return plain


def _compared(kind: str, path: Path, rounds: int) -> list[timing.Row]:
    ours, theirs = _ours(path), _ase(path)
    atoms = sum(map(len, ours))
    if [len(crystal) for crystal in ours] != list(map(len, theirs)):
        raise AssertionError(f"{path}: the two readers disagree on the number of atoms")
    contestants: dict[str, Callable[[], object]] = {
        "reader": lambda: _ours(path),
        "read": lambda: [len(batch) for batch in read_batches(path)],
        ASE: lambda: _ase(path),
    }
    seconds = timing.interleaved(contestants, rounds)
    return [
        timing.versus_fastest(
            f"extxyz {kind}, {atoms / len(ours):.1f} atoms, {name}",
            {name: seconds[name], ASE: seconds[ASE]},
            ours=name,
            count=len(ours),
            at_least=PROMISED,
        )
        for name in ("reader", "read")
    ]


def _ours(path: Path) -> list[Crystal]:
    reader = ExtXyz()
    entries = [entry for piece in reader.split(Document(str(path), path)) for entry in reader.parse(piece)]
    return [entry for entry in entries if isinstance(entry, Crystal)]


def _ase(path: Path) -> list[ase.Atoms]:
    frames = ase.io.read(path, ":", format="extxyz")
    return frames if isinstance(frames, list) else [frames]


if __name__ == "__main__":
    timing.main(run)
