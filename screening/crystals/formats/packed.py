"""The project's own packed HDF5 files as an input: read once more, checked once more, their rejections kept.

Crystals keep the sources they had when they were packed. packed.py, one folder up, has the layout.
"""

import io
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats.format import Columns, Document, Format, Piece
from screening.errors import FileFormatError, InputError

if TYPE_CHECKING:
    from screening.crystals.packed import PackedCrystals

SUFFIXES = (".h5", ".hdf5")
ROWS = 4096


class Packed(Format):
    """Packed HDF5 files, a few thousand rows a piece."""

    name = "packed"

    def claims(self, file_name: str) -> bool:
        """Whether the name ends in .h5 or .hdf5."""
        return file_name.lower().endswith(SUFFIXES)

    def split(self, document: Document) -> Iterator[Piece]:
        """Cut into ranges of rows, crystals first and rejections after; a file that cannot be opened is one piece."""
        try:
            with closing(_opened(document)) as packed:
                total = len(packed) + packed.rejected
        except (FileFormatError, InputError):
            total = 0
        if total == 0:
            yield Piece(self.name, document, (0, 0), weight=1)
        # Without a file of its own, the whole content would travel with each piece.
        rows = ROWS if _on_disk(document) else max(total, 1)
        for start in range(0, total, rows):
            stop = min(start + rows, total)
            yield Piece(self.name, document, (start, stop), start, weight=(stop - start) * 256)

    def parse(self, piece: Piece) -> list[Crystal | Rejection]:
        """Every row of the range, in order."""
        document = piece.document
        start, stop = piece.payload
        try:
            crystals, rejections = self._rows(piece)
            return [*crystals, *rejections]
        except (FileFormatError, InputError) as error:
            if start == stop:
                return [Rejection(document.stem, document.name, Reason.UNREADABLE, str(error))]
            return [
                Rejection(f"{document.stem}#{row}", f"{document.name}#{row}", Reason.UNREADABLE, f"row {row}: {error}")
                for row in range(start, stop)
            ]

    def parse_columns(self, piece: Piece) -> Columns:
        """The same at the speed of columns: crystals first, rejections after; raises what is wrong."""
        crystals, rejections = self._rows(piece)
        return Columns(crystals, rejections, range(len(crystals), len(crystals) + len(rejections)))

    def _rows(self, piece: Piece) -> tuple[Crystals, list[Rejection]]:
        start, stop = piece.payload
        with closing(_opened(piece.document)) as packed:
            crystals = len(packed)
            if crystals + packed.rejected == 0:
                stem, name = piece.document.stem, piece.document.name
                return packed[:0], [Rejection(stem, name, Reason.EMPTY, f"{name}: holds no crystal")]
            rejections = packed.rejections(max(start - crystals, 0), max(stop - crystals, 0))
            return packed[min(start, crystals) : min(stop, crystals)], rejections


def _on_disk(document: Document) -> bool:
    return document.path is not None and document.content is None and not document.name.lower().endswith(".gz")


def _opened(document: Document) -> "PackedCrystals":
    # h5py and its 0.2 s are for those who have such a file.
    from screening.crystals.packed import PackedCrystals

    if document.path is not None and _on_disk(document):
        return PackedCrystals(document.path)
    return PackedCrystals(document.name, content=io.BytesIO(document.read()))
