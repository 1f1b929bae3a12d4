"""HDF5 files: written whole, and read so that what is wrong with one is told in our words."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py

from screening.errors import FileFormatError, InputError, ResourceError, is_passing, refusal
from screening.files.sink import Sink
from screening.files.whole import growing


@contextlib.contextmanager
def whole_hdf5(path: Path) -> Iterator[tuple[h5py.File, Sink]]:
    """Give a file to write to, and the sink below it, whose `check` tells a full disk before much more is written.

    Left by an exception, it leaves the older file or none.
    """
    # From 1.10 on (2016), HDF5 keeps checksums of its own structures too. Chunks are written whole and once, so that a
    # cache would only hold eight megabytes of them for every column.
    with growing(path) as sink, h5py.File(sink, "w", libver=("v110", "v110"), rdcc_nbytes=0) as file:
        yield file, sink


# Whatever a damaged or foreign file makes h5py raise, or what is made of its content.
_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, InputError)


@contextlib.contextmanager
def reading(path: Path, what: str, cure: str, verb: str = "read") -> Iterator[None]:
    """Turn whatever is raised while a file is opened or read as `what` into an error that names it and the cure.

    Trouble of the machine or its network that passes is told from damage, against which alone the `cure` helps.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: no such file; check its name, and whether it was moved") from error
    except PermissionError as error:
        raise InputError(refusal(path)) from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: a folder, expected a file") from error
    except _UNREADABLE as error:
        if isinstance(error, OSError) and "unable to lock file" in str(error):
            advice = "another program has it open for writing; wait for it, or set HDF5_USE_FILE_LOCKING=FALSE"
            raise ResourceError(f"{path}: {advice}") from error
        if is_passing(error):
            raise ResourceError(
                f"{path}: cannot be read now ({error}); the file itself may be well: try again"
            ) from error
        raise FileFormatError(f"{path}: cannot {verb} it as {what} ({error}); {cure}") from error
