"""CIF: one crystal a data block, several blocks a file, files of any length.

Ids are a block's `_material_id` if it has one; else the file stem for a file of one block, `stem:block` for several,
`stem:block:n` for entry n whose block name was there before, `stem:n` without a block name. What a block means is
cif_block.py's to say.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from gemmi import cif

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats.cif_block import crystal_in, own_id
from screening.crystals.formats.cif_stretches import UNREADABLE, Stretch, blocks_of, stretches
from screening.crystals.formats.format import Document, Format, Piece
from screening.crystals.seen import Seen

# A smaller file is one piece, opened by whoever parses it; a longer one is cut up here.
WHOLE = 1 << 20
# CIF text shrinks to between a third and an eighth.
COMPRESSION = 8

_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_PLACE = re.compile(r"data:(\d+)[^ ]* ")


@dataclass(frozen=True, slots=True)
class Blocks:
    """Whole blocks of a longer file, with what only the whole file tells: their ids, and whether there are others."""

    content: bytes
    ids: Sequence[str]
    several: bool
    broken: str = ""


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A block whose text breaks the syntax."""

    name: str
    message: str


class Cif(Format):
    """Crystallographic Information Files: CIF 1.1 syntax, names of the core dictionary."""

    name = "cif"

    def claims(self, file_name: str) -> bool:
        return file_name.lower().endswith(".cif")

    def split(self, document: Document) -> Iterator[Piece]:
        size = _size(document)
        return iter((Piece(self.name, document, None, weight=size),)) if size <= WHOLE else self._cut(document)

    def _cut(self, document: Document) -> Iterator[Piece]:
        # What the pieces carry need not travel with the document too.
        bare, seen, first = replace(document, content=None), Seen(), 0
        for stretch, several in _with_several(_stretches_of(document)):
            repeated = seen.add(stretch.names).tolist()
            ids = _ids(document.stem, stretch.names, repeated, first, several=several)
            blocks = Blocks(stretch.content, ids, several, stretch.broken)
            yield Piece(self.name, bare, blocks, first, weight=len(stretch.content))
            first += len(ids)

    def parse(self, piece: Piece) -> list[Crystal | Rejection]:
        document, blocks = piece.document, piece.payload
        if blocks is None:
            try:
                content = _content(piece)
            except UNREADABLE as error:
                blocks = Blocks(b"", [document.stem], several=False, broken=_broken(error))
            else:
                return _entries(content, document.stem, document.name)
        if blocks.broken:
            id = blocks.ids[0]
            source = f"{document.name}#{piece.first}" if blocks.several else document.name
            return [Rejection(id, source, Reason.UNREADABLE, f"{id}: {blocks.broken}")]
        return _entries(blocks.content, document.stem, document.name, piece.first, blocks)


def parse_cif_text(text: str | bytes, *, id: str, source: str) -> Crystal | Rejection:
    """Read the one crystal in a CIF text that has an id already, such as a cell of a table.

    Blocks without atoms beside it, such as a `data_global` of authors, are passed over.
    """
    content = text.encode("utf-8", "replace") if isinstance(text, str) else text
    blocks = _blocks(_as_utf8(content))
    entries = [_entry(b, id, source) if isinstance(b, Unparsed) else crystal_in(b, id, source) for b in blocks]
    told = [entry for entry in entries if isinstance(entry, Crystal) or entry.reason != Reason.EMPTY] or entries[:1]
    if len(told) == 1:
        return told[0]
    message = f"{id}: holds {len(told)} data blocks with atoms, expected one; give each crystal a row of its own"
    return Rejection(id, source, Reason.UNREADABLE, message)


def _content(piece: Piece) -> bytes:
    path = piece.document.path
    if path is None or piece.document.name.lower().endswith(".gz"):
        return piece.document.read()
    # Opening and reading is a third of the time for a small file, and half of that goes into asking for a size that
    # is known here.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, piece.weight + 1)
    finally:
        os.close(descriptor)
    return content if len(content) == piece.weight else piece.document.read()


def _size(document: Document) -> int:
    if document.content is not None:
        size = len(document.content)
    else:
        try:
            size = os.stat(document.path or document.name).st_size  # noqa: PTH116 - twice as fast as Path.stat
        except OSError:
            return 0  # parsing will say why
    return size * (COMPRESSION if document.name.lower().endswith(".gz") else 1)


def _stretches_of(document: Document) -> Iterator[Stretch]:
    try:
        with document.open() as stream:
            yield from stretches(stream)
    except UNREADABLE as error:
        yield Stretch(b"", [""], _broken(error))


def _with_several(found: Iterator[Stretch]) -> Iterator[tuple[Stretch, bool]]:
    """Say with each stretch whether the file holds more than one block."""
    held, several = next(found, Stretch(b"", [""])), False
    for stretch in found:
        several = True
        yield held, several
        held = stretch
    yield held, several or len(held.names) > 1


def _broken(error: Exception) -> str:
    return f"the file cannot be read to its end ({error}); is it whole?"


def _ids(stem: str, names: Sequence[str], repeated: Sequence[bool], first: int, *, several: bool) -> list[str]:
    if not several:
        return [stem]
    tails = (
        f"{n}" if not name else f"{name}:{n}" if again else name
        for name, again, n in zip(names, repeated, count(first), strict=False)
    )
    return [f"{stem}:{tail}" for tail in tails]


def _entries(
    content: bytes, stem: str, source: str, first: int = 0, known: Blocks | None = None
) -> list[Crystal | Rejection]:
    blocks = _blocks(_as_utf8(content))
    if len(blocks) == 1 and known is None:
        return [_entry(blocks[0], stem, source)]
    several = len(blocks) > 1 or (known is not None and known.several)
    names = [block.name.strip() for block in blocks]
    if known is not None and len(known.ids) == len(names):
        ids = known.ids
    else:
        ids = _ids(stem, names, Seen().add(names).tolist() if several else [False], first, several=several)
    sources = [f"{source}#{n}" for n in range(first, first + len(ids))] if several else [source]
    return [_entry(*each) for each in zip(blocks, ids, sources, strict=True)]


def _entry(block: cif.Block | Unparsed, id: str, source: str) -> Crystal | Rejection:
    if isinstance(block, Unparsed):
        reason = Reason.UNREADABLE if block.message else Reason.EMPTY
        return Rejection(id, source, reason, f"{id}: {block.message or 'the file holds no data_ block'}")
    return crystal_in(block, own_id(block) or id, source)


def _blocks(content: bytes) -> list[cif.Block | Unparsed]:
    """Every block, at least one; a fault of one leaves the others as they are."""
    try:
        return list(cif.read_string(content)) or [Unparsed("", "")]
    except (ValueError, RuntimeError):
        return [_block(stretch) for stretch in blocks_of(content)]


def _block(stretch: Stretch) -> cif.Block | Unparsed:
    try:
        return cif.read_string(stretch.content)[0]
    except (ValueError, RuntimeError) as error:
        # A stretch starts with the end of the line before.
        fault = _PLACE.sub(lambda match: f"line {int(match[1]) - 1} of the block: ", str(error))
        return Unparsed(stretch.names[0], f"is no CIF: {fault}")


def _as_utf8(content: bytes) -> bytes:
    """The text in the one encoding that CIF readers take; what is neither ASCII nor Unicode is read as Latin-1."""
    if content.isascii():
        return content
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding).encode()
    except UnicodeDecodeError:
        return content.decode("latin-1").encode()
