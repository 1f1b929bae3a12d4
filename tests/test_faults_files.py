"""Damaged shards and inputs, folders that cannot be written to, full disks: the right results or a clear error."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import screens
from distributed import SpecCluster

from screening.crystals import columns
from screening.crystals.packed import PackedCrystals
from screening.errors import FileFormatError
from screening.runs.config import ScreenConfig, ShardSettings
from screening.runs.listener import Listener
from screening.runs.local_cluster import Layout, local_cluster
from screening.runs.plan import FEWEST_REFUSED
from screening.runs.screen import Screened, screen
from screening.store.record import RESULTS, SHARDS
from screening.store.shard import shard_ranges

COUNT = 6000


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    screens.end_all()


@pytest.fixture(scope="module")
def cluster() -> Iterator[SpecCluster]:
    with local_cluster(Layout(2, 1, 2_000_000_000)) as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with crystals, a model, and the right results."""
    folder = tmp_path_factory.mktemp("files")
    packed = screens.packed_file(folder / "c.h5", COUNT, marks={5: screens.RAISES})
    model = screens.saved_model(folder / "m.safetensors")
    screens.reference(folder / "right", screens.job_of(folder / "none", packed, model, load=screens.arithmetic))
    return folder


def screened(made: Path, run: Path, cluster: SpecCluster, packed: Path | None = None, **listening: Any) -> Screened:
    settings = ScreenConfig(model=str(made / "m.safetensors"), shards=ShardSettings(least=200, most=1000))
    return screen(
        [packed or made / "c.h5"],
        run,
        settings,
        cluster=cluster,
        listener=Listener(**listening),
        load=screens.arithmetic,
    )


def assert_right(made: Path, run: Path) -> None:
    screens.assert_same_columns(screens.columns_of(run), screens.columns_of(made / "right"))


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def overwritten(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["targets/band_gap"][3] = 7.0


def replaced(path: Path) -> None:
    path.write_bytes(b"not HDF5 at all")


@pytest.mark.parametrize("damage", [truncated, emptied, overwritten, replaced], ids=lambda d: d.__name__)
def test_damaged_shards_are_found_when_merging_and_predicted_again(
    tmp_path: Path, made: Path, cluster: SpecCluster, damage: Any
) -> None:
    run = tmp_path / "run"
    screened(made, run, cluster)
    (run / RESULTS).unlink()
    shards = shard_ranges(run / SHARDS)
    for _, _, path in shards[1:3]:
        damage(path)
    kept = {path.name: path.stat().st_mtime_ns for _, _, path in shards if path not in (shards[1][2], shards[2][2])}
    said: list[str] = []
    done = screened(made, run, cluster, say=said.append)
    assert said == ["2 shards are damaged and put aside; their crystals are predicted again"]
    assert done.progress.rows == sum(stop - start for start, stop, _ in shards[1:3])
    assert_right(made, run)
    assert len(list((run / SHARDS).glob("*.damaged"))) == 2
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for _, _, path in shard_ranges(run / SHARDS)}.items()


