"""Tables on disk that take long to make: there when whole, made a block at a time, by several runs at once if need be.

Blocks lie in a folder beside the table until all are there, each under its name when it is whole. So a run that was
stopped goes on from its last block, and of two that make the same table each takes what the other has. What is not
whole has a name that is used once. The folder goes with whoever finds the table there.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from screening.errors import FileFormatError, ResourceError

Array = npt.NDArray[np.generic]
Int64 = npt.NDArray[np.int64]


def made_table(path: Path, ends: Int64, columns: int, dtype: npt.DTypeLike, make: Callable[[int], Array]) -> Path:
    """Give the file of a table of so many columns, made if it is not there; `make(k)` gives rows ends[k] to ends[k+1].

    Whoever makes a table of this name must make the same.
    """
    blocks = path.with_name(f"{path.stem}.blocks")
    names = [blocks / f"{start}-{end}.npy" for start, end in pairwise(ends.tolist())]
    try:
        for k, name in enumerate(names):
            if path.exists():
                break
            blocks.mkdir(parents=True, exist_ok=True)
            if not name.exists():
                _put(name, blocks, partial(np.save, arr=np.asarray(make(k), dtype)))
        if not path.exists():
            blocks.mkdir(parents=True, exist_ok=True)
            _put(path, blocks, partial(_join, names=names, shape=(int(ends[-1]), columns), dtype=dtype))
    except OSError as error:
        # Another run was faster, and took the blocks away.
        if not path.exists():
            raise ResourceError(f"{path}: cannot be written ({error.strerror or error}); check the disk") from error
    shutil.rmtree(blocks, ignore_errors=True)
    return path


def mapped(path: Path, rows: int) -> Array:
    """Map a table of so many rows, without reading it."""
    try:
        table = _opened(path)
    except OSError as error:
        words = f"{path}: cannot be read ({error.strerror or error}); workers need it under one path"
        raise FileFormatError(words) from error
    if len(table) != rows:
        raise FileFormatError(f"{path}: has {len(table)} rows, expected {rows}; delete it")
    return np.asarray(table)


def _join(file: IO[bytes], names: Sequence[Path], shape: tuple[int, int], dtype: npt.DTypeLike) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for name in names:
        file.write(np.ascontiguousarray(_opened(name)).data)


def _put(path: Path, folder: Path, write: Callable[[IO[bytes]], None]) -> None:
    part = folder / f"{uuid.uuid4().hex}.part"
    try:
        with part.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _opened(path: Path) -> Array:
    try:
        found: Array = np.load(path, mmap_mode="r")
    except ValueError as error:
        raise FileFormatError(f"{path}: holds no table ({error}); delete it") from error
    return found
