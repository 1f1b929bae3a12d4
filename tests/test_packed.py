"""Packed files: exact round trips, one writer, the old file or none after any failure, damage told in a sentence."""

import errno
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import assert_same, made_batch, made_crystals

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.packed import FORMAT, PackedCrystals
from screening.crystals.packed_writer import PackedWriter
from screening.crystals.seen import Seen
from screening.crystals.text import TextColumn
from screening.crystals.validate import CrystalLimits
from screening.errors import FileFormatError, InputError, ResourceError, ScreeningError, is_passing
from screening.files.sink import Sink

REFUSED = [Rejection("bäd#1", "a.cif", Reason.EMPTY, "bäd#1: has no atoms"), Rejection("x", "", Reason.DISORDERED, "")]


def write(path: Path, crystals: list[Crystal] | Crystals, *, size: int = 7, refused: list[Rejection] = REFUSED) -> None:
    with PackedWriter(path, inputs=["a folder", "b.cif"]) as writer:
        for start in range(0, len(crystals), size):
            writer.append(Crystals.of(crystals[start : start + size]))
        writer.append(Crystals.of([]), refused)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    crystals = made_crystals(50, forces=True)
    write(tmp_path / "c.h5", crystals)
    with PackedCrystals(tmp_path / "c.h5") as packed:
        assert len(packed) == 50
        assert packed.rejections() == REFUSED
        assert packed.rejections(1) == REFUSED[1:]
        assert packed.inputs == ["a folder", "b.cif"]
        assert packed.limits == CrystalLimits()
        assert packed.units == {"band_gap": "eV", "formation_energy_per_atom": "eV/atom"}
        for ours, expected in zip(packed, crystals, strict=True):
            assert_same(ours, expected)
        for ours, expected in zip(packed[3:20], crystals[3:20], strict=True):
            assert_same(ours, expected)
        assert_same(packed[-1], crystals[-1])
        assert [len(b) for b in packed.batches(20)] == [20, 20, 10]


def test_format_as_documented(tmp_path: Path) -> None:
    write(tmp_path / "c.h5", made_crystals(5, forces=True, missing=0.0))
    with h5py.File(tmp_path / "c.h5") as file:
        assert file.attrs["format"] == FORMAT.encode()
        assert (file.attrs["read"], file.attrs["accepted"], file.attrs["rejected"]) == (7, 5, 2)
        assert json.loads(file.attrs["limits"])["min_distance"] == 0.5
        atoms = file["atom_offsets"][-1]
        found = {name: (file[name].shape, file[name].dtype) for name in file if isinstance(file[name], h5py.Dataset)}
        assert found == {
            "positions": ((atoms, 3), np.float64),
            "numbers": ((atoms,), np.uint8),
            "lattice": ((5, 3, 3), np.float64),
            "pbc": ((5, 3), np.bool_),
            "atom_offsets": ((6,), np.int64),
            "forces": ((atoms, 3), np.float64),
            "stress": ((5, 3, 3), np.float64),
        }
        assert file["labels/band_gap"].attrs["unit"] == b"eV"
        assert set(file["rejections"]) == {"ids", "sources", "reasons", "messages"}
        for column in (file["positions"], file["labels/band_gap"], file["ids/utf8"]):
            assert (column.compression, column.shuffle, column.fletcher32) == ("gzip", True, True)


def test_equal_crystals_make_equal_bytes(tmp_path: Path) -> None:
    batch = made_batch(9000, seed=1)
    write(tmp_path / "a.h5", batch, size=700)
    # HDF5 keeps times in seconds, should any be kept.
    time.sleep(1.1)
    write(tmp_path / "b.h5", batch, size=700)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_across_chunks(tmp_path: Path) -> None:
    batch = made_batch(9000, seed=2)
    write(tmp_path / "c.h5", batch, size=1000)
    with PackedCrystals(tmp_path / "c.h5") as packed:
        whole = packed[:]
        np.testing.assert_array_equal(whole.positions, batch.positions)
        np.testing.assert_array_equal(whole.atom_offsets, batch.atom_offsets)
        np.testing.assert_array_equal(whole.labels["band_gap"], batch.labels["band_gap"])
        assert list(whole.ids) == list(batch.ids)
        for row in (0, 4095, 4096, 8999):
            assert_same(packed[row], batch[row])
        joined = Crystals.joined(list(packed.batches(1234)))
        np.testing.assert_array_equal(joined.lattice, batch.lattice)
        assert list(joined.sources) == list(batch.sources)


