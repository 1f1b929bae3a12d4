"""POSCAR and CONTCAR, the crystals of VASP 4 to 6: a title, a scale, three lattice vectors, symbols, counts, atoms.

What follows the atoms (velocities, volumetric data) is not read. VASP 4 wrote no symbols: then they are taken from
behind the coordinates or from the title, if there are exactly as many as counts, and a file without is refused.
"""

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np

from screening.arrays import Float64, UInt8
from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.elements import NUMBER_OF
from screening.crystals.formats.format import Document, Format, Piece
from screening.crystals.formats.poscar_title import symbols_in_title
from screening.crystals.formats.words import element_in, number_in
from screening.crystals.volume import volume_of
from screening.ops.text import scan_rows

NAMES = ("poscar", "contcar")
SUFFIXES = (".vasp", ".poscar", ".contcar")
# Files called like a POSCAR that are something else: POSCAR.cif, POSCAR_plot.png.
_OTHER = re.compile(
    r"\.(bz2|cif|csv|db|h5|hdf5|html|jpg|jsonl?|log|md|out|parquet|pdf|png|py|sh|svg|tar|tgz|traj|xml|xsf|(ext)?xyz|xz"
    r"|ya?ml|zip)$"
)
# About a million atoms; volumetric data behind them may be longer.
LARGEST_BYTES = 1 << 28
USUAL_BYTES = 1 << 16
_DAMAGE = (OSError, EOFError, zlib.error, gzip.BadGzipFile)
_PREFIX = re.compile(r"(?:poscar|contcar)[._-]+(?=.)", re.IGNORECASE)
_ENDING = re.compile(r"(?<=[^._-])[._-]+(?:poscar|contcar)$", re.IGNORECASE)


class Poscar(Format):
    """One crystal a file: POSCAR, CONTCAR, *.vasp, POSCAR.id, id_POSCAR."""

    name = "poscar"

    def claims(self, file_name: str) -> bool:
        """Whether the name is POSCAR or CONTCAR, alone or joined to something by a dot, dash or underscore."""
        lower = file_name.lower()
        if lower in NAMES or lower.endswith(SUFFIXES):
            return True
        return not _OTHER.search(lower) and bool(_PREFIX.match(lower) or _ENDING.search(lower))

    def split(self, document: Document) -> Iterator[Piece]:
        """The whole file is one piece."""
        yield Piece(self.name, document, None, weight=_size(document))

    def parse(self, piece: Piece) -> list[Crystal | Rejection]:
        """The crystal of the file."""
        document = piece.document
        id = id_of(document)
        try:
            with document.open() as stream:
                # Room for as many bytes as are asked for is made at once.
                text = stream.read(USUAL_BYTES)
                if len(text) == USUAL_BYTES:
                    text += stream.read(LARGEST_BYTES)
        except _DAMAGE as error:
            return [Rejection(id, document.name, Reason.UNREADABLE, f"{id}: cannot be read ({error})")]
        return [_parsed(text, id, document.name)]


def _size(document: Document) -> int:
    if document.content is not None or document.path is None:
        return len(document.content or b"")
    try:
        return document.path.stat().st_size
    except OSError:
        return 0


def parse_poscar_text(text: str, *, id: str, source: str) -> Crystal | Rejection:
    """Read a crystal from the text of a POSCAR."""
    return _parsed(text.encode("utf-8", "replace"), id, source)


def id_of(document: Document) -> str:
    """The file name without what says POSCAR, behind its folder; the folder alone if nothing is left of the name."""
    name = document.file_name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
    if name.lower() not in NAMES:
        told = _ENDING.sub("", _PREFIX.sub("", name)) or name
        return f"{document.folder}/{told}" if document.folder else told
    if document.folder:
        return document.folder
    # It lies in the folder, or in the archive, that all inputs share: the name of that.
    container = document.name.rpartition("::")[0]
    return Document(container).stem if container else (document.path or Path(document.name)).absolute().parent.name


class _Unusable(Exception):
    """Why a text is no usable crystal."""

    def __init__(self, message: str, reason: Reason = Reason.UNREADABLE) -> None:
        super().__init__(message)
        self.reason = reason


def _parsed(text: bytes, id: str, source: str) -> Crystal | Rejection:
    try:
        # Numbers that are not finite are for validation to refuse.
        with np.errstate(all="ignore"):
            return _crystal(_Lines(text), id, source)
    except _Unusable as unusable:
        return Rejection(id, source, unusable.reason, f"{id}: {unusable}")


class _Lines:
    """The lines of a text, one after another; `number` is that of the last one, from 1."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.number = 0
        self.at = 0

    def next(self, what: str) -> str:
        if self.at >= len(self.text):
            raise _Unusable(f"the file ends after line {self.number}, expected {what}")
        end = self.text.find(b"\n", self.at)
        end = len(self.text) if end < 0 else end
        line = self.text[self.at : end].decode("utf-8", "replace")
        self.at, self.number = end + 1, self.number + 1
        return line

    def words(self, what: str) -> list[str]:
        """The words of the next line, without what follows a ! or a #."""
        return self.next(what).split("!", 1)[0].split("#", 1)[0].split()