def test_a_corrupted_block_of_the_input_costs_nothing_but_its_rows(
    tmp_path: Path, made: Path, cluster: SpecCluster
) -> None:
    packed, run = tmp_path / "c.h5", tmp_path / "run"
    shutil.copy(made / "c.h5", packed)
    with PackedCrystals(packed) as file:
        column = file._columns["positions"]
        block = column.id.get_chunk_info(column.id.get_num_chunks() // 2)
        atoms = block.chunk_offset[0], block.chunk_offset[0] + column.chunks[0]
        offsets = file.atom_offsets(0, COUNT)
    whole = packed.read_bytes()
    damaged = bytearray(whole)
    middle = block.byte_offset + block.size // 2
    damaged[middle : middle + 64] = bytes(64)
    packed.write_bytes(damaged)
    with pytest.raises(FileFormatError, match=r"could not be predicted: rows .*c\.h5: cannot read it.* All others are"):
        screened(made, run, cluster, packed)
    hit = np.flatnonzero((offsets[1:] > atoms[0]) & (offsets[:-1] < atoms[1]))
    missing = set(range(COUNT)) - {r for a, b, _ in shard_ranges(run / SHARDS) for r in range(a, b)}
    assert set(hit.tolist()) <= missing
    assert len(missing) < len(hit) + 2000
    assert not (run / RESULTS).exists()
    # The cure: the file as it was.
    packed.write_bytes(whole)
    done = screened(made, run, cluster, packed)
    assert done.progress.rows == len(missing)
    screens.assert_same_columns(screens.columns_of(run), screens.columns_of(made / "right"))


def test_damaged_offsets_cost_nothing_but_their_rows(
    tmp_path: Path, made: Path, cluster: SpecCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver reads them too, to cut shards by their atoms."""
    monkeypatch.setattr(columns, "CHUNK_BYTES", 1 << 13)
    packed, run = screens.packed_file(tmp_path / "c.h5", COUNT, marks={5: screens.RAISES}), tmp_path / "run"
    with PackedCrystals(packed) as file:
        column = file._columns["atom_offsets"]
        assert column.id.get_num_chunks() == 6
        block = column.id.get_chunk_info(2)
        hit = set(range(block.chunk_offset[0] - 1, block.chunk_offset[0] + column.chunks[0]))
    whole = packed.read_bytes()
    damaged = bytearray(whole)
    middle = block.byte_offset + block.size // 2
    damaged[middle : middle + 64] = bytes(64)
    packed.write_bytes(damaged)
    with pytest.raises(FileFormatError, match=r"could not be predicted: rows .*c\.h5: cannot read it.* All others are"):
        screened(made, run, cluster, packed)
    missing = set(range(COUNT)) - {r for a, b, _ in shard_ranges(run / SHARDS) for r in range(a, b)}
    assert hit <= missing
    assert len(missing) < len(hit) + 2 * FEWEST_REFUSED
    packed.write_bytes(whole)
    assert screened(made, run, cluster, packed).progress.rows == len(missing)
    assert_right(made, run)


def test_an_input_of_garbage_is_refused(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    packed = tmp_path / "c.h5"
    packed.write_bytes((made / "c.h5").read_bytes()[: COUNT * 10])
    with pytest.raises(FileFormatError, match=r"c\.h5: cannot open it as packed crystals"):
        screened(made, tmp_path / "run", cluster, packed)


def run_without_privilege(made: Path, folder: Path, run: Path) -> tuple[int, str, str]:
    arguments = ["screen", made / "c.h5", "--out", run, "--model", made / "m.safetensors", "--workers", 1]
    return screens.ended(screens.started(folder, "arithmetic", *arguments, before="screens.give_up_privilege()"))


@contextlib.contextmanager
def closed(*folders: Path) -> Iterator[None]:
    """Let nobody write to these folders for a while."""
    for folder in folders:
        folder.chmod(0o555)
    try:
        yield
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_folder_that_may_not_be_written_to_is_told_and_stays_as_it_is(tmp_path: Path, made: Path) -> None:
    run = tmp_path / "closed/run"
    (run / SHARDS).mkdir(parents=True)
    before = sorted(map(str, run.rglob("*")))
    with closed(run / SHARDS, run, run.parent):
        code, _, errors = run_without_privilege(made, tmp_path, run)
        assert (code, "Traceback" in errors) == (4, False), errors
        assert "run/driver.json: cannot be written (Permission denied)" in errors
        code, _, errors = run_without_privilege(made, tmp_path, tmp_path / "closed/other")
        assert code == 4
        assert "other: cannot be made a folder (Permission denied); choose another" in errors
    assert sorted(map(str, run.rglob("*"))) == before


def test_a_folder_that_workers_cannot_write_to(tmp_path: Path, made: Path) -> None:
    run = tmp_path / "run"
    (run / SHARDS).mkdir(parents=True)
    with closed(run / SHARDS):
        code, _, errors = run_without_privilege(made, tmp_path, run)
    assert (code, "Traceback" in errors) == (4, False), errors
    assert "cannot be written (Permission denied)" in errors
    assert not (run / "driver.json").exists()


def test_a_full_disk_ends_the_run_and_damages_nothing(tmp_path: Path, made: Path) -> None:
    run = tmp_path / "run"
    arguments = ["screen", made / "c.h5", "--out", run, "--model", made / "m.safetensors", "--workers", 1, "--quiet"]
    arguments += ["--set", "shards.most=2000"]
    # Enough for the later shards, which are smaller, too little for the first ones.
    process = screens.started(tmp_path, "arithmetic", *arguments, before="screens.limit_files(25_000)")
    code, output, errors = screens.ended(process)
    assert (code, output) == (4, ""), errors
    assert "the disk is full or a size limit was reached" in errors
    assert "Traceback" not in errors
    process = screens.started(tmp_path, "arithmetic", *arguments)
    assert screens.ended(process) == (0, "", "")
    assert_right(made, run)
    assert list(run.rglob("*.part")) == []


def test_a_disk_too_full_to_merge_keeps_all_that_was_predicted(tmp_path: Path, made: Path) -> None:
    run = tmp_path / "run"
    arguments = ["screen", made / "c.h5", "--out", run, "--model", made / "m.safetensors", "--workers", 1, "--quiet"]
    process = screens.started(tmp_path, "arithmetic", *arguments, before="screens.limit_files(65_000)")
    code, _, errors = screens.ended(process)
    assert (code, "results.h5: the disk is full or a size limit was reached" in errors) == (4, True), errors
    assert not (run / RESULTS).exists()
    log = tmp_path / "log.jsonl"
    assert screens.ended(screens.started(tmp_path, "arithmetic", *arguments, "--log", log)) == (0, "", "")
    assert '"event": "connected"' not in log.read_text(), "nothing is predicted again"
    assert_right(made, run)


def test_a_log_that_cannot_be_written_does_not_end_a_run(tmp_path: Path, made: Path) -> None:
    arguments = ["screen", made / "c.h5", "--out", tmp_path / "run", "--model", made / "m.safetensors", "--workers", 1]
    process = screens.started(tmp_path, "arithmetic", *arguments, "--log", "/dev/full")
    code, output, errors = screens.ended(process)
    assert (code, "failed" in output) == (0, True)
    assert "/dev/full: no more events are logged (No space left on device)" in errors
    process = screens.started(tmp_path, "arithmetic", *arguments, "--log", tmp_path / "none/log.jsonl")
    code, _, errors = screens.ended(process)
    assert (code, "cannot be written (No such file or directory); name another --log" in errors) == (2, True)
