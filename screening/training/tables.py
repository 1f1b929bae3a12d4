"""Tables on disk that take long to make: there when whole, made a block at a time, by several runs at once if need be.

Blocks lie in a folder beside the table until all are there, each under its name when it is whole. So a run that was
stopped goes on from its last block, and of two that make the same table each takes what the other has. What is not
whole has a name that is used once. The folder goes with whoever finds the table there.
"""

import io
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from screening.arrays import Int64
from screening.errors import FileFormatError, ResourceError
from screening.files.sink import sweep_parts_of
from screening.files.whole import write_whole, writing

Array = npt.NDArray[np.generic]


def made_table(path: Path, ends: Int64, columns: int, dtype: npt.DTypeLike, make: Callable[[int], Array]) -> Path:
    """Give the file of a table of so many columns, made if it is not there; `make(k)` gives rows ends[k] to ends[k+1].

    Whoever makes a table of this name must make the same.
    """
    blocks = path.with_name(f"{path.stem}.blocks")
    names = [blocks / f"{start}-{end}.npy" for start, end in pairwise(ends.tolist())]
    try:
        with writing(path):
            for k, name in enumerate(names):
                if path.exists():
                    break
                blocks.mkdir(parents=True, exist_ok=True)
                if not name.exists():
                    rows = np.ascontiguousarray(make(k), dtype)
                    write_whole(name, _npy(rows.shape, rows.dtype, [rows]))
            if not path.exists():
                blocks.mkdir(parents=True, exist_ok=True)
                write_whole(path, _npy((int(ends[-1]), columns), np.dtype(dtype), map(_opened, names)))
    except ResourceError:
        # Another run was faster, and took the blocks away.
        if not path.exists():
            raise
    shutil.rmtree(blocks, ignore_errors=True)
    sweep_parts_of(path)
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


def _npy(shape: tuple[int, ...], dtype: np.dtype[Any], parts: Iterable[Array]) -> Iterator[bytes | memoryview]:
    """The bytes of a table whose rows are those of its parts, as NumPy's own files have them."""
    header = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    yield header.getvalue()
    for part in parts:
        yield np.ascontiguousarray(part).reshape(-1).view(np.uint8).data


def _opened(path: Path) -> Array:
    try:
        found: Array = np.load(path, mmap_mode="r")
    except ValueError as error:
        raise FileFormatError(f"{path}: holds no table ({error}); delete it") from error
    return found
