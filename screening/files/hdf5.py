"""HDF5 files, written whole."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py

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
