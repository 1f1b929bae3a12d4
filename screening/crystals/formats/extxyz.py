"""Extended XYZ: many frames in a file, each an atom count, a comment line and a row for each atom.

xyz_frames.py cuts files into frames, xyz_outline.py and xyz_comment.py read comment lines, xyz_columns.py says what
the columns are; the native scanner reads the rows of all frames of a piece that have the same columns at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from screening.arrays import Float64, Int64, UInt8
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats.format import Columns, Document, Format, Piece
from screening.crystals.formats.shapes import Refused
from screening.crystals.formats.xyz_columns import PLAIN_COLUMNS, columns_of, row_fault
from screening.crystals.formats.xyz_comment import id_of, pairs_of
from screening.crystals.formats.xyz_frames import Frames, frames_of
from screening.crystals.formats.xyz_outline import Comments, read_comments
from screening.ops.text import scan_rows

SUFFIXES = (".xyz", ".extxyz", ".exyz")


class ExtXyz(Format):
    """Extended and plain XYZ, one or many frames, labels from the comment line, forces from the columns.

    Without `pbc` a frame with a lattice is periodic, one without is a molecule in no cell. A virial without a volume
    to divide by gives no stress.
    """

    name = "extxyz"

    def claims(self, file_name: str) -> bool:
        """Whether the name ends in .xyz, .extxyz or .exyz."""
        return file_name.lower().endswith(SUFFIXES)

    def split(self, document: Document) -> Iterator[Piece]:
        """Cut the file into blocks of about a megabyte, whole frames each."""
        # What the pieces carry need not travel with the document too.
        bare, first = replace(document, content=None), 0
        held: Frames | None = None
        for frames in frames_of(document):
            if held is not None:
                yield Piece(self.name, bare, (held, False), first, len(held.text))
                first += len(held)
            held = frames
        if held is None:
            held = Frames.none()
        yield Piece(self.name, bare, (held, first + len(held) <= 1), first, len(held.text))

    def parse(self, piece: Piece) -> list[Crystal | Rejection]:
        """Every frame of the block, in order."""
        read, refused = _read(piece)
        entries: dict[int, Crystal | Rejection] = {**refused}
        for rows in read:
            entries |= zip(rows.frames, rows.crystals(), strict=True)
        return [entries[k] for k in sorted(entries)]

    def parse_columns(self, piece: Piece) -> Columns:
        """The same entries in flat columns: nearly twice as fast as laying single crystals end to end."""
        read, refused = _read(piece)
        crystals = Crystals.joined([rows.batch() for rows in read]) if read else Crystals.of([])
        frames = np.array([k for rows in read for k in rows.frames], np.int64)
        order = np.argsort(frames)
        if (order[1:] < order[:-1]).any():
            crystals = crystals.take(order)
        places = sorted(refused)
        return Columns(crystals, [refused[k] for k in places], places)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Frames that were read together, in columns: what their comments say, and their atoms."""

    frames: list[int]
    ids: list[str]
    sources: list[str]
    comments: Comments
    numbers: UInt8
    positions: Float64
    forces: Float64 | None
    offsets: Int64

    def batch(self) -> Crystals:
        said = self.comments
        return Crystals(
            ids=self.ids,
            numbers=self.numbers,
            positions=self.positions,
            lattice=said.lattice,
            pbc=np.tile(np.array(said.pbc, np.bool_), (len(said), 1)),
            atom_offsets=self.offsets.astype(np.int32),
            labels=said.labels,
            forces=self.forces,
            stress=said.stress,
            sources=self.sources,
        )

    def crystals(self) -> Iterator[Crystal]:
        said, stress = self.comments, self.comments.stress
        columns = [values.tolist() for values in said.labels.values()]
        labels = [dict(zip(said.labels, row, strict=True)) for row in zip(*columns, strict=True)] if columns else []
        has_stress = [] if stress is None else [not np.isnan(one).all() for one in stress]
        ends = self.offsets.tolist()
        for m, (id, source) in enumerate(zip(self.ids, self.sources, strict=True)):
            atoms = slice(ends[m], ends[m + 1])
            yield Crystal(
                id,
                self.numbers[atoms],
                self.positions[atoms],
                said.lattice[m],
                said.pbc,
                labels[m] if labels else {},
                None if self.forces is None else self.forces[atoms],
                stress[m] if stress is not None and has_stress[m] else None,
                source,
            )


