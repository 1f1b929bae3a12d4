"""A lease of a run that relaxes: crystals move, are predicted where they end, and harm nobody but themselves."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import relaxing
import screens

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Reason
from screening.crystals.packed import PackedCrystals
from screening.crystals.validate import CrystalLimits
from screening.errors import FileFormatError, InputError
from screening.inference import predict
from screening.models import checkpoint
from screening.predictions import FailureReason
from screening.query.query import Query
from screening.relaxation.potential import Potential
from screening.relaxation.relax import Outcome, Relaxed, relax
from screening.relaxation_limits import RelaxationLimits
from screening.report.write import write_report
from screening.runs.piece import Relaxing
from screening.runs.plan import Lease, Rows, Verdict
from screening.runs.stages import Stages
from screening.runs.worker import Engine, Job
from screening.store.merge import merge
from screening.store.read import Results
from screening.store.record import RELAXED, RESULTS, SHARDS, record_of, write_record
from screening.store.relaxed import RelaxedRows
from screening.store.rows import ShardRows, volumes_per_atom
from screening.store.schema import Ending, Status
from screening.store.shard import read_shard, shard_ranges, write_shard

pytestmark = pytest.mark.native

# What a crystal does to the model, after it was relaxed.
MARKS = {3: screens.RAISES, 20: screens.IS_NAN}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Packed crystals, a model and a potential."""
    folder = tmp_path_factory.mktemp("relaxing")
    packed = relaxing.packed_file(folder / "c.h5", marks=MARKS)
    return packed, screens.saved_model(folder / "m.safetensors"), relaxing.saved_potential(folder / "p.safetensors")


@pytest.fixture
def job(made: tuple[Path, Path, Path], tmp_path: Path) -> Job:
    return relaxing.relaxing_job(tmp_path / "shards", *made, load=screens.harmful)


