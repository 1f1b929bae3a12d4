"""Merges the shards of a run, and the crystals that packing refused, into one `results.h5`.

Relaxed crystals, if there are any, go into a packed file beside it, which is there first.

Twice over the shards: first their stamps and widths alone, so that a foreign or missing one is told before anything is
written, then their columns, each file whole in memory, verified and written behind the others. However the shards were
cut, the columns come out the same.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from screening.crystals.packed import PackedCrystals
from screening.errors import FileFormatError, InputError
from screening.files.hdf5 import whole_hdf5
from screening.store.cover import Piece, cover, ranges_in_words
from screening.store.failures import REASON, failed_part
from screening.store.ids import bytes_column, id_column, stored_id
from screening.store.record import RELAXED, RESULTS, SHARDS, RunRecord, read_record
from screening.store.rejected import rejected_columns
from screening.store.relaxed import ROW, relaxed_part
from screening.store.relaxed_writer import RelaxedWriter
from screening.store.results_writer import ResultsWriter, Widths
from screening.store.schema import Array, ShardNote, Stamp, Status
from screening.store.shard import CURE, ShardFile, require_stamp, shard_ranges, sweep_parts
from screening.version import code_version

BLOCK = 1 << 16

Progress = Callable[[int, int], object]


def merge(
    run: Path | str,
    packed: Path | None = None,
    *,
    progress: Progress = lambda rows, total: None,
    output: Path | None = None,
) -> Path:
    """Write `results.h5` in a run folder from its shards, and tell where it is; an older one is replaced.

    `packed` is the packed input, if it does not lie where `run.json` says. `progress` is called with rows so far and
    all rows, and for each shard before the first row is written; what it raises ends the merge. Refuses shards that do
    not hold all rows, are damaged, or belong to another model or input. What writers that were stopped left is removed.
    """
    folder = Path(run)
    record = read_record(folder)
    target = output or folder / RESULTS
    with record.open_input(packed) as crystals:
        pieces = _complete(record, crystals)
        total = len(crystals) + crystals.rejected

        def alive() -> None:
            progress(0, total)

        widths = _widths(pieces, record.stamp, alive).joined(_text_widths(crystals, alive))
        with whole_hdf5(target) as (file, sink):
            writer = ResultsWriter(file, sink, record.stamp, widths)
            notes = []
            with RelaxedWriter.of(record.stamp, crystals, target.with_name(RELAXED)) as relaxed:
                for piece in pieces:
                    columns, note = _verified(piece, crystals)
                    writer.append(columns)
                    relaxed.append(piece.start, columns)
                    notes.append(note)
                    progress(piece.stop, total)
            for start in range(0, crystals.rejected, BLOCK):
                stop = min(start + BLOCK, crystals.rejected)
                writer.append(rejected_columns(crystals, start, stop, record.stamp, widths.embedding))
                progress(len(crystals) + stop, total)
            _require_totals(crystals, writer)
            made = {"run": record.text, "merged": time.time(), "code_version": code_version()}
            writer.finish(made | relaxed.attributes, notes)
    # With all rows in shards and in the results, nobody needs what a writer that was stopped had begun.
    sweep_parts(folder / SHARDS)
    return target


def _complete(record: RunRecord, crystals: PackedCrystals) -> list[Piece]:
    """Pieces that hold all rows."""
    shards = shard_ranges(record.folder / SHARDS)
    pieces, missing = cover(shards, len(crystals))
    for _, stop, path in shards:
        if stop > len(crystals):
            raise FileFormatError(f"{path}: holds more rows than the input, {len(crystals):,}; it is of another run")
    if missing:
        rows = sum(stop - start for start, stop in missing)
        raise InputError(
            f"{record.folder}: {ranges_in_words(missing)} are not done ({rows:,} of {len(crystals):,}); give the same "
            "`screening screen` command again to finish them. `screening query` reads what is there"
        )
    return pieces


def _widths(pieces: list[Piece], stamp: Stamp, alive: Callable[[], object]) -> Widths:
    """The widths that all shards need; refuses those of another run."""
    widths = Widths()
    first: tuple[Path, int] | None = None
    for piece in pieces:
        alive()
        with ShardFile(piece.path) as file:
            require_stamp(file, stamp)
            embedding = file.embedding_width
            text = [file.dtype(name).itemsize for name in ("formula", REASON)]
            if (file.start, file.stop) != (piece.start, piece.stop):
                columns = part_of(file.columns(), piece)
                text = [bytes_column(columns[name].tolist()).itemsize for name in ("formula", REASON)]
        first = first or (piece.path, embedding)
        if embedding != first[1]:
            raise FileFormatError(
                f"{piece.path}: embeddings have {embedding} numbers, in {first[0]} they have {first[1]}; {CURE}"
            )
        widths = widths.joined(Widths(1, text[0], text[1], embedding))
    return widths


def _text_widths(crystals: PackedCrystals, alive: Callable[[], object]) -> Widths:
    """The widths that ids and rejections need."""
    widths = Widths()
    for start in range(0, len(crystals), BLOCK):
        alive()
        widths = widths.joined(Widths(id_column(crystals.ids(start, start + BLOCK)).itemsize))
    for start in range(0, crystals.rejected, BLOCK):
        alive()
        refused = crystals.rejections(start, start + BLOCK)
        ids = max(len(stored_id(one.id)) for one in refused)
        widths = widths.joined(Widths(ids, reason=max(len(one.reason) for one in refused)))
    return widths


def _verified(piece: Piece, crystals: PackedCrystals) -> tuple[dict[str, Array], ShardNote]:
    """Columns of a piece, checked against their hash and the packed input, and how they came about."""
    with ShardFile(piece.path) as file:
        columns, note = file.columns(), file.note
        ours = np.arange(file.start, file.stop)
    if not np.array_equal(columns["row"], ours):
        raise FileFormatError(f"{piece.path}: its rows are not those of its name; {CURE}")
    columns = part_of(columns, piece)
    expected = id_column(crystals.ids(piece.start, piece.stop))
    different = np.flatnonzero(columns["id"] != expected)
    if len(different):
        k = int(different[0])
        raise FileFormatError(
            f"{piece.path}: row {piece.start + k} is {_shown(columns['id'][k])}, but {_shown(expected[k])} in "
            f"{crystals.path}; the input was replaced after the run had started: bring it back, or start a new run"
        )
    return columns, note


def part_of(columns: dict[str, Array], piece: Piece) -> dict[str, Array]:
    """The columns of a piece, from those of its shard."""
    if len(columns["row"]) == len(piece):
        return columns
    own = failed_part(columns, piece.start, piece.stop)
    if ROW in columns:
        own |= relaxed_part(columns, piece.start, piece.stop)
    return {name: own[name] if name in own else values[piece.inside] for name, values in columns.items()}


def _require_totals(crystals: PackedCrystals, writer: ResultsWriter) -> None:
    read = int(crystals.attributes["read"])
    bad = writer.counts.total() - writer.counts[Status.OK]
    if writer.counts.total() != read or writer.failures != bad:
        counts = ", ".join(f"{count:,} {status.word}" for status, count in sorted(writer.counts.items()))
        raise FileFormatError(
            f"{crystals.path}: {read:,} crystals were read, but the results have {counts}, with {writer.failures:,} "
            "reasons; this is an error of the program"
        )


def _shown(id: bytes) -> str:
    return repr(id.decode("utf-8", "replace"))