def _read(piece: Piece) -> tuple[list[_Rows], dict[int, Rejection]]:
    """The frames of a piece in columns, and those that are refused, by number."""
    frames, alone = piece.payload
    stem, name = piece.document.stem, piece.document.name
    if not len(frames):
        return [], {0: Rejection(stem, name, Reason.EMPTY, f"{stem}: the file holds no frame")}
    block = _Block(frames, stem, name, None if alone else piece.first)
    groups, senseless = read_comments(frames, [k for k in range(len(frames)) if k not in frames.faults])
    for k, fault in frames.faults.items():
        block.refuse(k, _id_in(frames.comment(k)), Reason.UNREADABLE, fault)
    for k, refused in senseless.items():
        block.refuse(k, _id_in(frames.comment(k)), refused.reason, f"line {frames.lines[k] + 1}: {refused}")
    return [rows for group in groups if (rows := block.rows(group)) and rows.frames], block.refused


class _Block:
    """The frames of a piece: where they come from, and which were refused so far."""

    def __init__(self, frames: Frames, stem: str, name: str, first: int | None) -> None:
        self.refused: dict[int, Rejection] = {}
        self._frames = frames
        self._stem, self._name, self._first = stem, name, first

    def refuse(self, k: int, id: str, reason: Reason, message: str) -> None:
        number = "" if self._first is None else f"#{self._first + k}"
        id = id or self._stem + number
        self.refused[k] = Rejection(id, self._name + number, reason, f"{id}: {message}")

    def rows(self, said: Comments) -> _Rows | None:
        """The atoms of frames that are alike; refuses those whose rows do not fit."""
        frames = self._frames
        try:
            layout = columns_of(said.columns or PLAIN_COLUMNS, exact=bool(said.columns))
        except Refused as refused:
            for k, id in zip(said.frames.tolist(), said.ids, strict=True):
                self.refuse(k, id, refused.reason, f"line {frames.lines[k] + 1}: {refused}")
            return None
        atoms = frames.atoms[said.frames]
        offsets = np.concatenate([[0], np.cumsum(atoms)])
        begins = frames.rows[said.frames]
        numbers, values, faults = scan_rows(frames.text, begins, offsets, layout.targets, exact=layout.exact)
        bad = np.flatnonzero((faults >= 0) | (atoms == 0))
        for m in bad.tolist():
            k = int(said.frames[m])
            why = row_fault(frames, k, int(faults[m]), layout) if atoms[m] else _no_atoms(frames, k)
            self.refuse(k, said.ids[m], *why)
        if len(bad):
            fine = np.setdiff1d(np.arange(len(said)), bad)
            within = np.repeat(np.isin(np.arange(len(said)), fine), atoms)
            said, numbers = said.at(fine), numbers[within]
            values = np.stack([group[within] for group in values])
            offsets = np.concatenate([[0], np.cumsum(atoms[fine])])
        places = said.frames.tolist()
        numbered = [""] * len(places) if self._first is None else [f"#{self._first + k}" for k in places]
        return _Rows(
            places,
            [id or self._stem + number for id, number in zip(said.ids, numbered, strict=True)],
            [self._name + number for number in numbered],
            said,
            numbers,
            values[0],
            values[1] if layout.has_forces else None,
            offsets,
        )


def _no_atoms(frames: Frames, k: int) -> tuple[Reason, str]:
    return Reason.EMPTY, f"line {frames.lines[k]} says 0 atoms"


def _id_in(line: str) -> str:
    """The id in a comment line that may not be usable otherwise; "" if none can be found."""
    try:
        return id_of(pairs_of(line))
    except Refused:
        return ""
