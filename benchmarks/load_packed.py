"""Packed HDF5 files: how fast batches load in one process, how fast packing is, and that its memory stays flat.

Crystals of 12 atoms on average with two labels; positions are random to the last bit, the worst case for compression.
Memory is the peak of `screening pack` and its workers over a file of extended XYZ, on a small and a large input.

    python benchmarks/load_packed.py [--quick] [--json PATH]
"""

import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import timing
from made import made_batch

from screening.crystals.batch import Crystals
from screening.crystals.packed import PackedCrystals
from screening.crystals.packed_writer import PackedWriter
from screening.crystals.read import read_batches
from screening.crystals.write import write

PROMISED_RATE = 300_000
# Peak memory may differ by what a few batches take, never by what the input takes.
PROMISED_GROWTH_MIB = 64
BLOCK = 2000
PACK = "from screening.cli import main; main()"


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure loading, reading again with all checks, packing, and memory."""
    count, rounds = (20_000, 3) if quick else (200_000, 7)
    small, large = (2_000, 20_000) if quick else (10_000, 1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        crystals = made_batch(count, pool=BLOCK)
        return [*_rates(Path(folder), crystals, rounds), *_memory(Path(folder), small, large)]


def _rates(folder: Path, crystals: Crystals, rounds: int) -> list[timing.Row]:
    path = folder / "crystals.h5"
    seconds = timing.interleaved(
        {
            "packed: write": lambda: _write(crystals, path),
            "packed: load": lambda: _load(path),
            "packed: read and check": lambda: _read(path),
        },
        rounds,
    )
    promises = {"packed: load": PROMISED_RATE}
    return [
        timing.Row(name, "crystals/s", len(crystals) / median(times), at_least=promises.get(name))
        for name, times in seconds.items()
    ]


def _write(crystals: Crystals, path: Path) -> None:
    with PackedWriter(path) as writer:
        for start in range(0, len(crystals), BLOCK):
            writer.append(crystals[start : start + BLOCK])


def _load(path: Path) -> None:
    with PackedCrystals(path) as packed:
        atoms = sum(len(batch.numbers) for batch in packed.batches())
        assert atoms == packed.attributes["atoms"]


def _read(path: Path) -> None:
    assert all(not batch.rejections for batch in read_batches(path))


def _memory(folder: Path, small: int, large: int) -> list[timing.Row]:
    peaks = {count: _peak(folder, count) for count in (small, large)}
    rows = [
        timing.Row(f"pack {count:,} crystals of extxyz: {what}", unit, figure)
        for count, found in peaks.items()
        for what, unit, figure in (("peak", "MiB", found.peak_mib), ("rate", "crystals/s", count / found.seconds))
    ]
    growth = peaks[large].peak_mib - peaks[small].peak_mib
    growing = f"memory of packing, {large:,} over {small:,}"
    return [*rows, timing.Row(growing, "MiB", growth, at_most=PROMISED_GROWTH_MIB)]


def _peak(folder: Path, count: int) -> timing.Footprint:
    source = folder / f"{count}.extxyz"
    write(made_batch(BLOCK), source, format="extxyz")
    block = source.read_bytes()
    with source.open("wb") as file:
        for k in range(count // BLOCK):
            file.write(block.replace(b"made-0", b"m%04d-" % k))
    command = [sys.executable, "-c", PACK, "pack", str(source), "-o", str(folder / "out.h5"), "--quiet"]
    found = timing.footprint([*command, "--workers", "2"])
    source.unlink()
    with PackedCrystals(folder / "out.h5") as packed:
        assert (len(packed), packed.rejected) == (count, 0)
    return found


if __name__ == "__main__":
    timing.main(run)