def test_columns_that_start_late_or_stop(tmp_path: Path) -> None:
    plain = made_batch(5000, seed=3)
    plain = Crystals(plain.ids, plain.numbers, plain.positions, plain.lattice, plain.pbc, plain.atom_offsets)
    full = made_crystals(3, labels=["bulk_modulus"], forces=True, missing=0.0, prefix="late")
    crystals = [*plain, *full, *plain]
    with PackedWriter(tmp_path / "c.h5") as writer:
        for part in (plain, Crystals.of(full), plain):
            writer.append(part)
    with PackedCrystals(tmp_path / "c.h5") as packed:
        assert len(packed) == len(crystals)
        for row in (0, 4999, 5000, 5002, 5003, 10002):
            assert_same(packed[row], crystals[row], source=False)
        assert packed[:5000].forces is None
        assert packed[:5000].labels == {}


@settings(max_examples=25, deadline=None)
@given(names=st.lists(st.text(max_size=8), min_size=1, max_size=5, unique=True), ids=st.text(max_size=20))
def test_any_label_name_and_id(tmp_path_factory: pytest.TempPathFactory, names: list[str], ids: str) -> None:
    path = tmp_path_factory.mktemp("names") / "c.h5"
    crystal = made_crystals(1, labels=())[0]
    labelled = Crystal(ids, crystal.numbers, crystal.positions, crystal.lattice, labels={n: 1.0 for n in names})
    write(path, [labelled])
    with PackedCrystals(path) as packed:
        assert_same(packed[0], labelled, source=False)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b", "%", "%2F", "\x00", "Å³", "\ud800"])
def test_awkward_label_names(tmp_path: Path, name: str) -> None:
    crystal = made_crystals(1)[0]
    write(tmp_path / "c.h5", [Crystal("a", crystal.numbers, crystal.positions, crystal.lattice, labels={name: 2.0})])
    with PackedCrystals(tmp_path / "c.h5") as packed:
        assert packed[0].labels == {name: 2.0}
        assert list(packed.units) == [name]


def test_labels_that_are_no_columns_are_refused(tmp_path: Path) -> None:
    crystal = made_crystals(1)[0]
    many = {f"label {k}": 1.0 for k in range(5000)}
    with pytest.raises(InputError, match="more than 4096 different labels"):
        write(tmp_path / "c.h5", [Crystal("a", crystal.numbers, crystal.positions, crystal.lattice, labels=many)])
    assert list(tmp_path.iterdir()) == []


def test_empty_file(tmp_path: Path) -> None:
    with PackedWriter(tmp_path / "c.h5"):
        pass
    with PackedCrystals(tmp_path / "c.h5") as packed:
        assert len(packed) == len(packed[:]) == packed.rejected == 0
        assert packed.rejections() == []
        assert list(packed.batches()) == []
        with pytest.raises(IndexError):
            packed[0]


def test_only_whole_steps(tmp_path: Path) -> None:
    write(tmp_path / "c.h5", made_crystals(4))
    with PackedCrystals(tmp_path / "c.h5") as packed:
        with pytest.raises(InputError, match="step 1"):
            packed[::2]
        with pytest.raises(InputError, match="at least one"):
            next(packed.batches(0))
        assert len(packed[3:1]) == 0


def test_survives_pickling(tmp_path: Path) -> None:
    write(tmp_path / "c.h5", made_crystals(4))
    with PackedCrystals(tmp_path / "c.h5") as packed, pickle.loads(pickle.dumps(packed)) as again:
        assert_same(again[2], packed[2])
        ids = packed[1:3].ids
        assert pickle.loads(pickle.dumps(ids)) == ids


