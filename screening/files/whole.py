"""New files that are there when they are whole: they grow under another name, are synchronised and renamed.

Other programs see the older file or the new one, after a kill too. What fails on the way becomes one error that says
what to do, and leaves nothing behind.
"""

import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from screening.errors import InputError, ResourceError, ScreeningError
from screening.files.sink import Sink, part_of

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_whole(path: Path, blocks: Iterable[bytes | memoryview]) -> Path:
    """Write blocks end to end to a file; an older one is replaced, or stays if this fails.

    The name that it grows under carries a random part, so that two who write the same file do not meet: the last one's
    file stays.
    """
    part = path.with_name(f"{path.name}.{os.urandom(4).hex()}.part")
    with writing(path):
        file = part.open("xb", buffering=0)
    try:
        for block in blocks:
            with writing(path):
                put(file, block)
        with writing(path):
            os.fsync(file.fileno())
            part.replace(path)
            synchronise(path.absolute().parent)
    except BaseException:
        _discard(part)
        raise
    finally:
        _close(file)
    return path


@contextlib.contextmanager
def growing(path: Path) -> Iterator[Sink]:
    """Give what writes to a file that takes long: nobody else may write it meanwhile, and the next takes its place.

    The file has its name once this is left; left by an exception, it leaves the older file or none. `check` of what is
    given tells a full disk before much more is written.
    """
    part = part_of(path)
    with writing(path):
        sink = Sink(part)
    try:
        yield sink
        with writing(path):
            sink.synchronise()
            part.replace(path)
            synchronise(path.absolute().parent)
    except BaseException as error:
        _discard(part)
        if sink.failure is not None and isinstance(error, Exception) and not isinstance(error, ScreeningError):
            raise ResourceError(write_failure(path, sink.failure)) from error
        raise
    finally:
        _close(sink)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write a file, or in a folder, into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise ResourceError(write_failure(path, error)) from error


def write_failure(path: Path, error: OSError) -> str:
    """Say why a file could not be written, and what to do."""
    left = f"; {path} is as it was before" if path.is_file() else ""
    if error.errno in _FULL:
        return f"{path}: the disk is full or a size limit was reached{left}; free some space and run it again"
    why = error.strerror or error
    return f"{path}: cannot be written ({why}){left}; check the folder and its permissions"


def put(file: io.FileIO, block: bytes | memoryview) -> None:
    """Write all of a block to an unbuffered file."""
    left = memoryview(block)
    while left:
        left = left[file.write(left) :]


def synchronise(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def require_folder(output: str | os.PathLike[str]) -> None:
    """Refuse to write where there is no folder."""
    target = Path(output)
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target}: there is no folder {target.parent}; make it first")


def require_place(output: str | os.PathLike[str]) -> None:
    """Refuse to write a file where there is no folder for it, or where a folder is."""
    require_folder(output)
    if Path(output).is_dir():
        raise InputError(f"{output}: a folder, expected the name of a file to write")


def require_room(folder: Path, size: int) -> None:
    """Refuse a folder where a file of so many bytes cannot be written, by writing one that has no name."""
    with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(os.urandom(size))
        file.flush()
        os.fsync(file.fileno())


# What is to stay is on the disk by now, and what failed first is what there is to tell.


def _close(file: io.RawIOBase) -> None:
    with contextlib.suppress(OSError):
        file.close()


def _discard(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)
