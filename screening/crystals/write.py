"""Writes crystals back as text: extended XYZ, folders of CIF or POSCAR files, JSON lines of pymatgen structures.

Files appear whole or not at all: they grow under the name with `.part` behind it, are brought to the disk and then
renamed, so that an interruption leaves the older file or none.
"""

import contextlib
import fcntl
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from screening.crystals.convert import require_volume
from screening.crystals.crystal import Crystal
from screening.crystals.formats.json_writer import json_line
from screening.crystals.formats.xyz_writer import extxyz_frame
from screening.errors import InputError, ResourceError
from screening.files.sink import Sink
from screening.files.whole import growing, require_folder, require_place, synchronise, writing

BLOCK_BYTES = 1 << 20
# File systems take names of 255 bytes; some are left for the suffix and a number.
LONGEST_NAME = 240
# What the names of single files ask for, with .gz behind them too.
SUFFIXES: Mapping[str, str] = MappingProxyType({".extxyz": "extxyz", ".xyz": "extxyz", ".jsonl": "jsonl"})
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=@()-]")


def write(crystals: Iterable[Crystal], path: str | os.PathLike[str], *, format: str) -> int:
    """Write crystals as `extxyz`, `cif`, `poscar` or `jsonl` and tell how many there were.

    extxyz and jsonl make one file, compressed if its name ends in .gz; cif makes a new folder with a file for each
    crystal, named after its id, and poscar one with a folder for each, named so, with a file POSCAR. extxyz keeps
    everything to the last bit; jsonl keeps positions to rounding, because pymatgen reads fractional coordinates; cif
    and poscar keep what such files can.
    """
    if format not in WRITERS:
        raise InputError(f"format must be one of {', '.join(WRITERS)}, got {format!r}")
    return WRITERS[format](crystals, Path(path))


def format_of_name(name: str) -> str | None:
    """What to write into a single file of this name; None if the name does not tell."""
    return SUFFIXES.get(Path(name.lower().removesuffix(".gz")).suffix)


def require_no_input(
    output: str | os.PathLike[str], inputs: Sequence[str | os.PathLike[str]], *, folders: bool = False
) -> None:
    """Refuse to replace a file that is one of the inputs; with `folders`, one that lies in a folder that is an input.

    Without it, the caller passes over its output in folders.
    """
    target = Path(output)
    if not target.is_file():
        return
    given = [path for path in map(Path, inputs) if path.exists()]
    if any(target.samefile(path) for path in given):
        raise InputError(f"{target}: is one of the inputs; choose another name for the output")
    above = target.resolve().parents
    if folders and any(path.is_dir() and path.resolve() in above for path in given):
        raise InputError(
            f"{target}: is there already, in a folder that is one of the inputs; choose another name for the output"
        )


# --- one file -------------------------------------------------------------------------------------------------


def _write_file(crystals: Iterable[Crystal], path: Path, entry: Callable[[Crystal], bytes]) -> int:
    require_place(path)
    with growing(path) as sink:
        return _pour(map(entry, crystals), sink, compressed=path.name.lower().endswith(".gz"))


def _pour(entries: Iterable[bytes], sink: Sink, *, compressed: bool) -> int:
    count = 0
    # 31: a gzip header, without a time, so that equal crystals give equal files.
    packer = zlib.compressobj(wbits=31) if compressed else None
    for block, held in _blocks(entries):
        sink.write(block if packer is None else packer.compress(block))
        sink.check()
        count += held
    if packer is not None:
        sink.write(packer.flush())
    return count


def _blocks(entries: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """Entries end to end, about a megabyte at a time, and how many they are."""
    waiting: list[bytes] = []
    size = 0
    for entry in entries:
        waiting.append(entry)
        size += len(entry)
        if size >= BLOCK_BYTES:
            yield b"".join(waiting), len(waiting)
            waiting, size = [], 0
    yield b"".join(waiting), len(waiting)


# --- a folder of files ----------------------------------------------------------------------------------------


def _write_cif_folder(crystals: Iterable[Crystal], path: Path) -> int:
    from screening.crystals.formats.cif_writer import write_cif

    return _write_folder(crystals, path, write_cif, "{}.cif")


def _write_poscar_folder(crystals: Iterable[Crystal], path: Path) -> int:
    from screening.crystals.formats.poscar_writer import write_poscar

    return _write_folder(crystals, path, write_poscar, "{}/POSCAR")


def _write_folder(crystals: Iterable[Crystal], path: Path, text: Callable[[Crystal], str], called: str) -> int:
    """Write a file for each crystal, `called` so with its id in place of the braces."""
    require_folder(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path}: is there already; remove it, or name a new folder")
    part = path.with_name(path.name + ".part")
    with writing(path), _empty_folder(part):
        taken: dict[str, int] = {}
        count = 0
        for crystal in crystals:
            require_volume(crystal)
            _write_new(part, called, file_stem(crystal.id), text(crystal), taken)
            count += 1
        # One call for all files: a call for each would take longer than writing them.
        os.sync()
        part.replace(path)
        synchronise(path.absolute().parent)
    return count


@contextlib.contextmanager
def _empty_folder(folder: Path) -> Iterator[None]:
    """Make a folder that no other process writes to, empty; remove it if the writing fails."""
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResourceError(f"{folder}: another process is writing it; wait for it or use another name") from error
        try:
            # An interrupted process may have left files.
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def file_stem(id: str) -> str:
    """An id as the name of a file on any file system; different ids may give the same."""
    name = _UNSAFE.sub("_", id)[:LONGEST_NAME]
    return f"_{name}" if not name or name.startswith(".") else name


def _write_new(folder: Path, called: str, stem: str, text: str, taken: dict[str, int]) -> None:
    """Write a file that is not there yet; `taken` counts what was written under a stem that was needed again."""
    while True:
        number = taken.get(stem, 0)
        path = folder / called.format(f"{stem}-{number + 1}" if number else stem)
        path.parent.mkdir(exist_ok=True)
        try:
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
        except FileExistsError:
            taken[stem] = number + 1
        else:
            return


WRITERS: Mapping[str, Callable[[Iterable[Crystal], Path], int]] = MappingProxyType(
    {
        "extxyz": lambda crystals, path: _write_file(crystals, path, extxyz_frame),
        "cif": _write_cif_folder,
        "poscar": _write_poscar_folder,
        "jsonl": lambda crystals, path: _write_file(crystals, path, json_line),
    }
)