def _crystal(lines: _Lines, id: str, source: str) -> Crystal:
    title = lines.next("a title")
    scale, lattice = _lattice(lines)
    symbols, counts = _composition(lines)
    mode = lines.next("Direct or Cartesian").strip()
    is_selective = mode[:1] in ("S", "s")
    if is_selective:
        mode = lines.next("Direct or Cartesian").strip()
    cartesian = mode[:1] in ("C", "c", "K", "k")
    if not cartesian and mode[:1] not in ("D", "d", "F", "f"):
        raise _Unusable(f"line {lines.number} is `{mode[:40]}`, expected Direct or Cartesian")
    atoms = sum(counts)
    if atoms == 0:
        raise _Unusable("holds no atoms", Reason.EMPTY)
    coordinates = _coordinates(lines, atoms)
    numbers = _numbers(symbols, counts) if symbols else _numbers_of_old(lines, title, counts, 6 if is_selective else 3)
    positions = coordinates * scale if cartesian else coordinates @ lattice
    return Crystal(id, numbers, positions, lattice, source=source)


def _lattice(lines: _Lines) -> tuple[Float64, Float64]:
    """The scale factors of x, y and z, and the lattice they have been applied to."""
    words = lines.words("a scale factor")
    scale = _leading_numbers(words)[:3]
    is_finite = all(map(math.isfinite, scale))
    if len(scale) not in (1, 3) or not is_finite or 0 in scale or (len(scale) == 3 and min(scale) < 0):
        wanted = "expected one number (negative: the volume) or three positive ones"
        raise _Unusable(f"line 2 is `{' '.join(words)[:60]}`, {wanted}")
    vectors = []
    for name in "abc":
        numbers = _leading_numbers(lines.next(f"lattice vector {name}").split())[:3]
        if len(numbers) < 3:
            raise _Unusable(f"line {lines.number} has {len(numbers)} numbers, expected the 3 of lattice vector {name}")
        vectors.append(numbers)
    lattice = np.array(vectors)
    factors = np.array(scale)
    if factors[0] < 0:
        volume = volume_of(lattice)
        if not volume > 0:
            raise _Unusable("line 2 gives a volume, but the lattice vectors span none", Reason.TINY_VOLUME)
        factors = np.cbrt(-factors / volume)
    return factors, lattice * factors


def _leading_numbers(words: Sequence[str]) -> list[float]:
    return list(takewhile(lambda number: number is not None, map(number_in, words)))  # type: ignore[arg-type]


def _composition(lines: _Lines) -> tuple[list[str], list[int]]:
    """Symbols, none before VASP 5, and how many atoms of each; VASP breaks long lines."""
    symbols: list[str] = []
    words = lines.words("symbols or numbers of atoms")
    while words and not _is_count(words[0]):
        for word in words:
            if not element_in(word):
                message = f"line {lines.number} names `{word[:40]}`, which is no chemical element"
                raise _Unusable(message, Reason.UNKNOWN_ELEMENT)
        symbols += words
        words = lines.words("numbers of atoms")
    counts = more = _counts_in(words)
    while more and len(counts) < len(symbols):
        more = _counts_in(lines.words("more numbers of atoms"))
        counts = counts + more
    if not counts or (symbols and len(counts) != len(symbols)):
        wanted = f"one for each of the {len(symbols)} symbols" if symbols else "one for each element"
        raise _Unusable(f"line {lines.number} ends {len(counts)} numbers of atoms, expected {wanted}")
    return symbols, counts


def _counts_in(words: Sequence[str]) -> list[int]:
    return [int(word) for word in takewhile(_is_count, words)]


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 9


def _coordinates(lines: _Lines, atoms: int) -> Float64:
    text, at = lines.text, lines.at
    rows = text.count(b"\n", at) + (at < len(text) and not text.endswith(b"\n"))
    if rows < atoms:
        raise _Unusable(f"the file ends after {rows} of {atoms} atoms")
    targets = np.arange(3, dtype=np.int32)
    _, values, faults = scan_rows(text, np.array([at]), np.array([0, atoms]), targets, exact=False)
    if faults[0] >= 0:
        for _ in range(int(faults[0])):
            lines.next("an atom")
        row = lines.next("an atom").strip()
        raise _Unusable(f"line {lines.number} is `{row[:60]}`, expected the three coordinates of atom {faults[0]}")
    coordinates: Float64 = values[0]
    return coordinates


# --- elements -------------------------------------------------------------------------------------------------


def _numbers(symbols: Sequence[str], counts: Sequence[int]) -> UInt8:
    return np.repeat(np.array([element_in(symbol) for symbol in symbols], np.uint8), counts)


def _numbers_of_old(lines: _Lines, title: str, counts: Sequence[int], column: int) -> UInt8:
    """The elements of a file without a line of symbols."""
    rows = [lines.words("an atom") for _ in range(sum(counts))]
    if all(len(row) == column + 1 and row[column] in NUMBER_OF for row in rows):
        return np.array([NUMBER_OF[row[column]] for row in rows], np.uint8)
    symbols = symbols_in_title(title, counts)
    if not symbols:
        shown = title.strip()[:60]
        raise _Unusable(
            f"has no line of symbols (VASP 4) and its title `{shown}` does not name {len(counts)} elements in these "
            "numbers; insert a line of symbols before the numbers of atoms"
        )
    return _numbers(symbols, counts)
