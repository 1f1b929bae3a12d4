"""Reads crystals from any mixture of files: documents, cut into pieces, parsed and validated in batches, in order.

The only place that joins formats, validation and duplicate ids. Everything that is read comes out, as a crystal or
as a rejection, in the order of the files, whatever the number of workers; memory does not grow with the input.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from screening.arrays import Int64
from screening.crystals import symmetry
from screening.crystals.archives import Unreadable, is_archive
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.documents import documents
from screening.crystals.formats import FORMATS, SUPPORTED, format_of
from screening.crystals.formats.format import Columns, Document, Format, Piece
from screening.crystals.pool import Lost, Pool
from screening.crystals.seen import Seen
from screening.crystals.validate import CrystalLimits, validate
from screening.errors import InputError, NativeError, ResourceError

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

# Enough text to outweigh the cost of a batch (0.5 ms) a hundred times, little enough for many batches in memory.
GROUP_BYTES = 1 << 20
GROUP_PARTS = 1024
# What makes every further crystal fail too; anything else is the fault of one document.
FATAL = (NativeError, ResourceError)


@dataclass(frozen=True, slots=True, eq=False)
class ReadBatch:
    """What one stretch of the input held: crystals and rejections, and files passed over.

    Entry `rejected_entries[k]` of the stretch is `rejections[k]`; the other entries are the crystals, in order.
    `skipped` names files in folders and archives that no format claims; `weight` is about how many bytes were read.
    `unusable` names labels, forces and stresses that are no finite numbers, and count as missing.
    Iterating gives every entry in the order of the files.
    """

    crystals: Crystals
    rejections: Sequence[Rejection] = ()
    rejected_entries: Sequence[int] = ()
    skipped: Sequence[str] = ()
    weight: int = 0
    unusable: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.crystals) + len(self.rejections)

    def __iter__(self) -> Iterator[Crystal | Rejection]:
        crystals, rejected = iter(self.crystals), dict(zip(self.rejected_entries, self.rejections, strict=True))
        return (rejected[entry] if entry in rejected else next(crystals) for entry in range(len(self)))

    def refusing(self, rows: Int64, rejections: Sequence[Rejection], kept: Crystals) -> "ReadBatch":
        """Move the crystals at these rows to the rejections, so that those in `kept` stay."""
        if len(rows) == 0:
            return replace(self, crystals=kept)
        places = np.delete(np.arange(len(self)), np.asarray(self.rejected_entries, np.int64))
        entries = dict(zip(self.rejected_entries, self.rejections, strict=True))
        entries |= dict(zip(places[rows].tolist(), rejections, strict=True))
        order = sorted(entries)
        return replace(self, crystals=kept, rejections=[entries[e] for e in order], rejected_entries=order)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file in a folder or an archive that no format claims."""

    name: str


