"""From paths to documents: order, folders, archives of every kind, and archives that are damaged."""

import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.crystals import archives
from screening.crystals.archives import Unreadable, is_archive
from screening.crystals.documents import DATA_SET_LIST, documents, natural_key
from screening.crystals.formats.format import Document
from screening.errors import InputError

CONTENTS = {"b.cif": b"data_b\n" * 50, "a/10.cif": b"", "a/9.cif": bytes(range(256)), "notes.txt": b"read me"}
Pack = Callable[[Path, dict[str, bytes]], None]


def names(found: Iterable[Document | Unreadable], root: Path) -> list[str]:
    return [os.path.relpath(document.name, root) for document in found]


def found_in(path: Path) -> list[Document]:
    found = list(documents([path]))
    assert all(isinstance(document, Document) for document in found), found
    return [document for document in found if isinstance(document, Document)]


def unreadable(path: Path) -> Unreadable:
    """The one document of an archive that could not be read."""
    (found,) = [document for document in documents([path]) if isinstance(document, Unreadable)]
    return found


def zipped(method: int) -> Pack:
    def pack(path: Path, contents: dict[str, bytes]) -> None:
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)

    return pack


def tarred(mode: str) -> Pack:
    def pack(path: Path, contents: dict[str, bytes]) -> None:
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            for name, content in contents.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    return pack


PACKS = {
    "stored.zip": zipped(zipfile.ZIP_STORED),
    "deflated.ZIP": zipped(zipfile.ZIP_DEFLATED),
    "bzipped.zip": zipped(zipfile.ZIP_BZIP2),
    "plain.tar": tarred("w"),
    "gzipped.tar.gz": tarred("w:gz"),
    "gzipped.tgz": tarred("w:gz"),
    "bzipped.tar.bz2": tarred("w:bz2"),
    "xzipped.tar.xz": tarred("w:xz"),
}


def test_a_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "salt.cif"
    path.write_text("data_x")
    (document,) = found_in(path)
    assert (document.name, document.path, document.content, document.read()) == (str(path), path, None, b"data_x")


def test_paths_come_in_the_order_given_and_as_text_too(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).touch()
    assert names(documents([str(tmp_path / "b"), tmp_path / "a"]), tmp_path) == ["b", "a"]


def test_a_missing_path_is_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match=r"gone\.cif: no such file or folder"):
        documents([tmp_path / "a", tmp_path / "gone.cif"])