# --- failures of writing ---------------------------------------------------------------------------------------


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with PackedWriter(path) as writer:
            writer.append(made_batch(5000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_stale_part_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "c.h5.part").write_bytes(b"x" * 1_000_000)
    write(tmp_path / "c.h5", made_crystals(2))
    write(tmp_path / "d.h5", made_crystals(2))
    assert (tmp_path / "c.h5").read_bytes() == (tmp_path / "d.h5").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.h5", "d.h5"]


def test_replaces_an_older_file(tmp_path: Path) -> None:
    write(tmp_path / "c.h5", made_crystals(20))
    with PackedCrystals(tmp_path / "c.h5") as older:
        write(tmp_path / "c.h5", made_crystals(3, seed=5))
        assert len(older[:]) == 20
    with PackedCrystals(tmp_path / "c.h5") as packed:
        assert len(packed) == 3


def test_a_second_writer_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    with PackedWriter(path) as writer:
        writer.append(Crystals.of(made_crystals(3)))
        with pytest.raises(ResourceError, match="another process is writing this file"):
            PackedWriter(path)
    with PackedCrystals(path) as packed:
        assert len(packed) == 3


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        PackedWriter(tmp_path / "none" / "c.h5")
    with pytest.raises(InputError, match="a folder, expected the name of a file"):
        PackedWriter(tmp_path)


def failing_after(limit: int) -> Callable[..., int]:
    """A pwrite on a disk with room for that many bytes."""
    written = 0
    real = os.pwrite

    def pwrite(handle: int, block: memoryview, place: int) -> int:
        nonlocal written
        if written >= limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = real(handle, block[: limit - written], place)
        written += done
        return done

    return pwrite


def test_a_full_disk_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.h5"
    batch = made_batch(2500)
    write(path, batch, size=500)
    old = path.read_bytes()
    messages = []
    for limit in [0, 1, 5000, *range(30_000, 2 * len(old), 60_000)]:
        with monkeypatch.context() as patch:
            patch.setattr("screening.files.sink.os.pwrite", failing_after(limit))
            try:
                write(path, batch, size=500)
            except ResourceError as error:
                messages.append(str(error))
        assert path.read_bytes() == old
        assert list(tmp_path.iterdir()) == [path]
    assert len(messages) > 5
    assert all("the disk is full" in m and "is as it was before" in m for m in messages)
    write(path, batch, size=500)


def test_a_size_limit_ends_the_process_cleanly(tmp_path: Path) -> None:
    """The failure reaches HDF5's own clean-up at exit too: the exit code shows that it did not crash there."""
    script = textwrap.dedent(f"""
        import resource, sys
        sys.path[:0] = {sys.path!r}
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        from made import made_batch
        from screening.crystals.packed_writer import PackedWriter
        from screening.errors import ResourceError
        try:
            with PackedWriter({str(tmp_path / "c.h5")!r}) as writer:
                for seed in range(10):
                    writer.append(made_batch(1000, seed=seed))
        except ResourceError as error:
            print(error)
            sys.exit(error.exit_code)
    """)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stderr) == (ResourceError.exit_code, "")
    assert "a size limit was reached" in ended.stdout
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 300_000


def test_sink_reads_back_what_did_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screening.files.sink.os.pwrite", failing_after(10))
    sink = Sink(tmp_path / "f")
    for place, block in ((0, b"abcdefgh"), (8, b"ijklmnop"), (4, b"XY"), (20, b"z")):
        sink.seek(place)
        assert sink.write(block) == len(block)
    sink.seek(2)
    assert sink.read(20) == b"cdXYghijklmnop\x00\x00\x00\x00z\x00"
    with pytest.raises(OSError, match="No space left"):
        sink.synchronise()
    sink.close()


# --- damage ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "c.h5"
    write(path, made_crystals(300, forces=True), size=100)
    return path.read_bytes()


def read_all(path: Path) -> int:
    with PackedCrystals(path) as packed:
        return len(list(packed[:])) + len(packed.rejections())


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_told(tmp_path: Path, whole: bytes, kept: float) -> None:
    path = tmp_path / "c.h5"
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(FileFormatError, match="cannot open it as packed crystals"):
        read_all(path)


