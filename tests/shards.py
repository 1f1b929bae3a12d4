"""Shards with made-up predictions of made crystals, for tests of what reads them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from screening.arrays import Float64
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Rejection
from screening.crystals.packed_writer import PackedWriter
from screening.predictions import Target
from screening.store.failures import Failure
from screening.store.record import INPUT, SHARDS, record_of, write_record
from screening.store.rows import ShardRows
from screening.store.schema import Stamp, Status
from screening.store.shard import write_shard

TARGETS = (
    Target("formation_energy_per_atom", "eV/atom"),
    Target("band_gap", "eV"),
    Target("is_metal", "1", "classification"),
    Target("bulk_modulus", "GPa", scale="log10"),
)
STAMP = Stamp("a1" * 32, "b2" * 32, TARGETS)


def predicted(
    crystals: Crystals,
    start: int,
    stop: int,
    *,
    failed: Mapping[int, str] | None = None,
    width: int = 0,
    targets: Sequence[Target] = TARGETS,
) -> ShardRows:
    """Rows [start, stop) of crystals with numbers that depend on nothing but the row; `failed` gives messages."""
    rows = ShardRows.of(start, crystals[start:stop], targets)
    bad = {row: message for row, message in (failed or {}).items() if start <= row < stop}
    status = rows.status.copy()
    status[[row - start for row in bad]] = Status.FAILED
    ok = status == Status.OK
    numbers = {target.name: np.where(ok, _numbers(k, start, stop), np.nan) for k, target in enumerate(targets)}
    embedding = np.stack([_numbers(100 + k, start, stop) for k in range(width)], axis=1) if width else None
    return replace(
        rows,
        status=status,
        values={name: values.astype(np.float32) for name, values in numbers.items()},
        failures=[Failure(row, "non_finite_prediction", bad[row]) for row in sorted(bad)],
        embedding=None if embedding is None else embedding.astype(np.float32),
    )


def write_run(
    run: Path,
    crystals: Crystals,
    cuts: Iterable[int] = (),
    *,
    rejections: Sequence[Rejection] = (),
    failed: Mapping[int, str] | None = None,
    width: int = 0,
    model: object = "made up",
) -> Path:
    """Make the folder of a run that has predicted everything and merged nothing; `model` is what it says of that."""
    run.mkdir(parents=True, exist_ok=True)
    with PackedWriter(run / INPUT) as writer:
        writer.append(crystals, rejections)
    write_record(record_of(run, STAMP, run / INPUT, len(crystals), model=model))
    write_shards(run / SHARDS, crystals, cuts, failed=failed, width=width)
    return run


def write_shards(
    folder: Path, crystals: Crystals, cuts: Iterable[int], *, failed: Mapping[int, str] | None = None, width: int = 0
) -> None:
    """Cut all crystals at these rows and write each part as a shard."""
    folder.mkdir(parents=True, exist_ok=True)
    edges = sorted({0, len(crystals), *cuts})
    for start, stop in pairwise(edges):
        rows = predicted(crystals, start, stop, failed=failed, width=width)
        write_shard(folder, rows, STAMP, timing={"predict": 0.5}, worker="here")


def _numbers(k: int, start: int, stop: int) -> Float64:
    numbers: Float64 = np.sin(np.arange(start, stop) * (k + 1.7)) * 3.0
    return numbers
