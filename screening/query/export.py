"""Writes what a question found: a table (CSV, Parquet, JSON lines) or crystals (extended XYZ, CIF, POSCAR).

Crystals carry their predictions as labels, except in a POSCAR. Everything appears whole or not at all.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from screening.errors import InputError
from screening.files.whole import require_place, write_whole
from screening.query.query import Query
from screening.store.record import PROVENANCE, SLURM_JOBS

if TYPE_CHECKING:
    import polars

CRYSTALS = ("extxyz", "cif", "poscar")
SUFFIXES = MappingProxyType(
    {".csv": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".extxyz": "extxyz", ".xyz": "extxyz"}
)


def kind_of(output: str) -> str:
    """Tell from an output's name what to write; a name that ends in `/` or has no suffix is a folder of CIF files."""
    path = Path(output)
    name = path.name.lower()
    compressed = name.removesuffix(".gz") if name.endswith((".extxyz.gz", ".xyz.gz")) else name
    kind = SUFFIXES.get(Path(compressed).suffix)
    if output.endswith("/") or (kind is None and (path.is_dir() or not path.suffix)):
        return "cif"
    if kind is None:
        raise InputError(
            f"{output}: its name does not tell what to write; end it in {', '.join(SUFFIXES)}, or in / for a folder of "
            "CIF files"
        )
    return kind


def export(query: Query, output: str, *, to: str | None = None) -> int:
    """Write what a question finds as `to` or else the output's name says, and tell how many rows there were."""
    from screening.crystals.write import write

    kind, path = to or kind_of(output), Path(output)
    if kind not in (*CRYSTALS, *TABLE_WRITERS):
        raise InputError(f"cannot write {kind!r}; choose one of {', '.join((*TABLE_WRITERS, *CRYSTALS))}")
    if any(path.is_file() and path.samefile(own) for own in _own_lines(query)):
        raise InputError(f"{path}: belongs to the run itself; choose another name for the output")
    if kind in CRYSTALS:
        return write(query.crystals(), path, format=kind)
    require_place(path)
    counted = _Counted(query.frames())
    write_whole(path, TABLE_WRITERS[kind](counted))
    return counted.rows


def _own_lines(query: Query) -> list[Path]:
    """Files that are of the run, under names that could be written."""
    lines = (query.results.record.folder / name for name in (PROVENANCE, SLURM_JOBS))
    return [path for path in lines if path.exists()]


class _Counted:
    """Frames, counted as they pass."""

    def __init__(self, frames: "Iterator[polars.DataFrame]") -> None:
        self.rows, self._frames = 0, frames

    def __iter__(self) -> "Iterator[polars.DataFrame]":
        for frame in self._frames:
            self.rows += len(frame)
            yield frame


def _csv(frames: _Counted) -> Iterator[bytes]:
    for k, frame in enumerate(frames):
        yield frame.write_csv(include_header=k == 0).encode()


def _jsonl(frames: _Counted) -> Iterator[bytes]:
    return (frame.write_ndjson().encode() for frame in frames)


def _parquet(frames: _Counted) -> Iterator[bytes]:
    import polars

    # The one kind that is made in memory: its table of contents comes last.
    content = io.BytesIO()
    polars.concat(list(frames)).write_parquet(content)
    yield content.getvalue()


TABLE_WRITERS: Mapping[str, Callable[[_Counted], Iterator[bytes]]] = MappingProxyType(
    {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
)