def test_no_flipped_byte_goes_unnoticed_in_a_column(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "c.h5"
    path.write_bytes(whole)
    with h5py.File(path) as file:
        chunks = [file[name].id.get_chunk_info(0) for name in ("positions", "lattice", "labels/band_gap", "ids/utf8")]
    for chunk in chunks:
        damaged = bytearray(whole)
        damaged[chunk.byte_offset + chunk.size // 2] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match="cannot read it as packed crystals"):
            read_all(path)


def test_any_flipped_byte_is_an_error_of_ours_or_harmless(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "c.h5"
    rng = np.random.default_rng(0)
    told = 0
    for place in rng.integers(0, len(whole), 150):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            read_all(path)
        except ScreeningError:
            told += 1
    assert told > 75


def test_foreign_and_newer_files_are_told(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "c.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(FileFormatError, match="but not of packed crystals"):
        PackedCrystals(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(FileFormatError, match="schema version 99"):
        PackedCrystals(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        del file["numbers"]
    with pytest.raises(FileFormatError, match="numbers"):
        PackedCrystals(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file["lattice"].resize(10, axis=0)
    with pytest.raises(FileFormatError, match=r"`lattice` has shape \(10, 3, 3\), expected \(300, 3, 3\)"):
        PackedCrystals(path)
    path.write_text("data_x\n")
    with pytest.raises(FileFormatError, match="cannot open"):
        PackedCrystals(path)
    with pytest.raises(InputError, match="no such file"):
        PackedCrystals(tmp_path / "none.h5")
    with pytest.raises(InputError, match="a folder"):
        PackedCrystals(tmp_path)


# --- text and ids ----------------------------------------------------------------------------------------------


@given(strings=st.lists(st.text(max_size=6)), cut=st.slices(8))
def test_text_column_is_the_list(strings: list[str], cut: slice) -> None:
    column = TextColumn.of(strings)
    assert list(column) == strings
    assert len(column) == len(strings)
    assert [column[k] for k in range(-len(strings), len(strings))] == strings * 2
    assert list(column[cut]) == strings[cut]
    assert column == strings
    assert TextColumn.of(column[cut]) == strings[cut]


@given(batches=st.lists(st.lists(st.integers(0, 60).map(str), max_size=12), max_size=40))
def test_seen_marks_every_repetition(batches: list[list[str]]) -> None:
    seen, known = Seen(), set()
    for ids in batches:
        expected = []
        for id in ids:
            expected.append(id in known)
            known.add(id)
        assert seen.add(ids).tolist() == expected
    assert len(seen) == len(known)


def test_seen_keeps_eight_bytes_an_id_in_few_runs() -> None:
    seen = Seen()
    for k in range(200):
        assert not seen.add([f"mp-{k}-{i}" for i in range(100)]).any()
    assert len(seen) == 20_000
    assert sum(run.nbytes for run in seen._runs) == 160_000
    assert len(seen._runs) <= 15
    assert seen.add(["mp-0-0", "mp-199-99", "new", "new"]).tolist() == [True, True, False, True]


class Flaky(io.FileIO):
    """A file on a disk that is in trouble."""

    trouble = 0

    def readinto(self, block: Any) -> int:
        if self.trouble:
            raise OSError(self.trouble, os.strerror(self.trouble))
        return super().readinto(block)


@pytest.mark.parametrize("trouble", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT], ids=errno.errorcode.get)
def test_a_disk_in_trouble_is_told_from_a_damaged_file(tmp_path: Path, trouble: int) -> None:
    path = tmp_path / "c.h5"
    with PackedWriter(path) as writer:
        writer.append(made_batch(20))
    with Flaky(path) as file, PackedCrystals(path, content=file) as packed:  # type: ignore[arg-type]
        file.trouble = trouble
        with pytest.raises(ResourceError, match=r"c\.h5: cannot be read now .*; the file itself may be well"):
            packed.atoms(0, 20)
        file.trouble = 0
        assert len(packed.atoms(0, 20)) == 20


def test_hdf5_names_the_trouble_in_its_message_alone() -> None:
    message = "Can't synchronously read data (file read failed: errno = {}, error message = 'x', offset = 680)"
    assert is_passing(OSError(message.format(errno.EIO)))
    assert is_passing(KeyError(message.format(errno.ESTALE)))
    assert not is_passing(OSError(message.format(errno.EISDIR)))
    assert not is_passing(OSError("Can't synchronously read data (inflate() failed)"))
    assert not is_passing(FileNotFoundError(errno.ENOENT, "no such file"))
