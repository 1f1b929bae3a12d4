"""What a file format is: it claims names, splits documents into pieces, and parses a piece alone.

Splitting is cheap and happens in one process, in file order; parsing is the work and happens in any
process. `read.py` joins the two, `formats/__init__.py` lists the formats.

In what is parsed, an infinite label was meant to be a number and is none; `validate` makes it missing, and names it.
"""

import gzip
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal, Rejection
from screening.errors import InputError


@dataclass(frozen=True, slots=True)
class Document:
    """One file as the user sees it: on disk, or a member of an archive already read into `content`.

    `name` is what sources start with: `folder/file.cif`, `crystals.zip::a/b.cif`. `folder` is where it lies below the
    folder that all inputs share, in which an archive counts as a folder: `folder`, `crystals/a`, or nothing.
    """

    name: str
    path: Path | None = None
    content: bytes | None = None
    folder: str = ""

    @property
    def file_name(self) -> str:
        """The last part of the name, without a trailing `.gz`."""
        last = self.name.rsplit("::", 1)[-1].rsplit("/", 1)[-1]
        return last[:-3] if last.lower().endswith(".gz") else last

    @property
    def stem(self) -> str:
        """The file's name without suffixes, behind its folder: the id of a crystal that states none."""
        last = self.file_name.rsplit(".", 1)[0] if "." in self.file_name[1:] else self.file_name
        return f"{self.folder}/{last}" if self.folder else last

    def open(self) -> BinaryIO:
        """A stream of the bytes, decompressed; the caller closes it."""
        zipped = self.name.lower().endswith(".gz")
        if self.content is not None:
            raw = io.BytesIO(self.content)
            return cast(BinaryIO, gzip.open(raw)) if zipped else raw
        # Given the path, gzip closes the file that it opened; given an open file, it would not.
        return cast(BinaryIO, gzip.open(self._located())) if zipped else self._located().open("rb")

    def _located(self) -> Path:
        if self.path is None:
            raise InputError(f"{self.name}: a document needs a path or content")
        return self.path

    def read(self) -> bytes:
        """All the bytes, decompressed."""
        with self.open() as stream:
            return stream.read()


@dataclass(frozen=True, slots=True)
class Piece:
    """A picklable part of a document that a worker can parse alone.

    `first` is the number of its first entry within the document; `weight` its rough cost in bytes.
    """

    format: str
    document: Document
    payload: Any
    first: int = 0
    weight: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The entries of a piece: crystals in order, rejections with their places among all entries."""

    crystals: Crystals
    rejections: Sequence[Rejection]
    places: Sequence[int]


class Format(ABC):
    """One file format. Final subclasses only; no state, so that pieces can be parsed anywhere."""

    name: str

    @abstractmethod
    def claims(self, file_name: str) -> bool:
        """Whether a file of this name (without folders and `.gz`) is of this format."""

    @abstractmethod
    def split(self, document: Document) -> Iterator[Piece]:
        """Cut a document into pieces, in order, in constant memory."""

    @abstractmethod
    def parse(self, piece: Piece) -> list[Crystal | Rejection]:
        """Every entry of the piece, in order, each a crystal or a rejection; never raises for bad content."""

    def parse_columns(self, piece: Piece) -> "Columns | None":
        """The same entries in flat columns, where that is faster than `parse`; None where it is not.

        May raise for bad content: `parse` then says what is wrong.
        """
        return None