@pytest.fixture(scope="module")
def run(made: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged run of several shards, by which the others are measured."""
    folder = tmp_path_factory.mktemp("run")
    merged_run(folder, relaxing.relaxing_job(folder / SHARDS, *made, load=screens.harmful), (7, 30))
    return folder


def merged_run(folder: Path, job: Job, cuts: Sequence[int] = ()) -> Path:
    edges = [0, *cuts, relaxing.COUNT]
    screens.compute(replace(job, shards=folder / SHARDS), *pairwise(edges))
    write_record(record_of(folder, job.stamp, job.packed, relaxing.COUNT))
    return merge(folder)


def one_by_one(made: tuple[Path, Path, Path]) -> list[Relaxed]:
    """What `screening relax` makes of each crystal alone."""
    model, _ = checkpoint.load(made[2])
    wanted = relaxing.SETTINGS.model_dump(exclude={"potential"})
    with PackedCrystals(made[0]) as packed, Potential(model, threads=1) as potential:
        batches = [packed.atoms(k, k + 1) for k in range(len(packed))]
        return [one for batch in batches for one in relax(potential, [batch], RelaxationLimits(**wanted))]


def test_endings_have_the_names_of_outcomes() -> None:
    assert {ending.word for ending in Ending} == {*Outcome, "none"}
    assert [ending.has_atoms for ending in Ending] == [True, True, False, False]


def test_columns_say_what_relaxing_each_alone_gives(made: tuple[Path, Path, Path], run: Path) -> None:
    right = one_by_one(made)
    names = ["relaxation", "relaxation_steps", "unrelaxed_energy_per_atom", "relaxed_energy_per_atom"]
    names += ["remaining_force", "remaining_stress", "volume_change", "volume_per_atom", "nsites"]
    with Results(run) as results, PackedCrystals(made[0]) as packed:
        ((_, columns),) = results.blocks(names)
        before = volumes_per_atom(packed.atoms(0, len(packed)))
        atoms = results.relaxed(np.arange(len(results)))
    endings = [Ending(code).word for code in columns["relaxation"].tolist()]
    assert set(endings) == {"converged", "timed_out", "diverged", "none"}, "a case of each"
    assert endings == [one.outcome.value for one in right] + ["none"] * 2
    for k, one in enumerate(right):
        count, after = len(one.crystal), volumes_per_atom(Crystals.of([one.crystal]))[0]
        numbers = one.energy_before / count, one.energy / count, one.force, one.stress, after / before[k] - 1
        found = [columns[name][k] for name in names[2:7]]
        np.testing.assert_array_equal(np.array(found), np.array(numbers, np.float32))
        assert columns["relaxation_steps"][k] == one.steps
        has_atoms = one.outcome is not Outcome.DIVERGED
        assert columns["volume_per_atom"][k] == pytest.approx(after if has_atoms else before[k], rel=1e-6, nan_ok=True)
        assert (atoms[k] is not None) == has_atoms
        if (there := atoms[k]) is not None:
            np.testing.assert_array_equal(there.positions, one.crystal.positions)
            np.testing.assert_array_equal(there.lattice, one.crystal.lattice)
    assert atoms[len(right) :] == [None, None]
    assert np.isnan(columns["relaxed_energy_per_atom"][len(right) :]).all()


def test_predictions_are_of_the_relaxed_crystals(made: tuple[Path, Path, Path], run: Path) -> None:
    model, _ = checkpoint.load(made[1])
    with PackedCrystals(run / RELAXED) as relaxed, Results(run) as results:
        batch = relaxed.atoms(0, len(relaxed))
        numbers = np.where(batch.numbers > 98, 1, batch.numbers).astype(np.uint8)
        (right,) = predict(model, [replace(batch, numbers=numbers)], threads=1)
        of_id = {id: k for k, id in enumerate(right.ids)}
        ((_, columns),) = results.blocks(["id", "status", "targets/band_gap"])
        for id, status, value in zip(
            columns["id"].tolist(), columns["status"], columns["targets/band_gap"], strict=True
        ):
            if status == Status.OK:
                assert value == np.float32(right.values["band_gap"][of_id[id.decode()]])
    assert (columns["status"] == Status.OK).sum() == len(right) - len(MARKS)


def test_the_relaxed_file_is_a_packed_file_whose_totals_add_up(made: tuple[Path, Path, Path], run: Path) -> None:
    with PackedCrystals(run / RELAXED) as relaxed, PackedCrystals(made[0]) as packed, Results(run) as results:
        assert len(relaxed) + relaxed.rejected == len(packed) == relaxed.attributes["read"]
        ids = list(packed.ids())
        why = results.take("message", np.arange(len(results)))
        for crystal in relaxed:
            origin = packed[ids.index(crystal.id)]
            assert (crystal.source, crystal.pbc, dict(crystal.labels)) == (origin.source, origin.pbc, {})
            np.testing.assert_array_equal(crystal.numbers, origin.numbers)
        refused = relaxed.rejections()
        assert refused
        assert [(one.reason, one.message) for one in refused] == [
            (Reason.NOT_RELAXED, why[ids.index(one.id)]) for one in refused
        ]
        order = [ids.index(id) for id in relaxed.ids()]
        assert order == sorted(order)


@pytest.mark.parametrize(
    ("options", "cuts"),
    [({}, ()), ({"max_atoms": 1, "relax_atoms": 1}, (1, 2, 40)), ({"threads": 3, "relax_atoms": 17}, (24,))],
    ids=["one shard", "each alone", "threads"],
)
def test_neither_batches_nor_threads_nor_cuts_change_a_byte(
    job: Job, tmp_path: Path, run: Path, options: dict[str, Any], cuts: tuple[int, ...]
) -> None:
    other = tmp_path / "other"
    (other / SHARDS).mkdir(parents=True)
    merged_run(other, replace(job, **options), cuts)
    screens.assert_same_columns(relaxing.bytes_of(other), relaxing.bytes_of(run))


def test_blocks_of_the_relaxed_file_end_at_the_same_rows(
    job: Job, tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small they are, and wherever shards end; shards that overlap are cut."""
    monkeypatch.setattr("screening.store.relaxed_writer.BLOCK", 5)
    found = []
    for name, ranges in {"a": [(0, 48)], "b": [(0, 3), (3, 19), (11, 48)]}.items():
        folder = tmp_path / name
        (folder / SHARDS).mkdir(parents=True)
        screens.compute(replace(job, shards=folder / SHARDS), *ranges)
        write_record(record_of(folder, job.stamp, job.packed, relaxing.COUNT))
        merge(folder)
        found.append(relaxing.bytes_of(folder))
    screens.assert_same_columns(found[1], found[0])
    with PackedCrystals(tmp_path / "a" / RELAXED) as ours, PackedCrystals(run / RELAXED) as theirs:
        assert ours.fingerprint == theirs.fingerprint


def shard_of(job: Job, start: int, stop: int, verdict: Verdict | None = None) -> ShardRows:
    engine = Engine(job)
    engine.try_out()
    engine.compute(Lease(1, Rows(start, stop), "w", verdict))
    engine.close()
    (path,) = job.shards.iterdir()
    return read_shard(path)


def test_a_crystal_that_diverges_is_a_row_with_a_reason_and_no_number(job: Job, run: Path) -> None:
    rows = shard_of(job, 0, relaxing.COUNT)
    assert rows.relaxed is not None
    diverged = np.flatnonzero(rows.relaxed.ending == Ending.DIVERGED)
    failures = {failure.row: failure for failure in rows.failures}
    assert set(failures) == {*MARKS, *diverged.tolist()}
    for row in diverged.tolist():
        assert failures[row].reason == FailureReason.RELAXATION_DIVERGED
        assert "fold within" in failures[row].message
        assert all(np.isnan(column[row]) for column in rows.values.values())
    for row in MARKS:
        assert rows.relaxed.has_atoms[row], "what fails to be predicted was relaxed all the same"


@pytest.mark.parametrize(
    ("change", "stress", "said"),
    [
        (np.nan, np.nan, "an atom left all its neighbours within 9 steps of relaxation"),
        (0.01, 0.1, "an atom left all its neighbours or its cell turned inside out within 9 steps of relaxation"),
        (0.5, 0.1, "its volume changed 1.5 fold within 9 steps of relaxation (at most 1.15 fold)"),
        (0.01, np.nan, "after 9 steps of relaxation its energy or its forces were no finite numbers"),
    ],
)
def test_why_a_crystal_diverged_is_told(change: float, stress: float, said: str) -> None:
    one = np.ones(1, np.float32)
    rows = replace(
        RelaxedRows.nothing(1),
        ending=np.full(1, Ending.DIVERGED, np.uint8),
        steps=np.full(1, 9, np.uint32),
        energy=one,
        force=one,
        stress=stress * one,
        volume_change=change * one,
    )
    unused: Any = None
    assert Relaxing(unused, relaxing.SETTINGS.relaxation("hash"), CrystalLimits())._why(rows, 0) == said


def test_energies_that_are_no_numbers_are_told(job: Job, tmp_path: Path) -> None:
    potential = relaxing.saved_potential(tmp_path / "large.safetensors", std=1e300)
    rows = shard_of(relaxing.relaxing_job(tmp_path / "s", job.packed, job.model, potential), 4, 6)
    assert rows.relaxed is not None
    assert {failure.message for failure in rows.failures} == {
        "after 0 steps of relaxation its energy or its forces were no finite numbers"
    }
    assert np.isnan(rows.relaxed.energy).all()


def test_what_relaxes_into_no_crystal_is_refused_as_packing_would(job: Job, tmp_path: Path) -> None:
    """By the limits of the packed input: here, so that hardly any crystal keeps to them."""
    rows = shard_of(replace(job, shards=job.shards), 30, 48)
    engine = Engine(replace(job, shards=tmp_path / "strict"))
    (tmp_path / "strict").mkdir()
    engine.packed.limits = replace(engine.packed.limits, min_distance=1.6)
    engine._relaxing = engine._loaded_potential()
    engine.compute(Lease(1, Rows(30, 48), "w"))
    engine.close()
    strict = read_shard(next((tmp_path / "strict").iterdir()))
    assert rows.relaxed is not None
    assert strict.relaxed is not None
    refused = np.flatnonzero((strict.relaxed.ending == Ending.DIVERGED) & rows.relaxed.has_atoms) + 30
    assert len(refused)
    told = {failure.row: failure for failure in strict.failures}
    for row in refused.tolist():
        assert told[row].reason == FailureReason.RELAXATION_DIVERGED
        assert "steps, in what is no crystal: atom" in told[row].message
        assert told[row].message.endswith("(minimum 1.6)")
    kept = np.flatnonzero(strict.relaxed.has_atoms)
    assert 0 < len(kept) < len(strict)
    np.testing.assert_array_equal(strict.values["band_gap"][kept], rows.values["band_gap"][kept])


def test_a_crystal_that_harms_the_potential_costs_its_own_row_only(job: Job, tmp_path: Path) -> None:
    marks = {5: screens.RAISES, 9: screens.TOO_LARGE}
    packed = relaxing.packed_file(tmp_path / "marked.h5", marks=marks)
    harmful = relaxing.relaxing_job(
        tmp_path / "s", packed, job.model, job.potential or Path(), load_potential=relaxing.harmful_relaxer
    )
    rows = shard_of(harmful, 0, 12)
    told = {f.row: (f.reason, f.message) for f in rows.failures if f.row in marks}
    assert told == {
        5: ("model_error", "while it was relaxed: ValueError: no such element"),
        9: ("out_of_memory", "while it was relaxed: MemoryError"),
    }
    clean = shard_of(relaxing.relaxing_job(tmp_path / "clean", packed, job.model, job.potential or Path()), 0, 12)
    assert rows.relaxed is not None
    assert clean.relaxed is not None
    assert rows.relaxed.ending[[5, 9]].tolist() == [Ending.NONE] * 2
    others = np.delete(np.arange(12), [5, 9])
    np.testing.assert_array_equal(rows.relaxed.energy[others], clean.relaxed.energy[others])
    np.testing.assert_array_equal(rows.values["band_gap"][others], clean.values["band_gap"][others])


def test_a_verdict_is_recorded_without_relaxing(job: Job) -> None:
    rows = shard_of(job, 8, 9, Verdict(FailureReason.KILLED_WORKER, "killed its worker, twice"))
    assert rows.relaxed is not None
    assert (rows.relaxed.ending.tolist(), len(rows.relaxed.positions)) == ([Ending.NONE], 0)


def test_every_step_is_a_sign_of_life(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(job)
    seen: list[str] = []
    monkeypatch.setattr(engine, "_note", lambda key, stage: seen.append(stage))
    engine.compute(Lease(1, Rows(0, 5), "w"))
    engine.close()
    assert seen.count("predict") > relaxing.SETTINGS.steps
    assert engine.job.stamp.relaxation is not None


def test_seconds_of_relaxing_are_told(job: Job) -> None:
    engine = Engine(job)
    report = engine.compute(Lease(1, Rows(0, 5), "w"))
    engine.close()
    assert {"relax", "model"} <= set(report.seconds)


def test_the_potential_takes_fewer_atoms_after_it_was_full(job: Job) -> None:
    engine = Engine(replace(job, relax_atoms=50))
    assert engine._batch_atoms == 50
    assert engine._relaxing is not None
    engine._relaxing.relaxer.shrink(20)
    assert engine._batch_atoms == 20
    with PackedCrystals(job.packed) as packed:
        batch = packed.atoms(30, 40)
        rows = engine._relaxing.relaxer(batch, Stages(), lambda: None)
    assert len(rows) == 10
    engine.close()


def test_another_potential_is_refused(job: Job, tmp_path: Path) -> None:
    other = relaxing.saved_potential(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(InputError, match=r"other\.safetensors: is not the model that the run began with"):
        Engine(replace(job, potential=other))


def test_shards_of_other_settings_are_of_another_run(job: Job, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / SHARDS).mkdir(parents=True)
    screens.compute(replace(job, shards=run / SHARDS), (0, 24))
    settings = relaxing.SETTINGS.model_copy(update={"steps": 3})
    other = relaxing.relaxing_job(run / SHARDS, job.packed, job.model, job.potential or Path(), relax=settings)
    screens.compute(replace(other, load=screens.harmful), (24, 48))
    write_record(record_of(run, job.stamp, job.packed, relaxing.COUNT))
    with pytest.raises(FileFormatError, match=r"is of another run: relaxation .*steps=3.*, expected .*steps=12"):
        merge(run)
    assert not (run / RELAXED).exists()


def test_rows_that_make_no_sense_are_not_written(job: Job, tmp_path: Path) -> None:
    rows = shard_of(job, 0, 10)
    assert rows.relaxed is not None
    wrong: dict[str, ShardRows] = {
        "relaxed and their run is not": replace(rows, relaxed=None),
        "was not relaxed": replace(rows, relaxed=RelaxedRows.nothing(10)),
        "has 9 entries, expected 10": replace(rows, relaxed=replace(rows.relaxed, steps=rows.relaxed.steps[:9])),
        "other numbers of atoms": replace(
            rows, relaxed=replace(rows.relaxed, atom_counts=rows.relaxed.atom_counts + 1)
        ),
        "more or fewer lattices": replace(rows, relaxed=replace(rows.relaxed, lattice=rows.relaxed.lattice[1:])),
        "no finite number": replace(rows, relaxed=replace(rows.relaxed, positions=rows.relaxed.positions * np.nan)),
    }
    for words, bad in wrong.items():
        with pytest.raises(InputError, match=words):
            write_shard(tmp_path, bad, job.stamp, timing={})


# --- asking for them ----------------------------------------------------------------------------------------------


def test_questions_before_merging_and_after_give_the_same_crystals(job: Job, tmp_path: Path, run: Path) -> None:
    open_run = tmp_path / "run"
    (open_run / SHARDS).mkdir(parents=True)
    screens.compute(replace(job, shards=open_run / SHARDS), (0, 11), (11, 48), (5, 20))
    write_record(record_of(open_run, job.stamp, job.packed, relaxing.COUNT))
    best = [Query(folder).top(9, by="band_gap", descending=True) for folder in (open_run, run)]
    assert relaxing.numbers_of(list(best[0].crystals())) == relaxing.numbers_of(list(best[1].crystals()))
    with PackedCrystals(run / RELAXED) as relaxed, PackedCrystals(job.packed) as packed:
        there, came = ({one.id: one for one in file} for file in (relaxed, packed))
        ids = best[1].frame()["id"].to_list()
        assert relaxing.numbers_of(list(best[1].crystals())) == relaxing.numbers_of([there[id] for id in ids])
        plain = list(best[1].unrelaxed().crystals())
        assert relaxing.numbers_of(plain) == relaxing.numbers_of([came[id] for id in ids])
    assert [dict(one.labels) for one in plain] == [dict(one.labels) for one in best[0].crystals()]


def test_columns_of_relaxations_can_be_asked_for(run: Path) -> None:
    query = Query(run)
    for word in Ending.__members__:
        with pytest.raises(InputError, match=f"compares relaxation with '{word}'"):
            query.where(f"relaxation = '{word}'")
    words = ["converged", "timed_out", "diverged"]
    held = [query.status("all").where(f"relaxation = '{word}'").count() for word in words]
    missing = query.status("all").where("relaxation IS NULL").count()
    assert all(held)
    assert sum(held) + missing == query.status("all").count()
    frame = query.where("volume_change < 0 AND relaxation IN ('converged', 'timed_out')").frame()
    assert (frame["volume_change"] < 0).all()
    assert set(frame["relaxation"]) <= set(words)
    failed = query.status("all").columns("id", "relaxation").frame()
    assert failed["relaxation"].null_count() == missing


def test_crystals_without_relaxed_ones_are_not_replaced_silently(run: Path, tmp_path: Path) -> None:
    diverged = Query(run).status("failed").where("relaxation = 'diverged'")
    with pytest.raises(InputError, match="was not relaxed, as its message says"):
        list(diverged.crystals())
    assert len(list(diverged.unrelaxed().crystals())) == diverged.count()
    alone = tmp_path / RESULTS
    alone.write_bytes((run / RESULTS).read_bytes())
    with Results(run) as results:
        packed = results.packed
    with pytest.raises(InputError, match=r"relaxed\.h5: is not there"):
        list(Query(alone, packed=packed).crystals())
    (tmp_path / RELAXED).write_bytes(packed.read_bytes())
    with pytest.raises(FileFormatError, match="is of other results"):
        list(Query(alone, packed=packed).crystals())


def test_the_report_tells_how_relaxations_ended(run: Path, tmp_path: Path) -> None:
    content = json.loads((run / RESULTS).with_name("run.json").read_text())
    card = {"title": "a potential", "elements": [1, 8]}
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (copied / "run.json").write_text(json.dumps(content | {"potential": {"card": card}}))
    (copied / RESULTS).unlink()
    (copied / RELAXED).unlink()
    merge(copied)
    told = write_report(copied, tmp_path / "report.html", by="band_gap", top=relaxing.COUNT)
    assert told.drawn
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "By a potential; cells move; until no force is above 0.3 eV/Å" in page
    with Results(run) as results:
        ((_, columns),) = results.blocks(["relaxation", "status"])
    late = (columns["relaxation"] == Ending.TIMED_OUT) & (columns["status"] == Status.OK)
    assert page.count("its relaxation timed out, with a force of") == late.sum() > 0
    assert "the model and the potential were trained on 2 elements" in page
    (copied / RELAXED).unlink()
    assert not write_report(copied, tmp_path / "again.html").drawn


def test_releases_that_know_nothing_of_relaxing_refuse_its_files(run: Path) -> None:
    """They read version 1, and would take shards that were not relaxed for more of the same run."""
    paths = [run / RESULTS, *(path for _, _, path in shard_ranges(run / SHARDS))]
    versions = set()
    for path in paths:
        with h5py.File(path) as file:
            versions.add(int(file.attrs["schema_version"]))
    assert versions | {json.loads((run / "run.json").read_text())["schema_version"]} == {2}
