"""Extended XYZ cut into pieces of any size, and everything that can be wrong with a file."""

import gzip
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from made import assert_same, made_crystals
from xyz_texts import GOOD, PROPERTIES, frame, parsed, pieces_of, read, read_one, refused

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.formats import xyz_frames
from screening.crystals.formats.extxyz import ExtXyz
from screening.crystals.formats.format import Document, Piece
from screening.crystals.formats.xyz_writer import extxyz_frame

pytestmark = pytest.mark.native

# --- splitting ------------------------------------------------------------------------------------------------


@pytest.fixture
def many() -> list[Crystal]:
    return made_crystals(150, seed=4, forces=True)


@pytest.mark.parametrize("size", [3, 7, 100, 1024, 5000, 1 << 20])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_blocks_of_any_size_give_the_same(
    many: list[Crystal], size: int, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"".join(map(extxyz_frame, many)).replace(b"\n", b"\r\n")
    text = b"\xef\xbb\xbf" + text + b"junk\n\n" + text[:1000]
    content = gzip.compress(text) if suffix else text
    expected = read(text)
    monkeypatch.setattr(xyz_frames, "BLOCK_BYTES", size)
    pieces = pieces_of(content, f"a/some.xyz{suffix}")
    assert len(pieces) == 1 if size > len(text) else len(pieces) > len(text) // max(size, 10_000) // 2
    entries = [entry for piece in pieces for entry in parsed(piece)]
    assert [piece.first for piece in pieces] == np.cumsum([0, *(len(p.payload[0]) for p in pieces[:-1])]).tolist()
    for entry, same in zip(entries, expected, strict=True):
        assert type(entry) is type(same)
        assert entry.id == same.id
        if isinstance(entry, Crystal) and isinstance(same, Crystal):
            assert_same(entry, same, source=False)
        elif isinstance(entry, Rejection) and isinstance(same, Rejection):
            assert entry.message == same.message


def test_pieces_do_not_carry_the_whole_document() -> None:
    text = b"".join(map(extxyz_frame, made_crystals(5, seed=5)))
    assert all(piece.document.content is None for piece in pieces_of(text))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    block = b"".join(map(extxyz_frame, made_crystals(1000, seed=6)))
    path = tmp_path / "long.xyz"
    path.write_bytes(block * 24)
    tracemalloc.start()
    count = sum(len(piece.payload[0]) for piece in ExtXyz().split(Document(str(path), path)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 24_000
    assert peak < 12 * xyz_frames.BLOCK_BYTES < path.stat().st_size


# --- broken files ---------------------------------------------------------------------------------------------


def ids_and_reasons(content: bytes | str) -> list[str]:
    return [entry.id if isinstance(entry, Crystal) else f"!{entry.id}" for entry in read(content)]


def named(name: str, rows: int = 2, count: int | None = None) -> str:
    atoms = "".join(f"Cu 0 0 {k}\n" for k in range(rows))
    return f"{rows if count is None else count}\n{PROPERTIES} material_id={name}\n{atoms}"


A, B, C = (named(name) for name in "abc")

BROKEN = {
    "count too large": (A + named("b", 2, 3) + C + A.replace("=a", "=d"), ["a", "!b", "c", "d"], "line 5"),
    "count far too large": (A + named("b", 2, 10**12) + C, ["a", "!b", "c"], "line 5"),
    "count with too many digits": (A + named("b", 2, 10**20) + C, ["a", "!b", "c"], "line 5"),
    "count too small": (A + named("b", 3, 2) + C, ["a", "!b", "c"], "line 5 says 2 atoms, but line 9 goes on"),
    "negative count": (A + named("b", 2, -2) + C, ["a", "!some#1", "c"], "line 5 is `-2`"),
    "text for a count": (A + B.replace("2\n", "two\n", 1) + C, ["a", "!some#1", "c"], "line 5 is `two`"),
    "junk between": (A + "some words\nand more\n" + C, ["a", "!some#1", "c"], "line 5 is `some words`"),
    "junk in front": ("#!/bin/sh\n" + A + C, ["!some#0", "a", "c"], "line 1 is `#!/bin/sh`"),
    "cut off in the rows": (A + C[:-12], ["a", "!c"], "1 lines are missing: the file ends"),
    "cut off after the count": (A + "2\n", ["a", "!some#1"], "3 lines are missing: the file ends"),
    "two files, the first cut off": (A[:-9] + C, ["!a", "c"], "after 1 rows line 4 is a count"),
    "blank lines between": (A + "\n \n" + C + "\n\n\t\n", ["a", "c"], ""),
    "count with blanks": ("   2  \n" + A.split("\n", 1)[1] + C, ["a", "c"], ""),
    "comments that are counts": ("1\n0\nH 0 0 0\n1\n1\nH 0 0 1\n", ["some#0", "some#1"], ""),
    "no atoms": (A + "0\nmaterial_id=b\n" + C, ["a", "!b", "c"], "line 5 says 0 atoms"),
    "no line end": (A + C.rstrip(), ["a", "c"], ""),
    "old Mac line ends": (A.replace("\n", "\r"), ["!some"], "line 1 is"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_one_broken_frame_is_one_rejection(case: str) -> None:
    content, expected, message = BROKEN[case]
    assert ids_and_reasons(content) == expected
    messages = [entry.message for entry in read(content) if isinstance(entry, Rejection)]
    assert all(message in found for found in messages)
    assert all(
        found.startswith(name[1:] + ": ")
        for found, name in zip(messages, [e for e in expected if e[0] == "!"], strict=True)
    )


ROWS = {
    "missing column": ("Cu 0 0", Reason.UNREADABLE, "has 3 columns, expected 4"),
    "extra column": ("Cu 0 0 0 0", Reason.UNREADABLE, "has 5 columns, expected 4"),
    "blank row": ("", Reason.UNREADABLE, "has 0 columns"),
    "no number": ("Cu 0 x 0", Reason.UNREADABLE, "`x` is no number, expected one for pos[1]"),
    "stars": ("Cu 0 ******* 0", Reason.UNREADABLE, "is no number"),
    "hexadecimal": ("Cu 0 0x1 0", Reason.UNREADABLE, "`0x1` is no number"),
    "underscore": ("Cu 0 1_0 0", Reason.UNREADABLE, "`1_0` is no number"),
    "other digits": ("Cu 0 \u0661 0", Reason.UNREADABLE, "is no number"),
    "element last": ("0 0 0 Cu", Reason.UNKNOWN_ELEMENT, "`0` is no chemical element"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_broken_row_says_where(case: str) -> None:
    row, reason, message = ROWS[case]
    entries = read(frame(f"{PROPERTIES} material_id=b", ["Cu 0 0 0", row, "O 1 1 1"]) + A)
    assert isinstance(entries[0], Rejection)
    assert (entries[0].id, entries[0].reason) == ("b", reason)
    assert "line 4 (atom 1)" in entries[0].message
    assert message in entries[0].message
    assert isinstance(entries[1], Crystal)


@pytest.mark.parametrize("word", ["nan", "NaN", "inf", "-inf", "Infinity", "+nan"])
def test_numbers_that_are_not_finite_are_for_validation_to_refuse(word: str) -> None:
    np.testing.assert_array_equal(
        read_one(frame(PROPERTIES, [f"Cu {word} 0 1.5d0"])).positions, [[float(word), 0, 1.5]]
    )


@pytest.mark.parametrize("word", ["nan", "inf", "1e308"])
def test_lattices_that_are_not_finite_are_read_in_silence(word: str) -> None:
    comment = f'Lattice="4 {word} 0 0 {word} 0 0 0 4" {PROPERTIES} virial="1 2 3 4 5 {word}"'
    assert read_one(frame(comment)).lattice[1, 1] == pytest.approx(float(word), nan_ok=True)


def test_plain_xyz_may_have_more_columns() -> None:
    assert read_one(frame("water", ["O 0 0 0 -0.8 x", "H 0 0 1 0.4"])).numbers.tolist() == [8, 1]


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        (f'{PROPERTIES} Lattice="1 2 3 4"', "Lattice has 4 numbers, expected 9"),
        (f'{PROPERTIES} Lattice="1 0 0 0 1 0 0 0 c"', "Lattice holds `c`"),
        (f'{PROPERTIES} Lattice="1 0 0 0 1 0 0 0 1', "breaks off at column"),
        (f'{PROPERTIES} pbc="T T"', "pbc is 'T T'"),
        (f'{PROPERTIES} pbc="T T 2"', "expected three of T and F"),
        (f'{PROPERTIES} stress="1 2 3"', "the stress has 3 numbers"),
        ("Properties=pos:R:3", "expected species:S:1"),
        ("Properties=species:S:1", "pos:R:3 in it"),
        ("Properties=species:S:1:pos:R:2", "gives `pos` width 2, expected 3"),
        ("Properties=species:S:1:pos:R:3:forces:R:1", "gives `forces` width 1"),
        ("Properties=species:S:1:pos:R", "expected names, each once"),
        ("Properties=species:S:1:pos:Q:3", "with a type (S, R, I or L)"),
        ("Properties=species:S:1:pos:R:3:a:R:0", "and a width"),
        ("Properties=species:S:1:pos:R:3:a:R:999999999999", "and a width"),
        ("Properties=species:S:1:pos:R:3:pos:R:3", "each once"),
    ],
)
def test_a_broken_comment_says_what_is_wrong(comment: str, message: str) -> None:
    entries = read(A + frame(f"{comment} material_id=b") + C)
    assert isinstance(entries[1], Rejection)
    assert entries[1].reason == Reason.UNREADABLE
    assert "line 6" in entries[1].message
    assert message in entries[1].message
    assert isinstance(entries[2], Crystal)


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \t\n"])
def test_an_empty_file_is_a_rejection(content: bytes) -> None:
    rejection = refused(content)
    assert (rejection.id, rejection.source, rejection.reason) == ("some", "a/some.xyz", Reason.EMPTY)


def test_damaged_compression_keeps_what_came_before() -> None:
    text = b"".join(map(extxyz_frame, made_crystals(300, seed=7)))
    content = gzip.compress(text)
    for cut in (content[: len(content) // 2], content[:-6], content[:-1] + b"\xff"):
        entries = [entry for piece in pieces_of(cut, "a/some.xyz.gz") for entry in parsed(piece)]
        assert len(entries) > 20
        assert all(isinstance(entry, Crystal) for entry in entries[:-1])
        assert isinstance(entries[-1], Rejection)
        assert "the compressed data is damaged" in entries[-1].message
    garbled = content[:4000] + b"\0" * 4000
    *_, last = [entry for piece in pieces_of(garbled, "a/some.xyz.gz") for entry in parsed(piece)]
    assert isinstance(last, Rejection)
    assert "the compressed data is damaged" in last.message


def test_what_is_no_gzip_is_a_rejection() -> None:
    (entry,) = [e for piece in pieces_of(GOOD.encode(), "a/some.xyz.gz") for e in parsed(piece)]
    assert isinstance(entry, Rejection)
    assert "damaged" in entry.message


def test_a_frame_beyond_all_bounds_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xyz_frames, "LARGEST_FRAME_BYTES", 5000)
    monkeypatch.setattr(xyz_frames, "BLOCK_BYTES", 1000)
    assert ids_and_reasons(A + named("b", 2000) + C) == ["a", "!b", "c"]
    assert ids_and_reasons(A + "x" * 20_000 + "\n" + C) == ["a", "!some#1", "c"]
    assert ids_and_reasons(A + "x" * 20_000) == ["a", "!some#1"]


ALPHABET = b"0123456789 \n\r\t\"=.-+eEdD\\{}[]'TFCuXx\x00\xff\xc3,:"


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_never_raise_and_lose_little(seed: int) -> None:
    rng = random.Random(seed)
    clean = made_crystals(12, seed=seed, forces=True, max_atoms=4)
    text = b"".join(map(extxyz_frame, clean))
    for _ in range(150):
        mutated = bytearray(text)
        for _ in range(rng.randint(1, 3)):
            at, new = rng.randrange(len(mutated)), rng.choice(ALPHABET)
            match rng.randint(0, 3):
                case 0:
                    mutated[at] = new
                case 1:
                    mutated.insert(at, new)
                case 2:
                    del mutated[at : at + rng.randint(1, 40)]
                case _:
                    mutated[at:at] = mutated[at : at + rng.randint(1, 200)]
        entries = read(bytes(mutated))
        assert len({entry.source for entry in entries}) == len(entries)
        # A change breaks the frames it touches, and at most the one whose end it hides.
        assert sum(isinstance(entry, Crystal) for entry in entries) >= len(clean) - 9
        assert all(entry.message for entry in entries if isinstance(entry, Rejection))


def test_random_bytes_never_raise() -> None:
    rng = random.Random(0)
    for _ in range(300):
        content = bytes(rng.choice(ALPHABET) for _ in range(rng.randint(0, 300)))
        assert len(read(content)) >= 1


def test_every_frame_of_a_piece_has_its_own_arrays() -> None:
    first, second = (entry for entry in read(GOOD + GOOD) if isinstance(entry, Crystal))
    first.positions[:] = 9
    first.lattice[:] = 9
    np.testing.assert_array_equal(second.positions, [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(second.lattice, np.eye(3) * 4)


def lines_of(pieces: Sequence[Piece]) -> Iterator[int]:
    for piece in pieces:
        yield from piece.payload[0].lines.tolist()


def test_line_numbers_count_from_one_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xyz_frames, "BLOCK_BYTES", 64)
    assert list(lines_of(pieces_of((A + "\n" + B + "junk\njunk\n" + C).encode()))) == [1, 6, 10, 12]
