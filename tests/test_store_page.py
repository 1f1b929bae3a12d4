"""docs/store.md says what the code does: its tables, its lines of h5py."""

import contextlib
import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from made import made_crystals
from shards import predicted, write_run

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Reason, Rejection
from screening.store.merge import merge
from screening.store.record import RESULTS, SHARDS
from screening.store.schema import (
    COLUMNS,
    FAILURE_COLUMNS,
    NOTE_COLUMNS,
    RELAXATION_COLUMNS,
    RELAXED_COLUMNS,
    Column,
    Status,
)
from screening.store.shard import shard_ranges

CRYSTALS = Crystals.of(made_crystals(50, seed=6))
GAP = predicted(CRYSTALS, 0, 50, failed={7: ""}).values["band_gap"]
TYPES = {"<i8": "i64", "<u8": "u64", "<u4": "u32", "|u1": "u8", "<f4": "f32", "<f8": "f64", "S": "S"}


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).resolve().parent.parent / "docs/store.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a merged run of the name that the page uses."""
    made = tmp_path_factory.mktemp("page")
    refused = [Rejection("x", "x.cif", Reason.EMPTY, "x: holds no atoms")]
    write_run(made / "RUN", CRYSTALS, (20,), rejections=refused, failed={7: "7: NaN"})
    merge(made / "RUN")
    return made


def rows_after(page: str, mark: str) -> list[list[str]]:
    """Cells of the table below a mark, without its head."""
    lines = page.split(f"<!-- {mark}:")[1].splitlines()[1:]
    table = lines[: next(k for k, line in enumerate(lines) if not line.startswith("|"))]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]
    return [[first.strip("`"), *others] for first, *others in cells]


def code_after(page: str, mark: str) -> str:
    return page.split(f"<!-- {mark}:")[1].split("```python\n")[1].split("```")[0]


def printed(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(folder)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {})
    return said.getvalue().splitlines()


def shown(column: Column, first: str) -> list[str]:
    shape = ", ".join([first, *map(str, column.shape)]) + ("" if column.shape else ",")
    return [column.name, TYPES[column.dtype], f"({shape})", column.unit, column.meaning]


def test_the_table_of_columns_is_the_schema(page: str) -> None:
    rows = rows_after(page, "columns")
    assert rows[: len(COLUMNS)] == [shown(column, "n") for column in COLUMNS]
    assert [row[0] for row in rows[len(COLUMNS) :]] == ["targets/<name>", "embedding"]


def test_the_table_of_failures_is_the_schema(page: str) -> None:
    firsts = ("m", "m", "bytes", "m + 1")
    expected = [shown(column, first) for column, first in zip(FAILURE_COLUMNS, firsts, strict=True)]
    assert rows_after(page, "failures") == expected


def test_the_tables_of_relaxations_are_the_schema(page: str) -> None:
    assert rows_after(page, "relaxations") == [shown(column, "n") for column in RELAXATION_COLUMNS]
    firsts = ("r", "r + 1", "r", "atoms")
    expected = [shown(column, first) for column, first in zip(RELAXED_COLUMNS, firsts, strict=True)]
    assert rows_after(page, "relaxed") == expected


def test_the_table_of_notes_is_the_schema(page: str) -> None:
    assert rows_after(page, "notes") == [shown(column, "s") for column in NOTE_COLUMNS]


def test_the_table_of_attributes_is_what_files_have(page: str, folder: Path) -> None:
    rows = rows_after(page, "attributes")
    shard = shard_ranges(folder / "RUN" / SHARDS)[0][2]
    for path, kind in ((folder / "RUN" / RESULTS, "results"), (shard, "shard")):
        with h5py.File(path) as file:
            assert sorted(file.attrs) == sorted(row[0] for row in rows if row[1] in ("both", kind))
    assert {status.word for status in Status} <= {row[0] for row in rows}


def test_columns_in_files_are_those_of_the_page(page: str, folder: Path) -> None:
    shard = shard_ranges(folder / "RUN" / SHARDS)[0][2]
    for path in (folder / "RUN" / RESULTS, shard):
        with h5py.File(path) as file:
            for name, dtype, shape, unit, meaning in rows_after(page, "columns") + rows_after(page, "failures"):
                if name == "embedding":
                    continue
                column = file[name.replace("<name>", "band_gap")]
                kind = column.dtype.kind if column.dtype.kind == "S" else np.dtype(column.dtype.str).str
                assert TYPES[kind] == dtype, name
                assert column.ndim == shape.count(",") + (not shape.endswith(",)")), name
                assert column.attrs["unit"].decode() == (unit if unit != "the target's" else "eV"), name
                if path.name == RESULTS:
                    assert column.attrs["meaning"].decode() == meaning, name


def test_five_lines_read_it(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = code_after(page, "five lines")
    assert len([line for line in code.splitlines() if line]) == 5
    lines = printed(code, folder, monkeypatch)
    good = np.flatnonzero(GAP > 1.5)
    assert lines[-1] == "eV"
    assert len(lines) == len(good) + 1
    assert all(f"'{CRYSTALS.ids[row]}'" in line for row, line in zip(good.tolist(), lines[:-1], strict=True))


def test_shards_can_be_read_while_they_are_written(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "RUN/shards/rows-000000000050-000000000060.h5.01234567.part").touch()
    lines = printed(code_after(page, "while written"), folder, monkeypatch)
    assert [line.split()[:2] for line in lines] == [
        ["rows-000000000000-000000000020.h5", "20"],
        ["rows-000000000020-000000000050.h5", "30"],
    ]
