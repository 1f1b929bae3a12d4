"""Merging: the same columns from any cut, every crystal once, and nothing written when something is wrong."""

import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import made_batch, made_crystals
from shards import STAMP, TARGETS, predicted, write_run, write_shards

from screening import locking
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Reason, Rejection
from screening.crystals.packed import PackedCrystals
from screening.errors import FileFormatError, InputError, ResourceError
from screening.files import sink
from screening.files.hdf5 import whole_hdf5
from screening.files.sink import sweep_parts_of
from screening.store import parts
from screening.store.merge import merge
from screening.store.read import Results
from screening.store.record import INPUT, RESULTS, SHARDS
from screening.store.schema import COLUMNS, FAILURE_COLUMNS, NOTE_COLUMNS, Status, target_column
from screening.store.shard import shard_name, shard_ranges, write_shard

CRYSTALS = Crystals.of(made_crystals(60, seed=2))
REJECTIONS = [
    Rejection("made-000003", "b.cif", Reason.DUPLICATE_ID, "made-000003: is there already"),
    Rejection("x" * 400, "c.cif", Reason.TINY_VOLUME, "Ünlucky\nwith two lines"),
    Rejection("", "d.cif", Reason.UNREADABLE, ""),
]
FAILED = {7: "7: NaN", 59: "59: é"}
NAMES = [*(c.name for c in COLUMNS), *(target_column(t.name) for t in TARGETS), *(c.name for c in FAILURE_COLUMNS)]


def run_of(folder: Path, cuts: tuple[int, ...] = (10, 35), width: int = 0) -> Path:
    return write_run(folder, CRYSTALS, cuts, rejections=REJECTIONS, failed=FAILED, width=width)


def columns(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, held: found.update({name: held[()]}) if isinstance(held, h5py.Dataset) else None)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = run_of(tmp_path_factory.mktemp("whole") / "run", cuts=())
    merge(run)
    return run


# --- what comes out --------------------------------------------------------------------------------------------


def test_every_crystal_that_was_read_has_a_row(whole: Path) -> None:
    path = whole / RESULTS
    found = columns(path)
    assert sorted(found) == sorted([*NAMES, *(column.name for column in NOTE_COLUMNS)])
    assert found["row"].tolist() == [*range(60), -1, -2, -3]
    assert found["status"].tolist() == [3 if row in FAILED else 0 for row in range(60)] + [2, 1, 1]
    ids = [id.decode() for id in found["id"].tolist()]
    assert ids[:61] == [*CRYSTALS.ids, "made-000003"]
    assert len(ids[61]) == 256
    assert ids[62] == ""
    assert found["failures/row"].tolist() == [7, 59, -1, -2, -3]
    reasons = ["non_finite_prediction"] * 2 + ["duplicate_id", "tiny_volume", "unreadable"]
    assert [reason.decode() for reason in found["failures/reason"].tolist()] == reasons
    expected = predicted(CRYSTALS, 0, 60, failed=FAILED)
    assert [formula.decode() for formula in found["formula"].tolist()] == [*expected.formulas, "", "", ""]
    for name in ("nsites", "nelements", "elements", "volume_per_atom"):
        np.testing.assert_array_equal(found[name][:60], getattr(expected, name), err_msg=name)
    for name, values in expected.values.items():
        np.testing.assert_array_equal(found[target_column(name)], np.append(values, [np.nan] * 3), err_msg=name)
    with h5py.File(path) as file:
        counts = {name: int(file.attrs[name]) for name in ("read", "ok", "rejected", "duplicate", "failed")}
        assert counts == {"read": 63, "ok": 58, "rejected": 2, "duplicate": 1, "failed": 2}
        assert h5py.check_enum_dtype(file["status"].dtype) == {s.word: s for s in Status}
        assert file.attrs["format"] == b"screening.results"
        assert b'"model": "made up"' in file.attrs["run"]
        assert file["targets/band_gap"].attrs["unit"] == b"eV"
        assert all(file[name].fletcher32 and file[name].compression == "gzip" for name in NAMES)
    assert sorted(p.name for p in whole.iterdir()) == [INPUT, RESULTS, "run.json", SHARDS]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, 59), max_size=6),
    others=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30)), max_size=3),
)
def test_any_cut_gives_the_same_bytes(
    tmp_path: Path, whole: Path, cuts: list[int], others: list[tuple[int, int]]
) -> None:
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    run_of(run, tuple(cuts))
    for start, length in others:
        rows = predicted(CRYSTALS, start, min(start + length, 60), failed=FAILED)
        write_shard(run / SHARDS, rows, STAMP, timing={})
    path = merge(run)
    expected, found = columns(whole / RESULTS), columns(path)
    for name in NAMES:
        values = expected[name]
        assert (found[name].dtype, found[name].tobytes()) == (values.dtype, values.tobytes()), name
    with h5py.File(path) as one, h5py.File(whole / RESULTS) as other:
        assert one.attrs["sha256"] == other.attrs["sha256"]


