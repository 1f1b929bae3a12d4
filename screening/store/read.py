"""One view of a run's results, merged or still being written: columns over all rows that are there, in their order.

A *place* counts these rows from 0. Merged, places are the rows of `results.h5`; before that, those of the shards so far
and then the crystals that packing refused, so that finished shards can be queried while others are computed.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from screening.arrays import Int64
from screening.errors import permitted
from screening.store.cover import cover
from screening.store.failures import CODE
from screening.store.parts import Atoms, InShard, Merged, Part, Refused
from screening.store.record import RELAXED, RESULTS, SHARDS, RunRecord, read_record
from screening.store.schema import Array, ShardNote, Status
from screening.store.shard import ShardFile, shard_ranges

# A multiple of every chunk, so that none is decompressed twice.
BLOCK = 1 << 18


class Results:
    """Results to read from, a context manager: a run folder, or a `results.h5` wherever it lies.

    `expected` is how many rows there will be, `missing` how many of them are not there yet. `packed` is the packed
    input, if it does not lie where the run says.
    """

    def __init__(self, run: Path | str, *, packed: Path | None = None) -> None:
        with contextlib.ExitStack() as undo, permitted(Path(run)):
            found = _opened(Path(run), packed, undo)
            self._files = undo.pop_all()
        self.record, self._parts, self.missing, self.embedding_width = found
        self.stamp = self.record.stamp
        self.packed = packed or self.record.packed
        self._ends = np.cumsum([0, *map(len, self._parts)])

    @property
    def is_merged(self) -> bool:
        """Whether everything is there and in one file."""
        return isinstance(self._parts[0], Merged)

    @property
    def has_crystals(self) -> bool:
        """Whether the crystals of rows are there: the packed input, and the relaxed ones if the run relaxed any."""
        beside = self.stamp.relaxation is None or not self.is_merged
        needed = [self.packed, *([] if beside else [self.record.folder / RELAXED])]
        return all(os.access(path, os.R_OK) for path in needed)

    @property
    def expected(self) -> int:
        """How many rows there are when the run is done and merged."""
        return len(self) + self.missing

    def __len__(self) -> int:
        return int(self._ends[-1])

    def blocks(self, names: Sequence[str]) -> Iterator[tuple[int, dict[str, Array]]]:
        """Read columns block by block: the place of each block's first row, and the columns asked for.

        `reason` and `message` are columns too: why a row is not ok.
        """
        for part, first in zip(self._parts, self._ends.tolist(), strict=False):
            for start in range(0, len(part), BLOCK):
                stop = min(start + BLOCK, len(part))
                yield first + start, part.read(names, start, stop)

    def take(self, name: str, places: Int64) -> Array:
        """Read one column at some places, ascending."""
        cuts = np.searchsorted(places, self._ends)
        parts = zip(self._parts, self._ends.tolist(), cuts[:-1].tolist(), cuts[1:].tolist(), strict=False)
        found = [part.take(name, places[a:b] - first) for part, first, a, b in parts if a < b]
        return np.concatenate(found) if found else self._parts[-1].read([name], 0, 0)[name]

    def relaxed(self, places: Int64) -> list[Atoms | None]:
        """Read where relaxations left the atoms at some places, ascending; None where there is no relaxed crystal."""
        cuts = np.searchsorted(places, self._ends)
        parts = zip(self._parts, self._ends.tolist(), cuts[:-1].tolist(), cuts[1:].tolist(), strict=False)
        return [atoms for part, first, a, b in parts if a < b for atoms in part.relaxed(places[a:b] - first)]

    def notes(self) -> list[ShardNote]:
        """Read when, by whom and in how much time each shard was written, in the order of rows."""
        return [note for part in self._parts for note in part.notes()]

    def counts(self) -> dict[Status, int]:
        """Count rows by status."""
        counts = np.zeros(len(Status), np.int64)
        for _, columns in self.blocks(["status"]):
            counts += np.bincount(columns["status"], minlength=len(Status))
        return {status: int(counts[status]) for status in Status}

    def reasons(self) -> set[str]:
        """Every reason why rows are not ok."""
        codes = (np.unique(columns[CODE]).tolist() for _, columns in self.blocks([CODE]))
        return {code.decode("ascii", "replace") for found in codes for code in found if code}

    def close(self) -> None:
        """Close all files."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(path: Path, packed: Path | None, files: contextlib.ExitStack) -> tuple[RunRecord, list[Part], int, int]:
    """Give the record of a run, its parts, how many rows are missing, and the width of embeddings."""
    file = path / RESULTS if path.is_dir() else path
    if file.is_file():
        merged = files.enter_context(Merged(file))
        return merged.record, [merged], 0, merged.embedding_width
    record = read_record(path)
    folder = path / SHARDS
    pieces, missing = cover(shard_ranges(folder) if folder.is_dir() else [], record.rows)
    width = 0
    if pieces:
        with ShardFile(pieces[0].path) as shard:
            width = shard.embedding_width
    refused = files.enter_context(record.open_input(packed))
    parts: list[Part] = [InShard(piece, record.stamp) for piece in pieces]
    parts.append(Refused(refused, record.stamp, width))
    return record, parts, sum(stop - start for start, stop in missing), width
