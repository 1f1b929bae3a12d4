"""Members of zip and tar archives, one after the other, in the order of the archive and in constant memory.

A damaged member, or the point from which an archive cannot be read, comes as `Unreadable` among the others.
"""

import bz2
import gzip
import lzma
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, cast

from screening.crystals.formats.format import Document

ZIP = (".zip",)
TAR = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")

# A member is held in memory while it is parsed.
MEMBER_LIMIT = 1 << 30

_DAMAGE = (OSError, EOFError, ValueError, struct.error, zlib.error, lzma.LZMAError, tarfile.TarError)

_COMPRESSIONS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_BLOCK = 1 << 16

Wanted = Callable[[Document], bool]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file, an archive or a member of one that cannot be opened; the message says why."""

    document: Document
    message: str

    @property
    def name(self) -> str:
        """The name of the document."""
        return self.document.name


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a file of this name is an archive of files."""
    return os.fspath(path).lower().endswith(ZIP + TAR)


def without_suffix(archive: str) -> str:
    """The name of an archive as that of the folder that it counts as."""
    lower = archive.lower()
    return archive[: -max(len(suffix) for suffix in ZIP + TAR if lower.endswith(suffix))] or archive


def members(path: Path, wanted: Wanted, folder: str = "") -> Iterator[Document | Unreadable]:
    """Yield every file in an archive as `archive::member`, without content where it is not wanted.

    Hidden members are passed over, and what macOS adds to archives. `folder` is the one that the archive counts as.
    """
    archive = _Archive(path, folder)
    return _zip_members(archive, wanted) if path.name.lower().endswith(ZIP) else _tar_members(archive, wanted)


@dataclass(frozen=True, slots=True)
class _Archive:
    path: Path
    folder: str

    def member(self, name: str) -> Document:
        """A member without content, in its folder."""
        parts = name.split("/")
        inside = [part for part in parts[:-1] if part not in ("", ".", "..")]
        return Document(f"{self.path}::{name}", folder="/".join([self.folder, *inside] if self.folder else inside))

    def broken(self, count: int, error: Exception) -> Unreadable:
        """What to say of the rest, after so many members."""
        why = f"the archive cannot be read beyond member {count} ({error}); is it whole?"
        return Unreadable(Document(str(self.path), self.path, folder=self.folder.rpartition("/")[0]), why)


def _hidden(member: str) -> bool:
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in member.split("/"))


def _too_large(document: Document, size: int) -> Unreadable:
    return Unreadable(
        document, f"has {size / 2**30:.1f} GiB, too much to be read out of an archive; extract the archive"
    )


