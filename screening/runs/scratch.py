"""Fast disks of nodes: where they are, and the packed input copied to one, so that a run reads a shared disk once.

All workers of a node use one copy, and each holds a lock on it. That is a lock of a local file system, which dies with
its holder: a copy that nobody holds is left over, and the next to come removes it.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from screening.errors import InputError, ResourceError
from screening.files.whole import write_whole

PREFIX = "screening-input-"
BLOCK = 16 << 20


def scratch_folder(named: str | None) -> Path:
    """The folder for what a node keeps to itself, made if need be: as named, its variables filled in, or TMPDIR."""
    if named is None:
        return Path(tempfile.gettempdir())
    folder = Path(os.path.expandvars(named)).expanduser()
    if "$" in str(folder) or not folder.is_absolute():
        raise InputError(f"cluster.scratch is {named!r}, here {folder}: expected a full path of variables that are set")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be made on this node ({error.strerror or error}); set cluster.scratch"
        ) from error
    return folder


@dataclass(frozen=True, slots=True)
class Staged:
    """A copy of a file on this node; it may be used until `release`."""

    path: Path
    _lock: IO[bytes]

    def release(self) -> None:
        """Use it no more."""
        self._lock.close()

    def drop(self) -> None:
        """Use it no more, and see that nobody does who comes later: it is bad."""
        with contextlib.suppress(OSError), _one_at_a_time(self.path.parent):
            # Another copy may have its name by now.
            if os.path.samestat(os.fstat(self._lock.fileno()), self.path.stat()):
                self.path.unlink()
        self.release()


def staged(source: Path, scratch: Path) -> Staged:
    """Copy a file to a folder of this node, unless another process has; remove copies of other files nobody uses."""
    status = source.stat()
    folder = _private(scratch / f"{PREFIX}{os.getuid()}")
    copy = folder / f"{status.st_dev:x}-{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}.h5"
    try:
        with _one_at_a_time(folder):
            _sweep(folder, copy)
            if not copy.exists() or copy.stat().st_size != status.st_size:
                _copied(source, copy, status.st_size)
            lock = copy.open("rb")
            fcntl.flock(lock, fcntl.LOCK_SH)
            return Staged(copy, lock)
    except (OSError, ResourceError) as error:
        why = error.strerror or error if isinstance(error, OSError) else error
        raise ResourceError(
            f"{copy}: {source} cannot be copied there ({why}); set cluster.scratch to another folder, or cluster.stage "
            "to false"
        ) from error


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _private(folder: Path) -> Path:
    """A folder of this user alone; what somebody else laid there, a link perhaps, is not used."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ResourceError(f"{folder}: belongs to somebody else; set cluster.scratch to a folder of your own")
    return folder


def _copied(source: Path, copy: Path, size: int) -> None:
    free = shutil.disk_usage(copy.parent).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{free / 1e9:.1f} GB are free, {size / 1e9:.1f} GB needed")
    with source.open("rb") as read:
        # On the disk before it has its name, which a node that loses power would keep without the content.
        write_whole(copy, iter(partial(read.read, BLOCK), b""))


def _sweep(folder: Path, ours: Path) -> None:
    """Remove what killed processes left, and copies that nobody uses."""
    for part in folder.glob("*.part"):
        part.unlink()
    for copy in folder.glob("*.h5"):
        if copy == ours:
            continue
        with copy.open("rb") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            copy.unlink()
