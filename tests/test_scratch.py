"""Copies of the packed input on a node's own disk: one for all, whole, and removed when nobody uses them."""

import os
import threading
from pathlib import Path

import pytest
import screens

from screening.errors import InputError, ResourceError
from screening.runs import scratch
from screening.runs.part import Part
from screening.runs.scratch import scratch_folder, staged
from screening.runs.worker import Engine


def copies(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.h5"))


def test_all_use_one_copy_and_another_file_has_another(tmp_path: Path) -> None:
    source = tmp_path / "c.h5"
    source.write_bytes(b"crystals" * 1000)
    first, second = staged(source, tmp_path), staged(source, tmp_path)
    assert first.path == second.path
    assert first.path.read_bytes() == source.read_bytes()
    assert first.path.parent.stat().st_mode & 0o777 == 0o700
    source.write_bytes(b"others" * 1000)
    third = staged(source, tmp_path)
    assert third.path.read_bytes() == source.read_bytes()
    assert copies(tmp_path) == sorted([first.path, third.path]), "what somebody uses stays"
    for one in (first, second, third):
        one.release()


def test_what_nobody_uses_any_more_goes_with_the_next_to_come(tmp_path: Path) -> None:
    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    staged(old, tmp_path).release()
    (copies(tmp_path)[0].parent / "left.part").write_bytes(b"half")
    with_new = staged(new, tmp_path)
    assert copies(tmp_path) == [with_new.path]
    assert not list(tmp_path.glob("*/*.part"))
    with_new.release()


def test_many_at_once_copy_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "c.h5"
    source.write_bytes(os.urandom(1 << 20))
    counted: list[Path] = []
    before = scratch._copied

    def copied(source: Path, copy: Path, size: int) -> None:
        counted.append(copy)
        before(source, copy, size)

    monkeypatch.setattr(scratch, "_copied", copied)
    found: list[scratch.Staged] = []
    threads = [threading.Thread(target=lambda: found.append(staged(source, tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(counted)) == (8, 1)
    for one in found:
        one.release()


def test_a_disk_that_is_too_small_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "c.h5"
    source.write_bytes(b"crystals")
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 3})())
    with pytest.raises(ResourceError, match=r"cannot be copied there \(0\.0 GB are free.*set cluster.scratch"):
        staged(source, tmp_path)
    assert copies(tmp_path) == []


def test_a_folder_that_somebody_else_laid_there_is_not_used(tmp_path: Path) -> None:
    source = tmp_path / "c.h5"
    source.write_bytes(b"crystals")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"{scratch.PREFIX}{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResourceError, match="belongs to somebody else"):
        staged(source, tmp_path)


def test_variables_of_the_node_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAST", str(tmp_path))
    assert scratch_folder("$FAST/mine") == tmp_path / "mine"
    assert (tmp_path / "mine").is_dir()
    for wrong in ("$NOT_SET_HERE/x", "relative"):
        with pytest.raises(InputError, match="expected a full path of variables that are set"):
            scratch_folder(wrong)


def test_a_worker_reads_the_copy(tmp_path: Path) -> None:
    packed = screens.packed_file(tmp_path / "c.h5", 20)
    model = screens.saved_model(tmp_path / "m.safetensors")
    options = {"load": screens.arithmetic, "stage": True, "scratch": str(tmp_path / "fast")}
    job = screens.job_of(tmp_path / "shards", packed, model, **options)
    engine = Engine(job)
    assert engine.packed.path == copies(tmp_path / "fast")[0]
    engine.close()


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_a_part_is_one_of_so_many(text: str) -> None:
    with pytest.raises(InputError, match="expected K/N with K from 1 to N, such as 3/8"):
        Part.of(text)


@pytest.mark.parametrize(("total", "count"), [(0, 3), (2, 3), (10, 3), (1000, 7)])
def test_parts_hold_every_row_once(total: int, count: int) -> None:
    rows = [row for k in range(1, count + 1) for row in Part(k, count).rows(total)]
    assert rows == list(range(total))
