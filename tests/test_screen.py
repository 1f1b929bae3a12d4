"""A whole screen with a real model: the same bytes however it is cut and run, refused to others, whole totals."""

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import screens
from distributed import SpecCluster
from made import PERIODIC_KINDS, made_batch, made_crystals

from screening.crystals.packed import PackedCrystals
from screening.crystals.write import write
from screening.errors import FileFormatError, InputError, ResourceError
from screening.predictions import Target
from screening.pretrained.shipped import RUN_MODEL
from screening.runs import dask_crew, provenance, run_folder
from screening.runs.claim import Claim
from screening.runs.config import BatchSettings, InputSettings, ScreenConfig, ShardSettings
from screening.runs.listener import Listener, Progress
from screening.runs.local_cluster import Layout, local_cluster
from screening.runs.screen import Screened, atom_budget, screen
from screening.store.read import Results
from screening.store.record import RESULTS, RUN_FILE, SHARDS, read_record
from screening.store.schema import Status
from screening.store.shard import shard_ranges, write_shard

COUNT = 500


@pytest.fixture(scope="module")
def cluster() -> Iterator[SpecCluster]:
    with local_cluster(Layout(2, 1, 4_000_000_000)) as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with crystals, a model, and the right results."""
    folder = tmp_path_factory.mktemp("screen")
    marks = {3: screens.RAISES, 250: screens.IS_NAN, 499: screens.OVERFLOWS}
    packed = screens.packed_file(folder / "c.h5", COUNT, marks=marks)
    model = screens.saved_model(folder / "m.safetensors")
    screens.reference(folder / "right", screens.job_of(folder / "none", packed, model, load=screens.harmful))
    return folder


def screened(made: Path, run: Path, cluster: SpecCluster, inputs: Any = None, **options: Any) -> Screened:
    listener = Listener(**options.pop("listening", {}))
    settings = ScreenConfig(
        **{"model": str(made / "m.safetensors"), "shards": ShardSettings(least=20, most=90)} | options
    )
    return screen(
        [made / "c.h5"] if inputs is None else inputs,
        run,
        settings,
        cluster=cluster,
        listener=listener,
        load=screens.harmful,
    )


def assert_right(made: Path, run: Path) -> None:
    screens.assert_same_columns(screens.columns_of(run), screens.columns_of(made / "right"))


WAYS = {
    "as ever": {},
    "one shard": {"shards": ShardSettings(least=COUNT, most=COUNT)},
    "a crystal each": {"shards": ShardSettings(least=1, most=7)},
    "by atoms": {"shards": ShardSettings(least=100, most=500, atoms=300)},
    "small batches": {"batches": BatchSettings(max_atoms=30, max_edges=200)},
    "threads": {"threads": 3},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_results_do_not_depend_on_how_they_were_made(
    tmp_path: Path, made: Path, cluster: SpecCluster, way: str
) -> None:
    done = screened(made, tmp_path / "run", cluster, **WAYS[way])
    assert_right(made, tmp_path / "run")
    assert done.counts == {Status.OK: COUNT - 3, Status.REJECTED: 0, Status.DUPLICATE: 0, Status.FAILED: 3}
    assert done.progress.statuses == {"ok": COUNT - 3, "failed": 3}
    if way == "by atoms":
        assert len(shard_ranges(tmp_path / "run" / SHARDS)) > 10


def test_what_is_predicted_is_what_the_model_predicts(made: Path) -> None:
    right = screens.predictions_of(made / "c.h5", made / "m.safetensors")
    with Results(made / "right") as results:
        for _, columns in results.blocks(["id", "status", "targets/band_gap", "targets/formation_energy_per_atom"]):
            for k in np.flatnonzero(columns["status"] == Status.OK).tolist():
                found = {name.removeprefix("targets/"): columns[name][k] for name in columns if "/" in name}
                assert found == right[columns["id"][k].decode()]


def test_a_finished_run_changes_nothing(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    run = tmp_path / "run"
    screened(made, run, cluster)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    events: list[str] = []
    done = screened(made, run, cluster, listening={"tell": lambda kind, facts: events.append(kind)})
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert (events, done.progress.rows, done.counts[Status.OK]) == ([], 0, COUNT - 3)
    # Without the shards too, which nobody needs any more.
    for _, _, path in shard_ranges(run / SHARDS):
        path.unlink()
    assert screened(made, run, cluster).progress.rows == 0


def test_shards_of_any_cut_are_used(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    """A run that was begun with other sizes, and by two drivers at once."""
    run = tmp_path / "run"
    screened(made, run, cluster, shards=ShardSettings(least=70, most=70))
    (run / RESULTS).unlink()
    for start, _, path in shard_ranges(run / SHARDS):
        if start % 3:
            path.unlink()
    left = COUNT - sum(stop - start for start, stop, _ in shard_ranges(run / SHARDS))
    assert screened(made, run, cluster, shards=ShardSettings(least=9, most=9)).progress.rows == left
    assert_right(made, run)
    (run / RESULTS).unlink()
    ours = screens.job_of(run / SHARDS, made / "c.h5", made / "m.safetensors", load=screens.harmful)
    screens.compute(ours, (35, 190), (0, 41))
    assert screened(made, run, cluster).progress.rows == 0
    assert_right(made, run)


def test_progress_and_events_tell_what_happens(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    shown: list[Progress] = []
    events: list[tuple[str, dict[str, Any]]] = []
    listening = {
        "show": lambda progress: shown.append(replace(progress)),
        "tell": lambda kind, facts: events.append((kind, facts)),
    }
    screened(made, tmp_path / "run", cluster, listening=listening)
    assert [progress.rows for progress in shown] == sorted(progress.rows for progress in shown)
    last = shown[-1]
    assert (last.done, last.total, last.lost_workers) == (COUNT, COUNT, 0)
    assert 1 <= last.workers <= 2
    assert last.rate > 0
    assert last.seconds_left == 0
    assert {"read", "graphs", "model", "write", "all"} <= last.seconds.keys()
    assert last.dashboard.startswith("http://127.0.0.1:")
    kinds = [kind for kind, _ in events]
    assert (kinds[0], kinds[-2:]) == ("started", ["ended", "merged"])
    assert kinds.count("worker_joined") == last.workers
    rows = sorted(row for kind, f in events if kind == "shard" for row in range(f["start"], f["stop"]))
    assert rows == list(range(COUNT))
    assert sorted(f["row"] for kind, f in events if kind == "crystal_failed") == [3, 250, 499]
    json.dumps(events)


def test_the_folder_says_what_ran(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    run = tmp_path / "run"
    screened(made, run, cluster, threads=2)
    record = read_record(run)
    assert record.rows == COUNT
    assert record.packed == made / "c.h5"
    content = record.content
    assert content["model"]["card"]["title"] == "untrained"
    assert (content["device"], content["config"]["threads"]) == ("cpu", 2)
    assert content["crystal_limits"] == {"min_distance": 0.5, "min_volume_per_atom": 0.5, "max_atoms": None}
    start, end = (json.loads(line) for line in (run / "provenance.jsonl").read_text().splitlines())
    assert (start["event"], end["event"], end["finished"], end["rows"]) == ("start", "end", True, COUNT)
    assert start["packages"]["torch"]
    assert start["commit"]
    assert start["config"]["shards"] == {"least": 20, "most": 90, "atoms": 1_000_000}


def test_clocks_that_jump_change_nothing(
    tmp_path: Path, made: Path, cluster: SpecCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's, by a million seconds at each look, forth and back: it was suspended, or the clock was set."""
    jumps = itertools.count()

    def jumping() -> float:
        return 1e6 * (next(jumps) % 7) * (-1) ** next(jumps)

    monkeypatch.setattr(dask_crew, "time", SimpleNamespace(monotonic=jumping))
    monkeypatch.setattr(provenance, "datetime", JumpingDates)
    events: list[str] = []
    done = screened(made, tmp_path / "run", cluster, listening={"tell": lambda kind, facts: events.append(kind)})
    assert done.progress.statuses == {"ok": COUNT - 3, "failed": 3}
    assert done.progress.lost_workers == 0
    assert not {"worker_died", "worker_ended", "worker_unfit", "shard_lost"} & set(events)
    assert_right(made, tmp_path / "run")


