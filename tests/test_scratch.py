"""Copies of the packed input on a node's own disk: one for all, whole, and removed when nobody uses them."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import screens

from screening.crystals.packed import PackedCrystals
from screening.errors import FileFormatError, InputError, ResourceError
from screening.runs import row_reader, scratch
from screening.runs.part import Part
from screening.runs.row_reader import RowReader
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


def test_a_copy_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "c.h5"
    source.write_bytes(b"crystals")
    synchronised: list[tuple[int, int]] = []
    before = os.fsync

    def fsync(handle: int) -> None:
        synchronised.append((os.fstat(handle).st_size, len(copies(tmp_path))))
        before(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    staged(source, tmp_path).release()
    assert synchronised[0] == (8, 0)


def test_a_copy_of_another_size_is_made_again(tmp_path: Path) -> None:
    source = tmp_path / "c.h5"
    source.write_bytes(b"crystals")
    staged(source, tmp_path).release()
    os.truncate(copies(tmp_path)[0], 3)
    again = staged(source, tmp_path)
    assert again.path.read_bytes() == b"crystals"
    again.release()


def test_a_copy_that_is_dropped_is_made_again_and_the_new_one_stays(tmp_path: Path) -> None:
    source = tmp_path / "c.h5"
    source.write_bytes(b"crystals")
    first, second = staged(source, tmp_path), staged(source, tmp_path)
    first.drop()
    assert copies(tmp_path) == []
    third = staged(source, tmp_path)
    second.drop()
    assert copies(tmp_path) == [third.path], "it is not the one that was bad"
    third.release()


# --- what is read from a bad copy -----------------------------------------------------------------------------------


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(row_reader, "PAUSES_S", (0.0,) * 3)
    return screens.packed_file(tmp_path / "c.h5", 20_000)


def reader_of(packed: Path, folder: Path) -> RowReader:
    with PackedCrystals(packed) as file:
        fingerprint = file.fingerprint
    return RowReader(packed, fingerprint, scratch=lambda: scratch_folder(str(folder)))


def without_its_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 3))


def without_its_head(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(4096))


def read_through(reader: RowReader, packed: Path) -> None:
    with PackedCrystals(packed) as file:
        for start in range(0, 20_000, 1_000):
            assert (
                reader.read(start, start + 1_000).positions.tobytes()
                == file.atoms(start, start + 1_000).positions.tobytes()
            )


@pytest.mark.parametrize("damage", [without_its_middle, without_its_head], ids=lambda damage: damage.__name__)
def test_a_bad_copy_costs_no_rows_and_is_replaced(tmp_path: Path, packed: Path, damage: Callable[[Path], None]) -> None:
    staged(packed, tmp_path).release()
    [copy] = copies(tmp_path)
    damage(copy)
    one, other = reader_of(packed, tmp_path), reader_of(packed, tmp_path)
    for reader in (one, other):
        read_through(reader, packed)
        assert reader.packed.path == copy
    assert copy.read_bytes() == packed.read_bytes()
    assert os.path.samestat(os.fstat(one._staged._lock.fileno()), os.fstat(other._staged._lock.fileno()))  # type: ignore[union-attr]
    for reader in (one, other):
        reader.close()


def test_where_copies_go_bad_again_the_file_itself_is_read(
    tmp_path: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = scratch._copied

    def badly(source: Path, copy: Path, size: int) -> None:
        before(source, copy, size)
        without_its_middle(copy)

    monkeypatch.setattr(scratch, "_copied", badly)
    reader = reader_of(packed, tmp_path)
    read_through(reader, packed)
    assert reader.packed.path == packed
    read_through(reader, packed)
    reader.close()


def test_what_is_bad_in_the_file_itself_is_told_of_that(tmp_path: Path, packed: Path) -> None:
    without_its_middle(packed)
    reader = reader_of(packed, tmp_path)
    with pytest.raises(FileFormatError, match=rf"^{packed}: cannot read it"):
        read_through(reader, packed)
    assert len(copies(tmp_path)) == 1, "a faithful copy stays"
    reader.close()


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_a_part_is_one_of_so_many(text: str) -> None:
    with pytest.raises(InputError, match="expected K/N with K from 1 to N, such as 3/8"):
        Part.of(text)


@pytest.mark.parametrize(("total", "count"), [(0, 3), (2, 3), (10, 3), (1000, 7)])
def test_parts_hold_every_row_once(total: int, count: int) -> None:
    rows = [row for k in range(1, count + 1) for row in Part(k, count).rows(total)]
    assert rows == list(range(total))