def test_embeddings_come_along(tmp_path: Path) -> None:
    found = columns(merge(run_of(tmp_path / "run", width=3)))["embedding"]
    assert found.shape == (63, 3)
    np.testing.assert_array_equal(found[:60], predicted(CRYSTALS, 0, 60, width=3).embedding)
    assert np.isnan(found[60:]).all()


def test_the_hash_tells_results_apart(tmp_path: Path, whole: Path) -> None:
    run = run_of(tmp_path / "run")
    rows = predicted(CRYSTALS, 0, 10, failed=FAILED)
    values = {name: column.copy() for name, column in rows.values.items()}
    values["band_gap"][4] += 1e-6
    write_shard(run / SHARDS, replace(rows, values=values), STAMP, timing={})
    with h5py.File(merge(run)) as one, h5py.File(whole / RESULTS) as other:
        assert one.attrs["sha256"] != other.attrs["sha256"]


def test_many_rows_and_a_long_record(tmp_path: Path) -> None:
    """More rows than a chunk of any column, and more attributes than HDF5 keeps beside a file's root."""
    crystals = made_batch(70_000)
    told: list[tuple[int, int]] = []
    run = write_run(tmp_path / "run", crystals, range(7_000, 70_000, 9_999), model="x" * 200_000)
    path = merge(run, progress=lambda rows, total: told.append((rows, total)))
    assert told[-1] == (70_000, 70_000)
    assert [rows for rows, _ in told] == sorted(rows for rows, _ in told)
    found = columns(path)
    assert found["id"].tolist() == [id.encode() for id in crystals.ids]
    expected = predicted(crystals, 0, 70_000)
    np.testing.assert_array_equal(found["targets/band_gap"], expected.values["band_gap"])
    with h5py.File(path) as file:
        assert len(file.attrs["run"]) > 200_000


# --- what is refused -------------------------------------------------------------------------------------------


def assert_untouched(run: Path) -> None:
    assert not (run / RESULTS).exists()
    assert not list(run.glob("*.part"))


