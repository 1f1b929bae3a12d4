"""The errors a user can meet, each with the exit code the command line ends with.

A crystal that cannot be used is not an error: it is a `Rejection` (crystals/crystal.py).
"""

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

# Troubles of the machine or its network, of which a file that is being read is innocent.
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ScreeningError(Exception):
    """What went wrong with which thing, what was expected, and what to do about it."""

    exit_code = 1


class InputError(ScreeningError):
    """The caller named something that does not exist or passed arguments that cannot be used."""

    exit_code = 2


class FileFormatError(ScreeningError):
    """A file is damaged, incomplete, or of another format than its name says."""

    exit_code = 3


class ResourceError(ScreeningError):
    """Memory, disk or a device is missing or too small for the request."""

    exit_code = 4


class NativeError(ScreeningError):
    """The native core is missing, or was built without what the call needs."""

    exit_code = 5


class UnfinishedError(ScreeningError):
    """A run was asked to stop before its end; the same command goes on with it. The code is EX_TEMPFAIL of sysexits."""

    exit_code = 75


def is_passing(error: BaseException) -> bool:
    """Tell trouble of the machine or its network from damage of the file that was read when it came.

    HDF5 names the cause in its message alone, whatever h5py then raises.
    """
    number = getattr(error, "errno", None)
    named = re.search(r"\berrno = (\d+)", str(error)) if number is None else None
    return (int(named[1]) if named else number) in _PASSING


@contextlib.contextmanager
def permitted(path: Path) -> Iterator[None]:
    """Turn a refusal to look at a path, or below it, into an error that says whose it is and what to do."""
    try:
        yield
    except PermissionError as error:
        named = error.filename
        raise InputError(refusal(Path(named) if isinstance(named, str) else path)) from error


def refusal(path: Path) -> str:
    """Say that this user may not look at a path: who may is the owner of it, or of the folder that hides it."""
    shown = next(filter(_is_seen, (path, *path.absolute().parents)))
    try:
        owner = shown.owner()
    except KeyError:
        owner = f"user {shown.stat().st_uid}"
    cure = f"can open it with `chmod g+rX {shown}`, and all that is in it with -R"
    return f"{path}: may not be read; {shown} belongs to {owner}, who {cure}"


def _is_seen(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True
