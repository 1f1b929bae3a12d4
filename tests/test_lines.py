"""Files of JSON lines: whatever a killed writer left, no whole line is lost, and none takes another with it."""

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from full_disks import FULL, full, limited
from hypothesis import given
from hypothesis import strategies as st

from screening.errors import InputError, ResourceError
from screening.files.lines import append_line, lines_of
from screening.runs import provenance
from screening.runs.slurm import asked_jobs
from screening.training.journal import Journal

FACTS = {"event": "start", "number": 1.5, "text": "Ångström\n", "more": [None, True]}


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    assert lines_of(path) == []
    sizes = [append_line(path, FACTS | {"k": k}) for k in range(3)]
    assert lines_of(path) == [FACTS | {"k": k} for k in range(3)]
    assert sizes == [len(path.read_bytes()) * k // 3 for k in (1, 2, 3)]
    assert path.read_bytes().count(b"\n") == 3


@given(cut=st.integers(0, 200))
def test_half_a_line_is_passed_over_and_ended(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("lines") / "f.jsonl"
    for k in range(3):
        append_line(path, FACTS | {"k": k})
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    kept = [line for line in lines_of(path) if line]
    # A line whose end alone is missing is whole.
    assert [line["k"] for line in kept] == list(range(whole[: cut + 1].count(b"\n")))
    append_line(path, {"k": "next"})
    assert [line for line in lines_of(path) if line] == [*kept, {"k": "next"}]


def test_what_is_no_object_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'{"a": 1}\n\n[1]\n' + bytes(20) + b'\n{"a": \xff}\n{"a": 2}\n{"a":')
    assert lines_of(path) == [{"a": 1}, None, None, None, None, {"a": 2}, None]
    assert lines_of(path, ended=True) == [{"a": 1}, None, None, None, None, {"a": 2}]


def test_a_number_that_json_has_not_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        append_line(tmp_path / "f.jsonl", {"loss": float("nan")})
    assert not (tmp_path / "f.jsonl").exists()


def test_lines_of_several_writers_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"

    def write(who: int) -> None:
        for k in range(50):
            append_line(path, {"who": who, "k": k, "text": "x" * 3000})

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [json.loads(line) for line in path.read_bytes().splitlines() if line]
    assert [[line["k"] for line in found if line["who"] == who] for who in range(4)] == [list(range(50))] * 4


def note_provenance(folder: Path) -> None:
    provenance.note(folder, "start", host="here")


def ask_for_a_job(folder: Path) -> None:
    asked_jobs.note(folder, "submitting", tag="a")


def write_journal(folder: Path) -> None:
    Journal(folder / "metrics.jsonl", valid_bytes=0, say=print).write({"epoch": 1})


WRITERS = [note_provenance, ask_for_a_job, write_journal]


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], call: str
) -> None:
    with monkeypatch.context() as patch, limited(10 if call == "write" else 1 << 30):
        if call == "fsync":
            patch.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match=rf"\.jsonl: {FULL}.*; free some space and run it again"):
            write(tmp_path)
    write(tmp_path)
    (file,) = tmp_path.iterdir()
    assert lines_of(file)[-1]


@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_that_is_not_there_is_told(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(ResourceError, match=r"\.jsonl: cannot be written \(No such file or directory\)"):
        write(tmp_path / "none")


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.EIO, ResourceError, rf"cannot be read \({os.strerror(errno.EIO)}\); .*try again"),
        (errno.ENAMETOOLONG, InputError, rf"cannot be read \({os.strerror(errno.ENAMETOOLONG)}\); check its name"),
        (errno.EACCES, InputError, "may not be read; .* belongs to"),
    ],
)
def test_lines_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], said: str
) -> None:
    def failing(_: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(kind, match=rf"slurm\.jsonl: {said}"):
        asked_jobs.tags_of(tmp_path)
    assert provenance.last_note(tmp_path, "start") == {}
