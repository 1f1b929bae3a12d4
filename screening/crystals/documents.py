"""From the paths a user names to documents: files, folders walked in natural order, archives streamed.

What a document holds is for the formats to say; a file that none of them claims is a document like any other here,
so that the caller can count it.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from screening.crystals.archives import Unreadable, Wanted, is_archive, members, without_suffix
from screening.crystals.formats.format import Document
from screening.errors import InputError, permitted

# A folder with this file is one data set, read as a whole by the format that knows the list.
DATA_SET_LIST = "id_prop.csv"

_DIGITS = re.compile(r"\d+")


def documents(
    paths: Iterable[str | os.PathLike[str]], wanted: Wanted = lambda document: True
) -> Iterator[Document | Unreadable]:
    """Yield every file that these paths stand for, in order: files, those in folders, members of archives.

    Folders are walked with `a2` before `a10`, hidden files passed over; a folder with `id_prop.csv` is one document
    of that name whose path is the folder. Members of archives that `wanted` declines by name come without content.
    Each document knows its folder below the deepest one that holds all of `paths`, in which archives count as folders.
    A path that does not exist is an InputError before anything is read.
    """
    given = [Path(path) for path in paths]
    for path in given:
        with permitted(path):
            is_there = path.exists()
        if not is_there:
            raise InputError(f"{path}: no such file or folder")
    shared = _shared(given)
    return (found for path in given for found in _documents(path, shared, wanted, ()))


def _shared(paths: Sequence[Path]) -> str:
    """The deepest folder that holds all paths; a folder and an archive hold themselves."""
    folders = [path if path.is_dir() else _unpacked(path) if is_archive(path) else path.parent for path in paths]
    return os.path.commonpath([os.path.normpath(path.absolute()) for path in folders]) if folders else ""


def _unpacked(archive: Path) -> Path:
    """The folder that an archive counts as."""
    return archive.with_name(without_suffix(archive.name))


def _below(folder: Path, shared: str) -> str:
    """Where a folder is below the shared one; nothing for that itself, and for the one around it."""
    place = os.path.relpath(folder, shared)
    return "" if place in (".", "..") else place


def _documents(
    path: Path, shared: str, wanted: Wanted, around: tuple[tuple[int, int], ...]
) -> Iterator[Document | Unreadable]:
    try:
        if path.is_dir():
            yield from _in_folder(path, shared, wanted, around)
        elif path.exists():
            yield from _in_file(path, _below(path.parent, shared), shared, wanted)
        else:
            yield _unreadable(path, shared, "is a link to nothing, or was removed while reading")
    except OSError as error:
        yield _unreadable(path, shared, f"cannot be opened: {error.strerror or error}")


def _unreadable(path: Path, shared: str, why: str) -> Unreadable:
    return Unreadable(Document(str(path), path, folder=_below(path.parent, shared)), why)


def _in_file(path: Path, below: str, shared: str, wanted: Wanted) -> Iterable[Document | Unreadable]:
    if is_archive(path.name):
        return members(path, wanted, _below(_unpacked(path), shared))
    return (Document(str(path), path, folder=below),)


def _in_folder(
    folder: Path, shared: str, wanted: Wanted, around: tuple[tuple[int, int], ...]
) -> Iterator[Document | Unreadable]:
    status = folder.stat()
    itself = status.st_dev, status.st_ino
    if itself in around:
        return  # a link back to a folder that is being walked already
    names, others, below = [], set(), _below(folder, shared)
    with os.scandir(folder) as found:
        for entry in found:
            if not entry.name.startswith("."):
                names.append(entry.name)
                if not entry.is_file(follow_symlinks=False):
                    others.add(entry.name)
    if DATA_SET_LIST in names and (folder / DATA_SET_LIST).is_file():
        yield Document(str(folder / DATA_SET_LIST), folder, folder=below)
        return
    names.sort(key=natural_key)
    for name in names:
        # The folder told what is a file already; asking again would take as long as the rest.
        path = folder / name
        if name in others:
            yield from _documents(path, shared, wanted, (*around, itself))
        else:
            yield from _in_file(path, below, shared, wanted)


def natural_key(name: str) -> str:
    """A key that sorts numbers within names by value: each is preceded by how many digits it has."""
    return _DIGITS.sub(_with_length, name) + "\0" + name


def _with_length(match: re.Match[str]) -> str:
    digits = match[0].lstrip("0")
    return f"{len(digits):03d}{digits}"
