"""New files that are there when they are whole: they grow under another name, are synchronised and renamed."""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py

from screening.errors import ResourceError
from screening.files.sink import Sink, part_of

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_whole(path: Path, blocks: Iterable[bytes]) -> Path:
    """Write blocks end to end to a file; an older one is replaced, or stays if this fails.

    The name that it grows under carries a random part, so that two who write the same file do not meet.
    """
    part = path.with_name(f"{path.name}.{os.urandom(4).hex()}.part")
    try:
        try:
            with part.open("xb", buffering=0) as file:
                for block in blocks:
                    left = memoryview(block)
                    while left:
                        left = left[file.write(left) :]
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        synchronise(path.absolute().parent)
    except OSError as error:
        raise ResourceError(write_failure(path, error)) from error
    return path


@contextlib.contextmanager
def whole_hdf5(path: Path) -> Iterator[tuple[h5py.File, Sink]]:
    """Give a file to write to, and the sink below it, whose `check` tells a full disk before much more is written.

    Left by an exception, it leaves the older file or none.
    """
    part = part_of(path)
    try:
        sink = Sink(part)
    except OSError as error:
        raise ResourceError(write_failure(path, error)) from error
    file: h5py.File | None = None
    try:
        # From 1.10 on (2016), HDF5 keeps checksums of its own structures too. Chunks are written whole and once.
        file = h5py.File(sink, "w", libver=("v110", "v110"), rdcc_nbytes=0)
        yield file, sink
        file.close()
        sink.synchronise()
        part.replace(path)
        synchronise(path.absolute().parent)
    except BaseException as error:
        if file:
            file.close()
        part.unlink(missing_ok=True)
        cause = sink.failure or error
        if isinstance(cause, OSError):
            raise ResourceError(write_failure(path, cause)) from error
        raise
    finally:
        sink.close()


def write_failure(path: Path, error: OSError) -> str:
    """Say why a file could not be written, and what to do."""
    left = f"; {path} is as it was before" if path.exists() else ""
    if error.errno in _FULL:
        return f"{path}: the disk is full or a size limit was reached{left}; free some space and run it again"
    return f"{path}: cannot be written ({error}){left}; check the folder and its permissions"


def synchronise(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