def test_folders_are_walked_in_natural_order(tmp_path: Path) -> None:
    expected = ["a1.cif", "a2/x.cif", "a02.cif", "a10.cif", "a10b/c/d.cif", "b.cif", "b.cif.gz"]
    for name in reversed(expected):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(documents([tmp_path]), tmp_path) == expected


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    for name in (".a.cif", ".git/b.cif", "c.cif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(documents([tmp_path]), tmp_path) == ["c.cif"]
    assert names(documents([tmp_path / ".a.cif"]), tmp_path) == [".a.cif"]


def test_archives_in_folders_are_opened(tmp_path: Path) -> None:
    for name in ("1.zip", "2.tar.gz"):
        PACKS["stored.zip" if name.endswith("zip") else "gzipped.tgz"](tmp_path / name, CONTENTS)
    expected = [f"{archive}::{name}" for archive in ("1.zip", "2.tar.gz") for name in CONTENTS]
    assert names(documents([tmp_path]), tmp_path) == expected


def test_a_folder_with_a_list_is_one_document(tmp_path: Path) -> None:
    for name in ("a.cif", f"set/{DATA_SET_LIST}", "set/1.cif", "set/more/2.cif", "z.cif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = found_in(tmp_path)
    assert names(found, tmp_path) == ["a.cif", f"set/{DATA_SET_LIST}", "z.cif"]
    assert found[1].path == tmp_path / "set"
    assert found_in(tmp_path / "set")[0].path == tmp_path / "set"


def test_links_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.cif").touch()
    (tmp_path / "here/back").symlink_to(tmp_path / "here")
    (tmp_path / "here/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here/nothing.cif").symlink_to(tmp_path / "gone")
    found = list(documents([tmp_path / "here"]))
    assert names(found, tmp_path) == ["here/link/a.cif", "here/nothing.cif"]
    assert isinstance(found[1], Unreadable)
    assert "link to nothing" in found[1].message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every folder")
def test_a_closed_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    assert "ermission denied" in unreadable(tmp_path).message


@pytest.mark.parametrize("pack", PACKS)
def test_archives_give_their_members_in_their_order(tmp_path: Path, pack: str) -> None:
    path = tmp_path / pack
    PACKS[pack](path, CONTENTS)
    assert is_archive(path)
    found = found_in(path)
    assert [document.name for document in found] == [f"{path}::{name}" for name in CONTENTS]
    assert [document.read() for document in found] == list(CONTENTS.values())
    assert [document.path for document in found] == [None] * 4


@pytest.mark.parametrize("pack", PACKS)
def test_members_that_nobody_wants_come_without_content(tmp_path: Path, pack: str) -> None:
    path = tmp_path / pack
    PACKS[pack](path, CONTENTS)
    found = list(documents([path], wanted=lambda document: document.file_name.endswith(".cif")))
    contents = [document.content for document in found if isinstance(document, Document)]
    assert contents == [*list(CONTENTS.values())[:3], None]


@pytest.mark.parametrize("pack", ["deflated.ZIP", "gzipped.tgz"])
def test_hidden_members_are_passed_over(tmp_path: Path, pack: str) -> None:
    path = tmp_path / pack
    members = ("./a.cif", ".b.cif", "c/.d/e.cif", "__MACOSX/._a.cif", "f/../g.cif")
    PACKS[pack](path, dict.fromkeys(members, b"x"))
    assert [document.name for document in found_in(path)] == [f"{path}::./a.cif", f"{path}::f/../g.cif"]


@pytest.mark.parametrize("pack", ["stored.zip", "deflated.ZIP", "plain.tar", "gzipped.tgz"])
def test_memory_does_not_grow_with_the_number_of_members(tmp_path: Path, pack: str) -> None:
    path = tmp_path / pack
    PACKS[pack](path, {f"folder/crystal-{k:06d}.cif": b"data_x\n" * 8 for k in range(4000)})

    def walk(path: Path, most: int) -> int:
        tracemalloc.start()
        try:
            for _, document in zip(range(most), documents([path]), strict=False):
                assert isinstance(document, Document)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = walk(path, 100)
    assert walk(path, 4000) < few + 50_000


def test_a_member_too_large_for_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MEMBER_LIMIT", 300)
    for pack in ("deflated.ZIP", "plain.tar"):
        PACKS[pack](tmp_path / pack, CONTENTS)
        found = unreadable(tmp_path / pack)
        assert found.name == f"{tmp_path / pack}::b.cif"
        assert "extract the archive" in found.message


def test_links_in_tar_archives_are_told(tmp_path: Path) -> None:
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as archive:
        folder, link = tarfile.TarInfo("folder"), tarfile.TarInfo("folder/link.cif")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "a.cif"
        archive.addfile(folder)
        archive.addfile(link)
    assert unreadable(path).name == f"{path}::folder/link.cif"


def test_zip_of_more_than_four_gigabytes_fields(tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    zipped(zipfile.ZIP_DEFLATED)(path, {"a.cif": b"data_a", "b.cif": b"data_b"})
    ordinary = path.read_bytes()
    # The same archive with every 32-bit size and offset full and the 64-bit ones in their place.
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    start = ordinary.index(b"PK\x01\x02")
    directory = b""
    for entry in entries:
        extra = struct.pack("<2H3Q", 1, 24, entry.file_size, entry.compress_size, entry.header_offset)
        header = (
            b"PK\x01\x02",
            45,
            45,
            0,
            8,
            0,
            33,
            entry.CRC,
            0xFFFFFFFF,
            0xFFFFFFFF,
            5,
            len(extra),
            0,
            0,
            0,
            0,
            0xFFFFFFFF,
        )
        directory += struct.pack("<4s6H3L5H2L", *header) + entry.filename.encode() + extra
    end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, len(directory), start)
    end += struct.pack("<4sLQL", b"PK\x06\x07", 0, start + len(directory), 1)
    end += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(ordinary[:start] + directory + end)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("b.cif") == b"data_b"
    assert [document.content for document in found_in(path)] == [b"data_a", b"data_b"]


def test_zip_after_other_bytes_and_with_a_comment(tmp_path: Path) -> None:
    path = tmp_path / "prefixed.zip"
    zipped(zipfile.ZIP_DEFLATED)(path, CONTENTS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"from a colleague " * 3000
    path.write_bytes(b"#!/bin/sh\nexit\n" + path.read_bytes())
    assert [document.content for document in found_in(path)] == list(CONTENTS.values())


def test_zip_names_in_other_alphabets(tmp_path: Path) -> None:
    path = tmp_path / "names.zip"
    zipped(zipfile.ZIP_DEFLATED)(path, {"\u03b1-Fe\u2082O\u2083.cif": b"data_x"})
    assert found_in(path)[0].stem == "\u03b1-Fe\u2082O\u2083"


def broken_zip(path: Path, place: bytes, offset: int, replacement: bytes, *, last: bool = False) -> Path:
    """A zip archive of three members with bytes changed after the first or last occurrence of a mark."""
    zipped(zipfile.ZIP_DEFLATED)(path, {name: b"data_" + name.encode() * 40 for name in ("a.cif", "b.cif", "c.cif")})
    content = bytearray(path.read_bytes())
    start = (content.rindex(place) if last else content.index(place)) + offset
    content[start : start + len(replacement)] = replacement
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("place", "offset", "replacement", "message"),
    [
        (b"PK\x03\x04", 40, b"\xff\xff\xff", "is damaged in the archive"),
        (b"PK\x03\x04", 0, b"XX", "it is not where the directory says"),
        (b"PK\x01\x02", 8, b"\x01", "is encrypted"),
        (b"PK\x01\x02", 10, b"\x63", "is compressed by zip method 99"),
        (b"PK\x01\x02", 16, b"\x00\x00\x00\x00", "length or checksum is wrong"),
        (b"PK\x01\x02", 24, b"\x05\x00", "length or checksum is wrong"),
    ],
)
def test_a_damaged_member_leaves_the_others(
    tmp_path: Path, place: bytes, offset: int, replacement: bytes, message: str
) -> None:
    path = broken_zip(tmp_path / "broken.zip", place, offset, replacement)
    found = list(documents([path]))
    assert [document.name for document in found] == [f"{path}::{name}.cif" for name in "abc"]
    assert [type(document) for document in found] == [Unreadable, Document, Document]
    assert isinstance(found[0], Unreadable)
    assert message in found[0].message


def test_a_damaged_directory_ends_the_archive(tmp_path: Path) -> None:
    path = broken_zip(tmp_path / "broken.zip", b"PK\x01\x02", 0, b"XX", last=True)
    found = list(documents([path]))
    assert [document.name for document in found] == [f"{path}::a.cif", f"{path}::b.cif", str(path)]
    assert unreadable(path).message.startswith("the archive cannot be read beyond member 2 (")


@pytest.mark.parametrize("length", [4 * 1024, 4 * 1024 + 100])
def test_a_tar_archive_must_end_as_it_should(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.tar"
    tarred("w")(path, {f"{k}.cif": b"x" * 512 for k in range(9)})
    path.write_bytes(path.read_bytes()[:length])
    found = list(documents([path]))
    assert [document.name for document in found] == [*(f"{path}::{k}.cif" for k in range(4)), str(path)]
    assert "beyond member 4" in unreadable(path).message


def test_a_damaged_tar_header_does_not_end_the_archive_silently(tmp_path: Path) -> None:
    path = tmp_path / "damaged.tar"
    tarred("w")(path, {f"{k}.cif": b"x" * 512 for k in range(9)})
    content = bytearray(path.read_bytes())
    content[4 * 1024 + 50] ^= 1
    path.write_bytes(content)
    assert "beyond member 4 (bad checksum)" in unreadable(path).message


def test_a_damaged_sum_of_a_compressed_tar_archive_is_told(tmp_path: Path) -> None:
    path = tmp_path / "damaged.tgz"
    tarred("w:gz")(path, CONTENTS)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    assert "CRC check failed" in unreadable(path).message


@pytest.mark.parametrize("pack", PACKS)
def test_half_an_archive(tmp_path: Path, pack: str) -> None:
    path = tmp_path / pack
    PACKS[pack](path, {f"{k}.cif": os.urandom(5000) for k in range(8)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = list(documents([path]))
    assert isinstance(found[-1], Unreadable)
    assert found[-1].name == str(path)
    assert "is it whole?" in found[-1].message
    assert all(isinstance(document, Document) for document in found[:-1])
    # A zip archive says at its end what it holds, and bzip2 unpacks 900 kB at once.
    assert "zip" in pack.lower().split(".", 1)[1] or "bz2" in pack or len(found) > 2


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("content", [b"", b"PK", b"data_x\n", os.urandom(3000)])
def test_no_archive_at_all(tmp_path: Path, pack: str, content: bytes) -> None:
    path = tmp_path / pack
    path.write_bytes(content)
    assert "cannot be read beyond member 0" in unreadable(path).message


@given(st.data())
def test_damage_never_raises(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    pack = data.draw(st.sampled_from(sorted(PACKS)))
    path = tmp_path_factory.mktemp("damaged") / pack
    PACKS[pack](path, CONTENTS)
    content = bytearray(path.read_bytes())
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=9)
    ):
        content[place] = byte
    path.write_bytes(content)
    for document in documents([path]):
        assert isinstance(document, Unreadable) or document.content is not None


@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=2), st.text(max_size=3).filter(lambda t: not t.isdigit()))
def test_numbers_in_names_sort_by_value(pair: list[int], around: str) -> None:
    lower, upper = sorted(pair)
    head = around.rstrip("0123456789")
    assert natural_key(f"{head}{lower}.cif") <= natural_key(f"{head}{upper}.cif")


def test_the_order_of_names_is_total() -> None:
    equal = ["a1", "a01", "a001"]
    assert len({natural_key(name) for name in equal}) == 3
    assert sorted(equal, key=natural_key) == ["a001", "a01", "a1"]
