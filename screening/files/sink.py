"""A file for HDF5 to write to whose failures the library never sees.

HDF5 cannot give up on a file: after a failed write it tries again when the file is closed and when the process ends,
and crashes there (seen with 2.0 on a full disk). This file accepts everything, remembers the first failure for the
caller to raise, and keeps what came after it in memory, so that the library reads back what it wrote and can close.
"""

import contextlib
import fcntl
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from screening.errors import ResourceError
from screening.locking import is_shared

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Sink(io.RawIOBase):
    """A new file, locked against other writers, with the methods that h5py asks of a file object."""

    def __init__(self, path: Path) -> None:
        self._handle = -1
        self.path = path
        self.failure: OSError | None = None
        self._place = 0
        self._kept: list[tuple[int, bytes]] = []
        self._handle = _opened_alone(path)
        os.ftruncate(self._handle, 0)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place counted from the start or the end."""
        self._place = offset + (os.fstat(self._handle).st_size if whence == os.SEEK_END else 0)
        return self._place

    def write(self, block: "WriteableBuffer") -> int:
        """Write all of the block at this place and move behind it, or remember why that failed."""
        view = memoryview(block).cast("B")
        if self.failure is None:
            try:
                written = 0
                while written < len(view):
                    written += os.pwrite(self._handle, view[written:], self._place + written)
            except OSError as error:
                self.failure = error
        if self.failure is not None:
            self._kept.append((self._place, bytes(view)))
        self._place += len(view)
        return len(view)

    def readinto(self, block: "WriteableBuffer") -> int:
        """Read what was written, on disk or not; what never was is zero."""
        view = memoryview(block).cast("B")
        try:
            found = os.pread(self._handle, len(view), self._place)
        except OSError as error:
            self.failure = self.failure or error
            raise
        view[:] = found + bytes(len(view) - len(found))
        for start, kept in self._kept:
            low, high = max(start, self._place), min(start + len(kept), self._place + len(view))
            if low < high:
                view[low - self._place : high - self._place] = kept[low - start : high - start]
        self._place += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file."""
        size = self._place if size is None else size
        if self.failure is None:
            try:
                os.ftruncate(self._handle, size)
            except OSError as error:
                self.failure = error
        return size

    def flush(self) -> None:
        """Do nothing: nothing is buffered here."""

    def synchronise(self) -> None:
        """Wait until everything is on the disk, or raise the first failure."""
        self.check()
        os.fsync(self._handle)

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Close the file and give up its lock."""
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            os.close(handle)
        super().close()


def part_of(path: Path) -> Path:
    """Name what a file is to grow under: its own name with `.part`, so that the next writer replaces what was left.

    Where nothing locks that name against a second writer, it carries a random part besides. Nor is a lock relied on
    where machines share files: Lustre and NFS can be mounted so that each grants it for itself.
    """
    folder = path.absolute().parent
    own = "" if _can_lock(folder) and not is_shared(folder) else f".{os.urandom(4).hex()}"
    return path.with_name(f"{path.name}{own}.part")


def sweep_parts_of(path: Path) -> int:
    """Remove what dead writers of a file left under random names, and tell how many files; nobody may be writing it."""
    part = re.compile(re.escape(path.name) + r"\.[0-9a-f]{8}\.part")
    left = [other for other in path.absolute().parent.iterdir() if part.fullmatch(other.name)]
    for other in left:
        other.unlink(missing_ok=True)
    return len(left)


def _can_lock(folder: Path) -> bool:
    if _locks_are_off():
        return False
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return True  # what is wrong shows when the file is opened
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(handle)
    return True


def _locks_are_off() -> bool:
    return os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0")


def _opened_alone(path: Path) -> int:
    """Open a file for writing, made if need be, that no other writer has open."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(handle, path)
            # The writer that held it may have renamed or removed it meanwhile; then this is not that file any more.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    if _locks_are_off():
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ResourceError(
            f"{path}: another process is writing this file; wait for it or choose another name. If there is none, the "
            "file system confuses locks: set HDF5_USE_FILE_LOCKING=FALSE"
        ) from error
    except OSError:
        # A file system without locks: nothing protects from two writers there.
        return