def test_missing_rows_are_named(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", cuts=(10, 20, 30, 40, 45))
    for start, stop in ((10, 20), (20, 30), (45, 60)):
        (run / SHARDS / shard_name(start, stop)).unlink()
    with pytest.raises(InputError, match=r"rows 10 to 29, 45 to 59 are not done \(35 of 60\); give the same"):
        merge(run)
    assert_untouched(run)


def test_a_shard_of_another_run_is_told_with_the_difference(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    other = replace(STAMP, model_hash="other", targets=TARGETS[:1])
    write_shard(run / SHARDS, predicted(CRYSTALS, 10, 35, targets=TARGETS[:1]), other, timing={})
    with pytest.raises(FileFormatError, match=r"is of another run: model hash other, expected a1a1.*; targets form"):
        merge(run)
    assert_untouched(run)


def test_an_embedding_of_another_width_is_told(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    write_shard(run / SHARDS, predicted(CRYSTALS, 10, 35, failed=FAILED, width=2), STAMP, timing={})
    with pytest.raises(FileFormatError, match=r"embeddings have 2 numbers, in .* they have 0"):
        merge(run)


def test_a_shard_beyond_the_input_is_told(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    longer = Crystals.of(made_crystals(80, seed=2))
    write_shard(run / SHARDS, predicted(longer, 50, 80), STAMP, timing={})
    with pytest.raises(FileFormatError, match="holds more rows than the input, 60"):
        merge(run)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_truncated_shard_is_told(tmp_path: Path, kept: float) -> None:
    run = run_of(tmp_path / "run")
    path = run / SHARDS / shard_name(10, 35)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(FileFormatError, match=f"{path.name}.*remove it"):
        merge(run)
    assert_untouched(run)


def test_a_shard_with_changed_values_is_told(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    with h5py.File(run / SHARDS / shard_name(10, 35), "r+") as file:
        file["targets/band_gap"][3] = 17.0
    with pytest.raises(FileFormatError, match="SHA-256"):
        merge(run)
    assert_untouched(run)


def test_another_input_is_told(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    renamed = Crystals.of(made_crystals(60, seed=2, prefix="other"))
    other = write_run(tmp_path / "other", renamed)
    with pytest.raises(FileFormatError, match=r"row 0 is 'made-000000', but 'other-000000' in .*input was replaced"):
        merge(run, other / INPUT)
    fewer = write_run(tmp_path / "fewer", CRYSTALS[:50])
    with pytest.raises(InputError, match=r"holds 50 crystals, but .* was started with 60"):
        merge(run, fewer / INPUT)
    (run / INPUT).rename(tmp_path / "elsewhere.h5")
    with pytest.raises(InputError, match="is not there; say where it is with --input"):
        merge(run)
    assert_untouched(run)
    merge(run, tmp_path / "elsewhere.h5")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run\.json"):
        merge(tmp_path)


# --- interruptions ---------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_older_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", made_batch(3000), (1000, 2000))
    older = merge(run).read_bytes()
    ended = subprocess.run([sys.executable, "-c", script(run, limit=60_000)], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (ResourceError.exit_code, "")
    assert f"a size limit was reached; {run / RESULTS} is as it was before" in ended.stdout
    assert (run / RESULTS).read_bytes() == older
    assert not list(run.glob("*.part"))


def test_a_killed_merge_is_done_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", made_batch(20_000), range(500, 20_000, 500))
    for seconds in (0.05, 0.15, 0.3):
        process = subprocess.Popen([sys.executable, "-c", script(run)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (run / RESULTS).exists():
            assert len(columns(run / RESULTS)["row"]) == 20_000
    merge(run)
    assert not list(run.glob("*.part"))
    assert len(columns(run / RESULTS)["row"]) == 20_000


def script(run: Path, limit: int = 0) -> str:
    return textwrap.dedent(f"""
        import resource, sys
        from pathlib import Path
        sys.path[:0] = {sys.path!r}
        from screening.errors import ScreeningError
        from screening.store.merge import merge
        if {limit}:
            resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        else:
            print("ready", flush=True)
        try:
            while True:
                merge(Path({str(run)!r}))
        except ScreeningError as error:
            print(error)
            sys.exit(error.exit_code)
    """)


def test_two_merges_at_once_do_no_harm(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", made_batch(3000), (1000, 2000))
    with whole_hdf5(run / RESULTS), pytest.raises(ResourceError, match="another process is writing this file"):
        merge(run)
    assert h5py.is_hdf5(merge(run))


def test_without_locks_two_merges_at_once_do_no_harm_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
    run = write_run(tmp_path / "run", made_batch(3000), (1000, 2000))
    with whole_hdf5(run / RESULTS) as (file, _):
        file["begun"] = 1
        merge(run)
        file["finished"] = 2
    with h5py.File(run / RESULTS) as file:
        assert sorted(file) == ["begun", "finished"], "who ends last has written a whole file"
    (run / f"{RESULTS}.01234567.part").write_bytes(b"half")
    (run / f"{RESULTS}.txt").write_text("not ours")
    assert sweep_parts_of(run / RESULTS) == 1
    assert not list(run.glob("*.part"))


def test_where_each_machine_grants_locks_for_itself_two_merges_at_once_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", made_batch(3000), (1000, 2000))
    monkeypatch.setattr(sink.fcntl, "flock", lambda handle, how: None)
    mounts = f"/dev/sda1 / ext4 rw 0 0\nmgs:/fs {tmp_path} lustre rw,localflock 0 0\n"
    monkeypatch.setattr(locking, "mounted", lambda: mounts)

    def second(rows: int, total: int) -> None:
        if rows == 2000:
            merge(run)

    right = merge(run).read_bytes()
    assert len(columns(merge(run, progress=second))["row"]) == 3000
    assert (run / RESULTS).stat().st_size == len(right)
    assert not list(run.glob("*.part"))


def test_a_merge_can_be_stopped_before_its_first_row(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", made_batch(3000), (1000, 2000))

    def stop(rows: int, total: int) -> None:
        seen.append((rows, total))
        if len(seen) == 2:
            raise KeyboardInterrupt

    seen: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        merge(run, progress=stop)
    assert seen == [(0, 3000), (0, 3000)]
    seen = [(0, 0)] * 2
    merge(run, progress=stop)
    assert seen[2:6] == [(0, 3000)] * 4
    assert seen[-1] == (3000, 3000)


def test_shards_written_meanwhile_by_another_driver_change_nothing(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    first = columns(merge(run))
    write_shards(run / SHARDS, CRYSTALS, (5, 50), failed=FAILED)
    assert len(shard_ranges(run / SHARDS)) == 6
    second = columns(merge(run))
    assert all(first[name].tobytes() == second[name].tobytes() for name in NAMES)


def test_how_rows_came_about_is_kept(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    with Results(run) as results:
        before = results.notes()
    merge(run)
    with Results(run) as results:
        after = results.notes()
    assert after == before
    assert [(note.start, note.stop, note.worker) for note in after] == [
        (0, 10, "here"),
        (10, 35, "here"),
        (35, 60, "here"),
    ]
    assert all(abs(note.written - time.time()) < 60 and note.timing == {"predict": 0.5} for note in after)


def test_of_refused_crystals_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = [Reason.EMPTY, Reason.DUPLICATE_ID, Reason.DISORDERED]
    refused = [Rejection(f"r{k}", f"r{k}.cif", reasons[k % 3], f"r{k}: Ü{'x' * k}") for k in range(20)]
    run = write_run(tmp_path / "run", made_batch(10), (), rejections=refused)
    monkeypatch.setattr(parts, "REFUSED_BLOCK", 4)
    monkeypatch.setattr(PackedCrystals, "rejections", None)
    read: list[tuple[str, int, int]] = []
    before = PackedCrystals.rejection_text

    def noted(crystals: PackedCrystals, field: str, start: int, stop: int) -> Sequence[str]:
        read.append((field, start, stop))
        return before(crystals, field, start, stop)

    monkeypatch.setattr(PackedCrystals, "rejection_text", noted)
    with Results(run) as results:
        places = np.array([3, 12, 13, 29])
        assert results.take("id", places).tolist()[1:] == [b"r2", b"r3", b"r19"]
        assert read == [("ids", 2, 4), ("ids", 19, 20)]
        assert results.take("status", places[1:]).tolist() == [1, 1, 2]
        assert results.take("nsites", places[1:]).tolist() == [0, 0, 0]
        assert {field for field, _, _ in read} == {"ids", "reasons"}
        everyone = np.arange(30)
        assert results.take("message", everyone).tolist() == [None] * 10 + [one.message for one in refused]
        assert results.take("reason", everyone).tolist() == [b""] * 10 + [one.reason.encode() for one in refused]
