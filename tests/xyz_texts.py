"""Texts of extended XYZ frames, and what the reader makes of them."""

from collections.abc import Sequence

from made import assert_same

from screening.crystals.crystal import Crystal, Rejection
from screening.crystals.formats.extxyz import ExtXyz
from screening.crystals.formats.format import Document, Piece

LATTICE = 'Lattice="4 0 0 0 4 0 0 0 4"'
PROPERTIES = "Properties=species:S:1:pos:R:3"
GOOD = f"2\n{LATTICE} {PROPERTIES} material_id=good energy=-1.5\nCu 0 0 0\nO 1 1 1\n"


def pieces_of(content: bytes, name: str = "a/some.xyz") -> list[Piece]:
    """Cut a file into pieces."""
    return list(ExtXyz().split(Document(name, content=content)))


def read(content: bytes | str, name: str = "a/some.xyz") -> list[Crystal | Rejection]:
    """Read a file."""
    content = content.encode() if isinstance(content, str) else content
    return [entry for piece in pieces_of(content, name) for entry in parsed(piece)]


def parsed(piece: Piece) -> list[Crystal | Rejection]:
    """Read a piece both ways, which must give the same."""
    entries = ExtXyz().parse(piece)
    columns = ExtXyz().parse_columns(piece)
    crystals, rejections, places = columns.crystals, columns.rejections, columns.places
    assert [entry for entry in entries if isinstance(entry, Rejection)] == rejections
    assert [k for k, entry in enumerate(entries) if isinstance(entry, Rejection)] == places
    for array in (crystals.numbers, crystals.positions, crystals.lattice, crystals.pbc, *crystals.labels.values()):
        assert array.flags.c_contiguous
    assert crystals.forces is None or crystals.forces.flags.c_contiguous
    assert crystals.stress is None or crystals.stress.flags.c_contiguous
    alone = [entry for entry in entries if isinstance(entry, Crystal)]
    for one, other in zip(alone, crystals, strict=True):
        assert_same(one, other)
    return entries


def read_one(content: bytes | str) -> Crystal:
    """Read the crystal that is all of a file."""
    (entry,) = read(content)
    assert isinstance(entry, Crystal), entry
    return entry


def refused(content: bytes | str) -> Rejection:
    """Read a file that gives one rejection and nothing else."""
    (entry,) = read(content)
    assert isinstance(entry, Rejection), entry
    return entry


def frame(comment: str, rows: Sequence[str] = ("Cu 0 0 0",)) -> str:
    """Write a frame with this comment line and these rows."""
    return "\n".join([str(len(rows)), comment, *rows]) + "\n"
