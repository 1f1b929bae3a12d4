"""run.json: what a run folder says of itself, and what is said of one that is none."""

import json
from pathlib import Path

import pytest
from shards import STAMP

from screening.errors import FileFormatError, InputError, ResourceError
from screening.store.record import RUN_FILE, read_record, record_of, write_record


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    record = record_of(tmp_path, STAMP, tmp_path / "input.h5", 1000, options={"a": 1}, card={"title": "é"})
    assert write_record(record) == tmp_path / RUN_FILE
    found = read_record(tmp_path)
    assert (found.stamp, found.rows, found.content["options"]) == (STAMP, 1000, {"a": 1})
    assert found == record
    assert [path.name for path in tmp_path.iterdir()] == [RUN_FILE]


def test_an_input_in_the_folder_moves_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = tmp_path / "run", tmp_path / "other.h5"
    run.mkdir()
    assert record_of(run, STAMP, run / "input.h5", 1).input == "input.h5"
    assert record_of(run, STAMP, other, 1).packed == other
    monkeypatch.chdir(tmp_path)
    write_record(record_of(Path("run"), STAMP, Path("run/input.h5"), 1))
    assert read_record(run.rename(tmp_path / "moved")).packed == tmp_path / "moved" / "input.h5"
    assert record_of(Path("moved"), STAMP, Path("other.h5"), 1).packed == other


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run\.json"):
        read_record(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        read_record(tmp_path / "none")
    with pytest.raises(ResourceError, match="cannot be written"):
        write_record(record_of(tmp_path / "none", STAMP, tmp_path / "c.h5", 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "format 'other', expected 'screening.run'"),
        ({"schema_version": 7}, "schema version 7, this release reads 1 and 2;"),
        ({"targets": [{"name": "x", "unit": "", "kind": "odd"}]}, "kind is 'odd'"),
        ({"targets": 3}, "is not what a run writes"),
        ({"rows": None}, "is not what a run writes"),
    ],
)
def test_records_that_were_edited(tmp_path: Path, change: dict[str, object], said: str) -> None:
    content = dict(record_of(tmp_path, STAMP, tmp_path / "input.h5", 10).content)
    (tmp_path / RUN_FILE).write_text(json.dumps(content | change), encoding="utf-8")
    with pytest.raises(FileFormatError, match=said):
        read_record(tmp_path)
    for text in ("{", "[]", '{"format": "screening.run"}'):
        (tmp_path / RUN_FILE).write_text(text, encoding="utf-8")
        with pytest.raises(FileFormatError, match=RUN_FILE):
            read_record(tmp_path)