class _Header(tarfile.TarInfo):
    """A header for which only a block of zeros ends an archive; for tarfile a damaged or a missing one does too."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError(str(error)) from error


def _tar_members(archived: _Archive, wanted: Wanted) -> Iterator[Document | Unreadable]:
    count = 0
    try:
        # Not tarfile's own decompression: it checks no sums and takes a file that breaks off for one that ends.
        with (
            _decompressed(archived.path) as stream,
            tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive,
        ):
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else it remembers every member
                count += 1
                if not member.isdir() and not _hidden(member.name):
                    yield _tar_member(archive, member, archived.member(member.name), wanted)
            while stream.read(_BLOCK):
                pass  # a damaged sum shows at the end
    except _DAMAGE as error:
        yield archived.broken(count, error)


def _decompressed(path: Path) -> BinaryIO:
    with path.open("rb") as raw:
        head = raw.read(6)
    opened = next((opens for magic, opens in _COMPRESSIONS.items() if head.startswith(magic)), None)
    return cast(BinaryIO, opened(path) if opened else path.open("rb"))


def _tar_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, document: Document, wanted: Wanted
) -> Document | Unreadable:
    if not wanted(document):
        return document
    if not member.isreg():
        return Unreadable(document, "is a link or a special file, not content; extract the archive")
    if member.size > MEMBER_LIMIT:
        return _too_large(document, member.size)
    stream = archive.extractfile(member)
    assert stream is not None, "regular members have content"
    content = stream.read()
    if len(content) != member.size:
        raise EOFError(f"{member.name} ends after {len(content)} of {member.size} bytes")
    return replace(document, content=content)


class _Entry(NamedTuple):
    """What the central directory says of one member."""

    name: str
    flags: int
    method: int
    checksum: int
    compressed: int
    size: int
    offset: int


_END = struct.Struct("<4s4H2LH")
_END_64_AT = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = (1 << 16) - 1
_FULL = 0xFFFFFFFF
_ENCRYPTED, _UTF8 = 0x1, 0x800
_STORED, _DEFLATE, _BZIP2 = 0, 8, 12


def _zip_members(archived: _Archive, wanted: Wanted) -> Iterator[Document | Unreadable]:
    count = 0
    try:
        # The standard library holds the whole directory in memory, 0.6 kB a member; this reads it along.
        with archived.path.open("rb") as directory, archived.path.open("rb") as contents:
            shift = _seek_directory(directory)
            while (entry := _next_entry(directory, shift)) is not None:
                count += 1
                if not entry.name.endswith("/") and not _hidden(entry.name):
                    yield _zip_member(contents, entry, archived.member(entry.name), wanted)
    except _DAMAGE as error:
        yield archived.broken(count, error)


def _seek_directory(stream: BinaryIO) -> int:
    """Go to the central directory; returns by how much offsets are off, when something was put before the archive."""
    length = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, length - _END.size - _LONGEST_COMMENT))
    tail = stream.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0:
        raise ValueError("it has no zip directory at its end")
    size: int
    offset: int
    *_, size, offset, _ = _END.unpack_from(tail, place)
    end = length - len(tail) + place
    if place >= _END_64_AT.size and tail.startswith(b"PK\x06\x07", place - _END_64_AT.size):
        end -= _END_64_AT.size + _END_64.size
        stream.seek(end)
        signature, *_, size, offset = _END_64.unpack(stream.read(_END_64.size))
        if signature != b"PK\x06\x06":
            raise ValueError("its zip directory is damaged")
    stream.seek(end - size)
    return end - size - offset


def _next_entry(stream: BinaryIO, shift: int) -> _Entry | None:
    header = stream.read(_CENTRAL.size)
    if header[:4] != b"PK\x01\x02":
        if header[:4] not in (b"PK\x05\x06", b"PK\x06\x06"):
            raise ValueError("its zip directory is damaged")
        return None
    _, _, _, flags, method, _, _, checksum, compressed, size, name, extra, comment, _, _, _, offset = _CENTRAL.unpack(
        header
    )
    text = stream.read(name).decode("utf-8" if flags & _UTF8 else "cp437", "replace")
    fields = stream.read(extra)
    stream.seek(comment, os.SEEK_CUR)
    if _FULL in (size, compressed, offset):
        large = iter(_large_numbers(fields))
        size, compressed, offset = (
            next(large, value) if value == _FULL else value for value in (size, compressed, offset)
        )
    return _Entry(text, flags, method, checksum, compressed, size, offset + shift)


def _large_numbers(fields: bytes) -> tuple[int, ...]:
    """The 64-bit numbers in the extra fields of an entry whose 32-bit ones are full."""
    while len(fields) >= 4:
        kind, length = struct.unpack_from("<2H", fields)
        if kind == 1:
            return struct.unpack_from(f"<{length // 8}Q", fields, 4)
        fields = fields[4 + length :]
    return ()


def _zip_member(stream: BinaryIO, entry: _Entry, document: Document, wanted: Wanted) -> Document | Unreadable:
    if not wanted(document):
        return document
    if entry.size > MEMBER_LIMIT:
        return _too_large(document, entry.size)
    if entry.flags & _ENCRYPTED:
        return Unreadable(document, "is encrypted; extract the archive with its password")
    if entry.method not in (_STORED, _DEFLATE, _BZIP2):
        return Unreadable(document, f"is compressed by zip method {entry.method}; extract the archive")
    try:
        content = _zip_content(stream, entry)
    except _DAMAGE as error:
        return Unreadable(document, f"is damaged in the archive ({error})")
    return replace(document, content=content)


def _zip_content(stream: BinaryIO, entry: _Entry) -> bytes:
    stream.seek(entry.offset)
    signature, *_, name, extra = _LOCAL.unpack(stream.read(_LOCAL.size))
    if signature != b"PK\x03\x04":
        raise ValueError("it is not where the directory says")
    stream.seek(name + extra, os.SEEK_CUR)
    content = stream.read(entry.compressed)
    # One byte more than announced shows content that is longer, without unfolding all of it.
    if entry.method == _DEFLATE:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, entry.size + 1)
    elif entry.method == _BZIP2:
        content = bz2.BZ2Decompressor().decompress(content, entry.size + 1)
    if len(content) != entry.size or zlib.crc32(content) != entry.checksum:
        raise ValueError("its length or checksum is wrong")
    return content