Part = Piece | Rejection | Skipped


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring parts of the input that are parsed at once; rejections are documents that could not be cut."""

    parts: Sequence[Part]
    weight: int = 0


def read(paths: Paths, *, limits: CrystalLimits | None = None, workers: int = 1) -> Iterator[Crystal | Rejection]:
    """Yield every entry of these files, folders and archives, in order: a crystal, or why it is refused.

    With more than one worker, files are parsed in that many processes besides this one. `read_batches` gives the
    same in flat batches, which is faster.
    """
    return (entry for batch in read_batches(paths, limits=limits, workers=workers) for entry in batch)


def read_batches(
    paths: Paths,
    *,
    limits: CrystalLimits | None = None,
    workers: int = 1,
    ignore: Iterable[str | os.PathLike[str]] = (),
    space_group_tolerance: float | None = None,
) -> Generator[ReadBatch, None, None]:
    """Yield the same as `read`, about a megabyte of input at a time.

    Of crystals with equal ids the first is kept. An entry that kills a worker process is a rejection like any
    other; with one worker everything happens in this process, and it would kill that. Files and folders to
    `ignore` are passed over in the folders above them, with their `.part`: outputs of the same run. With a tolerance
    `space_group_tolerance`, angstrom, each crystal's space group is worked out, and becomes its label.
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    given = [Path(p) for p in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    found = documents(given, wanted=lambda document: format_of(document) is not None)
    _require_readable(given)
    named = {str(path) for path in given}
    ours = tuple(os.path.normpath(Path(path).absolute()) for path in ignore)
    kept = (document for document in found if document.name in named or not _within(document, ours))
    parse = partial(parsed, limits=limits or CrystalLimits(), space_group_tolerance=space_group_tolerance)
    return _without_duplicates(_batches(parse, _grouped(_parts(kept, named)), workers))


def parsed(group: Group, limits: CrystalLimits, space_group_tolerance: float | None = None) -> ReadBatch:
    """Parse and validate a group: the part of reading that any process can do."""
    batch = _as_columns(group)
    if batch is None:
        batch = _as_entries(group)
    validated = validate(batch.crystals, limits)
    kept = validated.accepted
    if space_group_tolerance is not None:
        groups = symmetry.space_groups(kept, space_group_tolerance)
        kept = replace(kept, labels=dict(kept.labels) | {symmetry.GROUP_LABEL: groups})
    found = batch.refusing(validated.rejected_rows, validated.rejections, kept)
    return replace(found, unusable=validated.unusable)


def _as_entries(group: Group) -> ReadBatch:
    entries: list[Crystal | Rejection] = []
    for part in group.parts:
        if isinstance(part, Piece):
            entries.extend(_entries(part))
        elif isinstance(part, Rejection):
            entries.append(part)
    return ReadBatch(
        Crystals.of([e for e in entries if isinstance(e, Crystal)]),
        [e for e in entries if isinstance(e, Rejection)],
        [k for k, e in enumerate(entries) if isinstance(e, Rejection)],
        [part.name for part in group.parts if isinstance(part, Skipped)],
        group.weight,
    )


def _as_columns(group: Group) -> ReadBatch | None:
    """Pieces of formats that have columns, without the detour over single crystals; None when something is wrong."""
    found: list[Columns] = []
    for part in group.parts:
        columns = _columns(part) if isinstance(part, Piece) else None
        if columns is None:
            return None
        found.append(columns)
    if not found:
        return None
    entries = [len(columns.crystals) + len(columns.rejections) for columns in found]
    starts = np.cumsum([0, *entries[:-1]]).tolist()
    return ReadBatch(
        Crystals.joined([columns.crystals for columns in found]),
        [rejection for columns in found for rejection in columns.rejections],
        [start + place for start, columns in zip(starts, found, strict=True) for place in columns.places],
        weight=group.weight,
    )


def _columns(piece: Piece) -> Columns | None:
    try:
        return FORMATS[piece.format].parse_columns(piece)
    except FATAL:
        raise
    except Exception:
        return None  # `parse` meets the same and tells it entry by entry


def _entries(piece: Piece) -> list[Crystal | Rejection]:
    try:
        return FORMATS[piece.format].parse(piece)
    except FATAL:
        raise
    except Exception as error:
        return [_unreadable(piece.document, _said(error), piece)]


def _require_readable(paths: Sequence[Path]) -> None:
    """Refuse what cannot be read before an hour is spent on what comes before it."""
    if not paths:
        raise InputError("nothing to read: name a file, a folder or an archive")
    for path in paths:
        if path.is_file() and not is_archive(path) and format_of(Document(str(path), path), by_content=True) is None:
            raise InputError(f"{path}: neither its name nor its content is of a format that can be read: {SUPPORTED}")


def _parts(found: Iterable[Document | Unreadable], named: Set[str]) -> Iterator[Part]:
    for document in found:
        if isinstance(document, Unreadable):
            why = f"{document.name}: {document.message}"
            yield Rejection(document.document.stem, document.name, Reason.UNREADABLE, why)
        elif (format := format_of(document, by_content=document.name in named)) is None:
            yield Skipped(document.name)
        else:
            yield from _cut(document, format)


def _cut(document: Document, format: Format) -> Iterator[Piece | Rejection]:
    first = None
    try:
        for first in format.split(document):
            yield first
    except FATAL:
        raise
    except Exception as error:
        yield _unreadable(document, _said(error))
        return
    if first is None:
        yield Rejection(document.stem, document.name, Reason.EMPTY, f"{document.name}: holds no crystal")


def _grouped(parts: Iterable[Part]) -> Iterator[Group]:
    waiting: list[Part] = []
    weight = 0
    for part in parts:
        waiting.append(part)
        weight += part.weight if isinstance(part, Piece) else 0
        if weight >= GROUP_BYTES or len(waiting) >= GROUP_PARTS:
            yield Group(waiting, weight)
            waiting, weight = [], 0
    if waiting:
        yield Group(waiting, weight)


def _within(document: Document | Unreadable, paths: tuple[str, ...]) -> bool:
    if not paths:
        return False
    place = os.path.normpath(Path(document.name.partition("::")[0]).absolute())
    return any(_is_of(place, path) for path in paths)


def _is_of(place: str, path: str) -> bool:
    """Tell whether a place is a file or folder, lies in it, or is what it grows from."""
    if place == path or place.startswith((f"{path}/", f"{path}.part/")):
        return True
    return place.startswith(f"{path}.") and place.endswith(".part")


def _batches(
    parse: Callable[[Group], ReadBatch], groups: Iterable[Group], workers: int
) -> Generator[ReadBatch, None, None]:
    if workers == 1:
        yield from map(parse, groups)
        return
    with Pool(parse, workers) as pool:
        for outcome in pool.in_order(groups):
            if isinstance(outcome, Lost):
                yield from _one_by_one(pool, outcome.task)
            else:
                yield outcome


def _one_by_one(pool: Pool[Group, ReadBatch], group: Group) -> Iterator[ReadBatch]:
    """Parse each part alone, after a process died at the whole group; a part that kills once more is refused."""
    for part in group.parts:
        weight = part.weight if isinstance(part, Piece) else 0
        outcome = pool.alone(Group([part], weight))
        if isinstance(outcome, Lost):
            assert isinstance(part, Piece), "nothing but parsing can end a process"
            why = f"the process that parsed it died twice: {outcome.cause}"
            refused = _unreadable(part.document, why, part)
            outcome = ReadBatch(Crystals.of([]), [refused], [0], weight=weight)
        yield outcome


def _without_duplicates(batches: Generator[ReadBatch, None, None]) -> Generator[ReadBatch, None, None]:
    seen = Seen()
    with contextlib.closing(batches):
        for batch in batches:
            crystals = batch.crystals
            repeated = seen.add(crystals.ids)
            rows = np.flatnonzero(repeated)
            refused = [_duplicate(crystals[int(row)]) for row in rows]
            yield batch.refusing(rows, refused, crystals.take(np.flatnonzero(~repeated)) if refused else crystals)


def _duplicate(crystal: Crystal) -> Rejection:
    message = f"{crystal.id}: an earlier crystal has this id and is kept; give each crystal an id of its own"
    return Rejection(crystal.id, crystal.source, Reason.DUPLICATE_ID, message)


def _unreadable(document: Document, why: str, piece: Piece | None = None) -> Rejection:
    """Refuse a document as a whole, or a piece of it: what else is in the document is not affected."""
    part = f", {piece.weight} bytes from entry {piece.first} on" if piece is not None else ""
    return Rejection(document.stem, document.name, Reason.UNREADABLE, f"{document.name}{part}: cannot be read ({why})")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
