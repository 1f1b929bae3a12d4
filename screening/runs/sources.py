"""What a run was packed from, told apart by names, sizes and times of change, so that nothing is packed twice."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def described(inputs: Sequence[Path], *, without: Sequence[Path]) -> list[dict[str, Any]]:
    """Describe each input: its files, their bytes, and a hash of their names, sizes and times of change.

    Files and folders `without` which it is, the run's own, do not count.
    """
    ours = {path.resolve() for path in without}
    return [_described(path, ours) for path in inputs]


def difference(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> str:
    """Say in words how inputs differ from what they were; empty when they do not."""
    for there, here in zip(before, now, strict=False):
        if there["path"] != here["path"]:
            return f"there {there['path']}, now {here['path']}"
        if there != here:
            old, new = _size(there), _size(here)
            if old == new:
                return f"{here['path']}: there and now {new}, but names, sizes or times of change are others"
            return f"{here['path']}: there {old}, now {new}"
    if len(before) != len(now):
        return f"there {len(before)} inputs, now {len(now)}"
    return ""


def _described(path: Path, without: set[Path]) -> dict[str, Any]:
    digest, files, size = hashlib.sha256(), 0, 0
    for file in _files(path, without):
        status = file.stat()
        name = os.fsencode(file.relative_to(path) if file != path else file.name)
        digest.update(name + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        files, size = files + 1, size + status.st_size
    return {"path": str(path.resolve()), "files": files, "bytes": size, "hash": digest.hexdigest()}


def _files(path: Path, without: set[Path]) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        place = Path(folder)
        folders[:] = sorted(name for name in folders if (place / name).resolve() not in without)
        # Links to nothing are refused one by one when they are read.
        here = (place / name for name in sorted(names))
        yield from (file for file in here if file.exists() and file.resolve() not in without)


def _size(source: Mapping[str, Any]) -> str:
    files = "1 file" if source["files"] == 1 else f"{source['files']:,} files"
    return f"{files} of {source['bytes']:,} bytes"
