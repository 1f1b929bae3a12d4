"""Result stores: how fast shards are written and merged, asked and reported, and that memory stays flat.

Crystals of five atoms and three elements with four targets; the predictions are random to the last bit. Their geometry,
which no one looks at here, is all zeros, so that ten million fit on a small disk.

    python benchmarks/result_store.py [--quick] [--json PATH]
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import numpy as np
import timing
from shards import STAMP, TARGETS

from screening.crystals.batch import Crystals
from screening.crystals.packed_writer import PackedWriter
from screening.store.record import INPUT, SHARDS, record_of, write_record
from screening.store.rows import ShardRows
from screening.store.shard import write_shard

SHARD_ROWS = 10_000
COMMAND = [sys.executable, "-c", "from screening.cli import main; main()"]
QUESTIONS = {
    "two targets, the best 100": ["--where", "band_gap > 1.5 AND formation_energy_per_atom < -0.5", "--top", "100"],
    "elements, the best 100": ["--elements-all", "Li,O", "--elements-none", "Pb", "--top", "100"],
    "nothing but one formula": ["--where", "formula = 'LiNaO3'"],
}
# Peak memory may differ by what a few blocks take, never by what the run takes.
PROMISED_GROWTH_MIB = 64
PROMISED_PEAK_MIB = 300
PROMISED_SECONDS = 10.0
PROMISED_REPORT_SECONDS = 30.0


def run(*, quick: bool = False) -> list[timing.Row]:
    """Measure writing shards, merging and asking, for a small and a large run."""
    small, large = (20_000, 100_000) if quick else (1_000_000, 10_000_000)
    with tempfile.TemporaryDirectory() as folder:
        rows: list[timing.Row] = []
        peaks = {}
        for count in (small, large):
            made = Path(folder) / str(count)
            seconds = _write_run(made, count)
            rows.append(timing.Row(f"shards of {SHARD_ROWS:,} rows: write one", "ms", 1000 * seconds))
            merged = timing.footprint([*COMMAND, "merge", str(made), "--quiet"])
            peaks[count] = merged.peak_mib
            rows += [
                timing.Row(f"merge {count:,} rows", "rows/s", count / merged.seconds),
                timing.Row(f"merge {count:,} rows: peak", "MiB", merged.peak_mib, at_most=PROMISED_PEAK_MIB),
                *_questions(made, count),
                *_page(made, count),
            ]
        growth = peaks[large] - peaks[small]
        rows.append(timing.Row("memory of merging, large over small", "MiB", growth, at_most=PROMISED_GROWTH_MIB))
        return rows


def _questions(made: Path, count: int) -> list[timing.Row]:
    rows = []
    for name, words in QUESTIONS.items():
        by = ["--by", "formation_energy_per_atom"] if "--top" in words else []
        asked = timing.footprint([*COMMAND, "query", str(made), *words, *by, "-o", str(made / "found.csv")])
        what = f"query {count:,} rows: {name}"
        rows.append(timing.Row(what, "s", asked.seconds, at_most=PROMISED_SECONDS))
        rows.append(timing.Row(f"{what}: peak", "MiB", asked.peak_mib))
    return rows


def _page(made: Path, count: int) -> list[timing.Row]:
    written = timing.footprint([*COMMAND, "report", str(made), "--quiet"])
    return [
        timing.Row(f"report {count:,} rows", "s", written.seconds, at_most=PROMISED_REPORT_SECONDS),
        timing.Row(f"report {count:,} rows: peak", "MiB", written.peak_mib, at_most=PROMISED_PEAK_MIB),
    ]


def _write_run(folder: Path, count: int) -> float:
    """Write the packed input and the shards of a run, and give the seconds for one shard."""
    (folder / SHARDS).mkdir(parents=True)
    write_record(record_of(folder, STAMP, folder / INPUT, count))
    seconds = 0.0
    with PackedWriter(folder / INPUT) as writer:
        for start in range(0, count, SHARD_ROWS):
            crystals = _crystals(start)
            writer.append(crystals)
            rows = _predicted(start, crystals)
            began = time.perf_counter()
            write_shard(folder / SHARDS, rows, STAMP, timing={})
            seconds += time.perf_counter() - began
    return seconds / (count / SHARD_ROWS)


def _crystals(start: int) -> Crystals:
    rng = np.random.default_rng(start)
    numbers = np.full((SHARD_ROWS, 5), 8, np.uint8)
    numbers[:, :2] = rng.integers(3, 84, (SHARD_ROWS, 2))
    return Crystals(
        ids=[f"perovskite-{row:09d}" for row in range(start, start + SHARD_ROWS)],
        numbers=numbers.reshape(-1),
        positions=np.zeros((5 * SHARD_ROWS, 3)),
        lattice=np.tile(4.0 * np.eye(3), (SHARD_ROWS, 1, 1)),
        pbc=np.ones((SHARD_ROWS, 3), bool),
        atom_offsets=np.arange(0, 5 * SHARD_ROWS + 1, 5, dtype=np.int32),
    )


def _predicted(start: int, crystals: Crystals) -> ShardRows:
    rng = np.random.default_rng([start, 1])
    values = {target.name: rng.normal(0.0, 2.0, len(crystals)).astype(np.float32) for target in TARGETS}
    return replace(ShardRows.of(start, crystals, TARGETS), values=values)


if __name__ == "__main__":
    timing.main(run)