class JumpingDates(datetime):
    """Dates before and after the year in turn."""

    turns = itertools.count()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "JumpingDates":
        return cls(1990 + 50 * (next(cls.turns) % 2), 1, 1, tzinfo=tz)


def test_another_version_that_goes_on_says_so(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    run = tmp_path / "run"
    said: list[str] = []
    screened(made, run, cluster)
    (run / RESULTS).unlink()
    screened(made, run, cluster, listening={"say": said.append})
    assert said == []
    content = json.loads((run / RUN_FILE).read_text())
    (run / RUN_FILE).write_text(json.dumps(content | {"code_version": "0.0.1", "commit": "0123456789ab"}))
    (run / RESULTS).unlink()
    told: list[str] = []
    screened(made, run, cluster, listening={"say": said.append, "tell": lambda kind, facts: told.append(kind)})
    assert "begun with version 0.0.1 0123456789ab, and goes on with" in said[0]
    assert told[0] == "other_version"


def test_on_a_gpu_a_run_goes_on_with_the_same_batches(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    run = tmp_path / "run"
    screened(made, run, cluster)
    content = json.loads((run / RUN_FILE).read_text())
    (run / RUN_FILE).write_text(json.dumps(content | {"device": "cuda"}))
    with pytest.raises(InputError, match=r"batches, on which last bits depend on a GPU: there .*10000.*, now .*30"):
        screened(made, run, cluster, device="cuda", batches=BatchSettings(max_atoms=30))


def ends(run: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "provenance.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "end"]


@pytest.mark.parametrize("error", [ResourceError("the disk is full"), SystemExit(143)], ids=["error", "second signal"])
def test_an_end_is_noted_whatever_it_is(tmp_path: Path, made: Path, cluster: SpecCluster, error: BaseException) -> None:
    def fail(progress: Progress) -> None:
        if progress.workers:
            raise error

    told: list[dict[str, Any]] = []
    listening = {"show": fail, "tell": lambda kind, facts: told.append(facts) if kind == "ended" else None}
    with pytest.raises(type(error)):
        screened(made, tmp_path / "run", cluster, listening=listening)
    why = "the disk is full" if isinstance(error, ResourceError) else "SystemExit"
    assert [(end["finished"], end["why"]) for end in ends(tmp_path / "run")] == [(False, why)]
    assert [(end["finished"], end["why"]) for end in told] == [(False, why)]


def test_what_killed_drivers_left_is_swept(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in (RUN_FILE, RESULTS, "input.h5"):
        (run / f"{name}.0123abcd.part").write_text("half")
    screened(made, run, cluster)
    assert list(run.rglob("*.part")) == []


def test_a_driver_that_lost_its_claim_neither_packs_nor_begins(
    tmp_path: Path, made: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(claim: Claim) -> None:
        raise ResourceError("another driver has taken this run over")

    monkeypatch.setattr(Claim, "check", lost)
    config = ScreenConfig(model=str(made / "m.safetensors"))
    for inputs in ([files], [made / "c.h5"]):
        with pytest.raises(ResourceError, match="another driver"):
            screen(inputs, tmp_path / "run", config)
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["shards"]


# --- inputs that are no packed file ------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of crystals, of which some are refused."""
    folder = tmp_path / "files"
    folder.mkdir()
    write(made_crystals(30, prefix="a"), folder / "a.extxyz", format="extxyz")
    write(made_crystals(5, prefix="a"), folder / "again.extxyz", format="extxyz")
    (folder / "broken.cif").write_text("data_x\n")
    return folder


def test_files_are_packed_once_and_totals_add_up(tmp_path: Path, made: Path, cluster: SpecCluster, files: Path) -> None:
    run = files / "run"  # as when one screens the folder one is in
    (files / "log.jsonl").write_text("{}\n")
    model, config = made / "m.safetensors", ScreenConfig(model=str(made / "m.safetensors"))
    done = screen([files], run, config, cluster=cluster, ignore=[files / "log.jsonl"])
    assert done.counts == {Status.OK: 30, Status.REJECTED: 1, Status.DUPLICATE: 5, Status.FAILED: 0}
    assert read_record(run).input == "input.h5"
    packed = (run / "input.h5").stat().st_mtime_ns
    (run / RESULTS).unlink()
    (files / "log.jsonl").write_text("{}\n{}\n")
    again = screen([files], run, config, cluster=cluster, ignore=[files / "log.jsonl"])
    assert (again.progress.rows, (run / "input.h5").stat().st_mtime_ns) == (0, packed)
    moved = screen([run / "input.h5"], run, config, cluster=cluster)
    assert moved.counts == done.counts
    with PackedCrystals(run / "input.h5") as crystals:
        assert crystals.limits.min_distance == 0.5
    assert model.exists()


def test_labels_that_are_no_numbers_are_told_when_files_are_packed(tmp_path: Path, made: Path) -> None:
    crystals = made_crystals(2, kinds=PERIODIC_KINDS, labels=())
    write([replace(one, labels={"band_gap": 1.5}) for one in crystals], tmp_path / "a.extxyz", format="extxyz")
    (tmp_path / "a.extxyz").write_text((tmp_path / "a.extxyz").read_text().replace("band_gap=1.5", "band_gap=wide"))
    said: list[str] = []
    config = ScreenConfig(model=str(made / "m.safetensors"))
    model, listener = run_folder.ModelFile.of(config.model), Listener(say=said.append)
    folder = run_folder.made_folder(tmp_path / "run")
    run_folder.opened_run(folder, [tmp_path / "a.extxyz"], model, config, listener)
    told = f"2 labels are no finite numbers and count as missing, the first: band_gap of {crystals[0].id}"
    assert said == [told]


def test_inputs_that_changed_are_refused(tmp_path: Path, made: Path, cluster: SpecCluster, files: Path) -> None:
    run, config = tmp_path / "run", ScreenConfig(model=str(made / "m.safetensors"))
    screen([files], run, config, cluster=cluster)
    with pytest.raises(InputError, match=r"another run \(input: there 1 inputs, now 2\)"):
        screen([files, files / "a.extxyz"], run, config, cluster=cluster)
    with pytest.raises(InputError, match=r"input: there with .*'min_distance': 0.5.*, now .*'min_distance': 0.8"):
        screen([files], run, config.model_copy(update={"input": InputSettings(min_distance=0.8)}), cluster=cluster)
    os.utime(files / "broken.cif", (1, 1))
    said = r"files: there and now 3 files of [\d,]+ bytes, but names, sizes or times of change are others\);"
    with pytest.raises(InputError, match=said):
        screen([files], run, config, cluster=cluster)
    (files / "broken.cif").write_text("data_yy\n")
    with pytest.raises(InputError, match=r"files: there 3 files of .* now 3 files .* or name .*input.h5 as the input"):
        screen([files], run, config, cluster=cluster)
    with pytest.raises(InputError, match=r"input: there /.*/files, now /.*/a.extxyz"):
        screen([files / "a.extxyz"], run, config, cluster=cluster)


def test_another_model_device_or_input_is_refused_with_the_difference(
    tmp_path: Path, made: Path, cluster: SpecCluster
) -> None:
    run = tmp_path / "run"
    screened(made, run, cluster)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    other = screens.saved_model(tmp_path / "other.safetensors", seed=3)
    with pytest.raises(InputError, match=r"\(model: there .*m\.safetensors \(untrained, .*other\.safetensors"):
        screened(made, run, cluster, model=str(other))
    with pytest.raises(InputError, match=r"another run \(device: there cpu, now cuda\); choose another folder"):
        screened(made, run, cluster, device="cuda")
    with pytest.raises(InputError, match=r"another run \(embeddings: there without them, now with\)"):
        screened(made, run, cluster, embeddings=True)
    packed = screens.packed_file(tmp_path / "other.h5", COUNT + 1)
    with pytest.raises(InputError, match=r"another run \(input: there crystals .*, now .* in /.*/other.h5\)"):
        screened(made, run, cluster, [packed])
    with pytest.raises(InputError, match=r"input: there /.*/c.h5, now /.*/c.h5, /.*/other.h5"):
        screened(made, run, cluster, [made / "c.h5", packed])
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    with pytest.raises(InputError, match=r"input: there with .*'max_atoms': None.*, now .*'max_atoms': 5"):
        screened(made, run, cluster, input=InputSettings(max_atoms=5))
    moved = tmp_path / "moved.h5"
    moved.write_bytes((made / "c.h5").read_bytes())
    assert screened(made, run, cluster, [moved]).progress.rows == 0, "where the crystals lie does not matter"


def test_limits_that_a_packed_file_was_not_packed_with_pack_it_again(
    tmp_path: Path, made: Path, cluster: SpecCluster
) -> None:
    done = screened(made, tmp_path / "run", cluster, input=InputSettings(max_atoms=5))
    assert done.counts[Status.REJECTED] > 0
    assert sum(done.counts.values()) == COUNT
    assert read_record(tmp_path / "run").input == "input.h5"


def test_nothing_that_cannot_be_right_makes_a_folder(tmp_path: Path, made: Path) -> None:
    run, config = tmp_path / "run", ScreenConfig(model=str(made / "m.safetensors"))
    with pytest.raises(InputError, match=r"none\.h5: no such file or folder"):
        screen([tmp_path / "none.h5"], run, config)
    with pytest.raises(InputError, match="nothing to screen"):
        screen([], run, config)
    with pytest.raises(InputError, match="none: is no file, no folder and no shipped model"):
        screen([made / "c.h5"], run, config.model_copy(update={"model": "none"}))
    encoder = screens.saved_model(tmp_path / "encoder.safetensors", targets=[])
    with pytest.raises(InputError, match="is a pre-trained encoder, which predicts nothing; give it heads"):
        screen([made / "c.h5"], run, config.model_copy(update={"model": str(encoder)}))
    with pytest.raises(InputError, match="no GPU can be used"):
        screen([made / "c.h5"], run, config.model_copy(update={"device": "cuda"}))
    assert not run.exists()
    run.write_text("a file")
    with pytest.raises(ResourceError, match="cannot be made a folder"):
        screen([made / "c.h5"], run, config)


def test_the_folder_of_a_training_run_is_refused(tmp_path: Path, made: Path) -> None:
    from screening.training import loop, recipe

    assert recipe.CONFIG_FILE == run_folder.TRAINING_BEGINS
    of_training = {loop.JOURNAL_FILE, loop.STATE_FILE, RUN_MODEL, recipe.FOLDS_FILE}
    assert of_training == set(run_folder.TRAINING_LEAVES) - {"fold-0"}
    config = ScreenConfig(model=str(made / "m.safetensors"))
    for name in run_folder.TRAINING_LEAVES:
        trained = tmp_path / name
        trained.mkdir()
        for left in (run_folder.TRAINING_BEGINS, name):
            (trained / left).touch()
        with pytest.raises(InputError, match=f"{name}: is the folder of a training run; choose another folder"):
            screen([made / "c.h5"], trained, config)
        assert sorted(path.name for path in trained.iterdir()) == sorted([run_folder.TRAINING_BEGINS, name])


def test_a_record_that_was_damaged_is_told(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    run = tmp_path / "run"
    screened(made, run, cluster)
    (run / RUN_FILE).write_text("{")
    with pytest.raises(FileFormatError, match=r"run\.json: is not JSON"):
        screened(made, run, cluster)


def test_a_shard_of_another_run_is_told_and_left_alone(tmp_path: Path, made: Path, cluster: SpecCluster) -> None:
    run = tmp_path / "run"
    screened(made, run, cluster)
    (run / RESULTS).unlink()
    start, stop, path = shard_ranges(run / SHARDS)[0]
    job = screens.job_of(tmp_path / "none", made / "c.h5", made / "m.safetensors")
    foreign = replace(job.stamp, model_hash="0" * 64, targets=(Target("band_gap", "eV"),))
    with PackedCrystals(made / "c.h5") as crystals:
        rows = screens.rows_of_nothing(crystals.atoms(start, stop), start, foreign.targets)
    write_shard(run / SHARDS, rows, foreign, timing={})
    with pytest.raises((FileFormatError, InputError), match=path.name):
        screened(made, run, cluster)
    assert path.exists()


def test_the_budget_of_atoms_ends_a_range() -> None:
    batch = made_batch(40)

    class Stored:
        def atom_offsets(self, start: int, stop: int) -> Any:
            return batch.atom_offsets[start : stop + 1].astype(np.int64)

    cut = atom_budget(Stored(), 50)  # type: ignore[arg-type]
    start, cuts = 0, []
    while start < 40:
        stop = cut(start, min(start + 9, 40))
        atoms = int(batch.atom_offsets[stop] - batch.atom_offsets[start])
        assert 0 < stop - start <= 9
        assert atoms <= 50 or stop == start + 1
        start = stop
        cuts.append(atoms)
    assert sum(cuts) == len(batch.numbers)
    assert atom_budget(Stored(), 1)(0, 9) == 1  # type: ignore[arg-type]
