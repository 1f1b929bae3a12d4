"""Shard files: what was written comes back, damage is told, and a file is there whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import made_batch, made_crystals
from pymatgen.core import Structure
from shards import STAMP, TARGETS, predicted

from screening.crystals.batch import Crystals
from screening.crystals.convert import crystal_to_pymatgen
from screening.crystals.crystal import Crystal
from screening.crystals.text import TextColumn
from screening.errors import FileFormatError, InputError, ResourceError, ScreeningError
from screening.predictions import Target
from screening.store.failures import Failure
from screening.store.ids import LONGEST_ID, id_column, stored_id, text_of
from screening.store.rows import ShardRows
from screening.store.schema import Stamp, Status
from screening.store.shard import ShardFile, read_shard, shard_name, shard_ranges, sweep_parts, write_shard

CRYSTALS = Crystals.of(made_crystals(40, seed=2))


def write(folder: Path, rows: ShardRows, stamp: Stamp = STAMP) -> Path:
    return write_shard(folder, rows, stamp, timing={"predict": 0.25})


def assert_equal(ours: ShardRows, expected: ShardRows) -> None:
    assert (ours.start, ours.stop) == (expected.start, expected.stop)
    assert list(ours.ids) == list(expected.ids)
    assert list(ours.formulas) == list(expected.formulas)
    assert list(ours.failures) == list(expected.failures)
    for name in ("nsites", "nelements", "elements", "volume_per_atom", "status", "embedding"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name), err_msg=name, strict=True)
    assert list(ours.values) == list(expected.values)
    for name, values in expected.values.items():
        np.testing.assert_array_equal(ours.values[name], values, err_msg=name, strict=True)


# --- what follows from crystals --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:No Pauling electronegativity")
def test_rows_say_of_crystals_what_pymatgen_says() -> None:
    rows = ShardRows.of(7, CRYSTALS, TARGETS)
    assert (rows.start, rows.stop, len(rows)) == (7, 47, 40)
    periodic = 0
    for k, crystal in enumerate(CRYSTALS):
        structure = crystal_to_pymatgen(crystal)
        assert rows.formulas[k] == structure.composition.reduced_formula
        assert rows.nsites[k] == len(structure)
        assert rows.nelements[k] == len(structure.composition)
        bits = int(rows.elements[k, 0]) | int(rows.elements[k, 1]) << 64
        assert {z for z in range(1, 129) if bits >> (z - 1) & 1} == {e.Z for e in structure.composition}
        if all(crystal.pbc):
            assert isinstance(structure, Structure)
            periodic += 1
            np.testing.assert_allclose(rows.volume_per_atom[k], structure.volume / len(structure), rtol=1e-6)
        else:
            assert np.isnan(rows.volume_per_atom[k])
    assert 0 < periodic < 40
    assert (rows.status == Status.OK).all()
    assert all(np.isnan(values).all() for values in rows.values.values())


def test_a_volume_that_float32_cannot_hold_is_missing() -> None:
    for length in (1e14, 1e160):
        crystal = Crystal("big", np.array([1], np.uint8), np.zeros((1, 3)), length * np.eye(3))
        assert np.isnan(ShardRows.of(0, Crystals.of([crystal])).volume_per_atom).all()


# --- there and back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0, 5])
def test_what_was_written_comes_back(tmp_path: Path, width: int) -> None:
    rows = predicted(CRYSTALS, 3, 33, failed={3: "Ünlucky", 20: "", 32: "\ud800 and\na line"}, width=width)
    path = write(tmp_path, rows)
    assert path == tmp_path / "rows-000000000003-000000000033.h5"
    assert_equal(read_shard(path), rows)
    assert list(tmp_path.iterdir()) == [path]
    with ShardFile(path) as file:
        assert file.stamp == STAMP
        assert file.attributes["timing"] == '{"predict": 0.25}'
        assert abs(file.attributes["written"] - time.time()) < 60
        assert file.embedding_width == width
        assert file.dtype("formula") == file.column("formula").dtype


def test_without_targets_and_with_odd_names(tmp_path: Path) -> None:
    for targets in ((), (Target("a/b", ""), Target("é ..", "GPa"))):
        rows = predicted(CRYSTALS, 0, 2, targets=targets)
        assert_equal(read_shard(write(tmp_path, rows, replace(STAMP, targets=targets))), rows)


def test_columns_and_their_hash_depend_on_the_rows_alone(tmp_path: Path) -> None:
    rows = predicted(CRYSTALS, 0, 20, failed={4: "broken"})
    one = write_shard(tmp_path, rows, STAMP, timing={"predict": 1.0}, worker="one")
    with ShardFile(one) as file:
        first = file.attributes["sha256"], file.columns()
    with ShardFile(write_shard(tmp_path, rows, STAMP, timing={}, worker="two")) as file:
        assert file.attributes["worker"] == "two"
        second = file.attributes["sha256"], file.columns()
    assert first[0] == second[0]
    assert {name: values.tobytes() for name, values in first[1].items()} == {
        name: values.tobytes() for name, values in second[1].items()
    }
    others = [predicted(CRYSTALS, 0, 20, failed={4: "Broken"}), predicted(CRYSTALS, 0, 20), predicted(CRYSTALS, 0, 19)]
    hashes = {first[0]}
    for other in others:
        with ShardFile(write(tmp_path, other)) as file:
            hashes.add(file.attributes["sha256"])
    with ShardFile(write(tmp_path, rows, replace(STAMP, model_hash="other"))) as file:
        hashes.add(file.attributes["sha256"])
    assert len(hashes) == 5


@given(st.lists(st.text(max_size=12) | st.text("ab\0é", min_size=200, max_size=300), max_size=6))
def test_ids_keep_what_they_are_or_a_hash_of_it(ids: list[str]) -> None:
    column = id_column(ids)
    assert column.tolist() == [stored_id(id) for id in ids]
    assert id_column(TextColumn.of(["x", *ids])[1:]).tolist() == column.tolist()
    assert len(set(column.tolist())) == len(set(ids))
    for id, stored in zip(ids, text_of(column), strict=True):
        assert len(stored.encode("utf-8", "surrogatepass")) <= LONGEST_ID
        whole = len(id.encode("utf-8", "surrogatepass")) <= LONGEST_ID and not id.endswith("\0")
        assert stored == id if whole else "#" in stored


# --- names -----------------------------------------------------------------------------------------------------


def test_a_listing_tells_the_rows_and_passes_over_all_else(tmp_path: Path) -> None:
    kept = [shard_name(0, 10), shard_name(5, 8), shard_name(10, 10**11)]
    odd = [f"{shard_name(0, 10)}.0123abcd.part", "rows-1-2.h5", shard_name(4, 4), f"x{shard_name(1, 2)}", "notes.txt"]
    for name in [*odd, *kept]:
        (tmp_path / name).touch()
    assert shard_ranges(tmp_path) == [
        (0, 10, tmp_path / kept[0]),
        (5, 8, tmp_path / kept[1]),
        (10, 10**11, tmp_path / kept[2]),
    ]
    assert sweep_parts(tmp_path) == 1
    assert not (tmp_path / odd[0]).exists()
    with pytest.raises(InputError, match="expected a folder of shards"):
        shard_ranges(tmp_path / "none")


# --- rows that make no sense -----------------------------------------------------------------------------------


def changed(rows: ShardRows, name: str, row: int, value: float) -> dict[str, Any]:
    values = {key: column.copy() for key, column in rows.values.items()}
    values[name][row] = value
    return {"values": values}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: {"stop": 9}, "ids has 10 entries, expected 9"),
        (lambda r: {"stop": 0}, "at least one row"),
        (lambda r: {"values": {}}, r"values of \[\], expected those of"),
        (lambda r: changed(r, "band_gap", 1, np.nan), "band_gap of row 1 is nan, and its status ok"),
        (lambda r: changed(r, "band_gap", 1, np.inf), "band_gap of row 1 is inf"),
        (lambda r: changed(r, "band_gap", 4, 0.0), "band_gap of row 4 is 0.0, and its status failed"),
        (lambda r: {"failures": []}, "0 failures, expected one for each of the 1 rows"),
        (lambda r: {"failures": [Failure(4, "It broke", "")]}, "the reason 'It broke' of row 4"),
        (lambda r: {"status": np.full(10, 9, np.uint8)}, "10 rows that are not ok"),
        (lambda r: {"values": {k: v.astype(float) for k, v in r.values.items()}}, "type float64, expected float32"),
        (lambda r: {"embedding": np.zeros((3, 2), np.float32)}, "embedding has 3 entries, expected 10"),
    ],
)
def test_rows_that_make_no_sense_are_refused(
    tmp_path: Path, change: Callable[[ShardRows], dict[str, Any]], said: str
) -> None:
    rows = predicted(CRYSTALS, 0, 10, failed={4: "broken"})
    with pytest.raises(InputError, match=said):
        write(tmp_path, replace(rows, **change(rows)))
    assert list(tmp_path.iterdir()) == []


# --- damage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.6, 0.99])
def test_a_truncated_shard_is_told_with_the_cure(tmp_path: Path, kept: float) -> None:
    path = write(tmp_path, predicted(CRYSTALS, 0, 40))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(FileFormatError, match=r"rows-0.*give the same `screening screen` command again"):
        read_shard(path)


def test_no_flipped_byte_of_a_shard_goes_unnoticed(tmp_path: Path) -> None:
    rows = predicted(CRYSTALS, 0, 40, failed={3: "broken"}, width=2)
    path = write(tmp_path, rows)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    told = 0
    for place in rng.integers(0, len(content), 400):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = read_shard(path)
        except ScreeningError:
            told += 1
        else:
            assert_equal(found, rows)
    assert told > 100


def test_foreign_newer_and_renamed_files_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, predicted(CRYSTALS, 0, 40))
    other = path.rename(tmp_path / shard_name(0, 41))
    with pytest.raises(FileFormatError, match="holds rows 0 to 40, which its name denies"):
        read_shard(other)
    with h5py.File(other.rename(path), "r+") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(FileFormatError, match="schema version 99, this release reads 1"):
        read_shard(path)
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(FileFormatError, match="format None"):
        read_shard(path)
    with pytest.raises(InputError, match="no such file"):
        read_shard(tmp_path / "none.h5")


def test_a_column_that_was_changed_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, predicted(CRYSTALS, 0, 40))
    with h5py.File(path, "r+") as file:
        file["targets/band_gap"][3] = 17.0
    with pytest.raises(FileFormatError, match="its columns have SHA-256"):
        read_shard(path)


def test_stamps_tell_their_differences() -> None:
    other = Stamp("other", STAMP.input_fingerprint, TARGETS[:1])
    assert STAMP.differences(STAMP) == []
    first, second = other.differences(STAMP)
    assert first == f"model hash other, expected {STAMP.model_hash}"
    assert second.startswith("targets formation_energy_per_atom (eV/atom, regression, linear), expected formation")


# --- interruptions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rows = predicted(CRYSTALS, 0, 10)
    for before in ([], [write(tmp_path / ".", rows)]):
        with monkeypatch.context() as patch:
            patch.setattr(os if call == "fsync" else Path, call, full)
            with pytest.raises(ResourceError, match="the disk is full"):
                write(tmp_path, rows)
        assert list(tmp_path.iterdir())[: len(before)] == before
        assert len(list(tmp_path.iterdir())) == 1
    assert_equal(read_shard(tmp_path / shard_name(0, 10)), rows)


def test_a_folder_that_is_not_there_or_read_only(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot be written"):
        write(tmp_path / "none", predicted(CRYSTALS, 0, 10))


def test_a_size_limit_is_an_error_of_ours(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", script(tmp_path, limit=5000)], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (ResourceError.exit_code, "")
    assert "the disk is full or a size limit was reached" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_whole_shards_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", script(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(float(rng.uniform(0.0, 0.3)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for start, stop, path in shard_ranges(tmp_path):
            rows = read_shard(path)
            assert (rows.start, rows.stop) == (start, stop)
            whole += 1
    assert whole > 0
    sweep_parts(tmp_path)
    assert len(shard_ranges(tmp_path)) == len(list(tmp_path.iterdir()))


def script(folder: Path, limit: int = 0) -> str:
    """A program that writes shards of made crystals until it is killed."""
    return textwrap.dedent(f"""
        import resource, sys
        from pathlib import Path
        sys.path[:0] = {sys.path!r}
        if {limit}:
            resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        from made import made_batch
        from shards import STAMP, predicted
        from screening.errors import ScreeningError
        from screening.store.shard import write_shard
        crystals = made_batch(1000)
        print("ready", flush=True) if not {limit} else None
        try:
            while True:
                for start in range(0, 1000, 100):
                    rows = predicted(crystals, start, start + 100, width=8)
                    write_shard(Path({str(folder)!r}), rows, STAMP, timing={{}})
        except ScreeningError as error:
            print(error)
            sys.exit(error.exit_code)
    """)


def test_threads_of_one_process_write_at_once(tmp_path: Path) -> None:
    rows = [predicted(CRYSTALS, start, start + 4) for start in range(0, 40, 4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: write(tmp_path, each), rows * 5))
    assert [(start, stop) for start, stop, _ in shard_ranges(tmp_path)] == [(s, s + 4) for s in range(0, 40, 4)]
    for (_, _, path), each in zip(shard_ranges(tmp_path), rows, strict=True):
        assert_equal(read_shard(path), each)


def test_two_writers_of_the_same_rows_do_no_harm(tmp_path: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", script(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    crystals = made_batch(1000)
    deadline = time.monotonic() + 0.7
    while time.monotonic() < deadline:
        for start, stop, path in shard_ranges(tmp_path):
            assert_equal(read_shard(path), predicted(crystals, start, stop, width=8))
    for process in running:
        assert process.poll() is None
        process.kill()
        process.communicate()
