"""A lease in one process: the right shard, whatever the batches, with bad crystals as rows."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgpack
import numpy as np
import pytest
import screens
import torch
from made import made_batch

from screening import inference
from screening.arrays import Float64
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Reason, Rejection
from screening.crystals.packed import PackedCrystals
from screening.crystals.packed_writer import PackedWriter
from screening.errors import FileFormatError, InputError, ResourceError
from screening.graphs import Graphs, Neighbors, pack_graphs
from screening.models import checkpoint
from screening.predictions import FailureReason, Predictions, Target
from screening.runs import predictor, row_reader
from screening.runs.dask_tasks import SIGNS, Sign, message_of, signs_of
from screening.runs.isolate import BrokenWorkerError
from screening.runs.plan import Lease, Rows, Verdict
from screening.runs.predictor import ModelPredictor
from screening.runs.row_reader import UnreadableRowsError
from screening.runs.stages import Stages
from screening.runs.worker import Engine, Job, require_job
from screening.store.merge import merge
from screening.store.read import Results
from screening.store.record import SHARDS, record_of, write_record
from screening.store.rows import ShardRows
from screening.store.schema import Status
from screening.store.shard import ShardFile, read_failures, read_shard, shard_name

pytestmark = pytest.mark.native

MARKS = {3: screens.RAISES, 40: screens.IS_NAN, 41: screens.OVERFLOWS, 77: screens.TOO_LARGE}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Packed crystals and a model."""
    folder = tmp_path_factory.mktemp("worker")
    refused = [Rejection("x", "x.cif", Reason.EMPTY, "x: has no atoms")]
    packed = screens.packed_file(folder / "c.h5", 90, marks=MARKS, refused=refused)
    return packed, screens.saved_model(folder / "m.safetensors")


@pytest.fixture
def job(made: tuple[Path, Path], tmp_path: Path) -> Job:
    return screens.job_of(tmp_path / "shards", *made, load=screens.harmful)


def done(job: Job, *leases: tuple[int, int]) -> list[ShardRows]:
    engine = Engine(job)
    for number, (start, stop) in enumerate(leases):
        engine.compute(Lease(number, Rows(start, stop), "w"))
    engine.close()
    return [read_shard(path) for path in sorted(job.shards.iterdir())]


def test_a_shard_holds_what_the_model_predicts_and_why_not(job: Job) -> None:
    (rows,) = done(job, (0, 90))
    right = screens.predictions_of(job.packed, job.model)
    for k, id in enumerate(rows.ids):
        for name, value in right[id].items():
            found = rows.values[name][k]
            assert np.isnan(found) if k in MARKS else found == np.float32(value)
    assert np.flatnonzero(rows.status == Status.FAILED).tolist() == sorted(MARKS)
    assert [(f.row, f.reason, f.message) for f in rows.failures] == [
        (3, "model_error", "ValueError: the crystal is cursed"),
        (40, "non_finite_prediction", "predicted nan for formation_energy_per_atom, nan for band_gap"),
        (41, "non_finite_prediction", "predicted inf for band_gap"),
        (77, "out_of_memory", "MemoryError"),
    ]


def test_embeddings_go_along_and_are_missing_where_predictions_are(job: Job) -> None:
    plain = replace(job, embeddings=False)
    (rows,) = done(replace(job, embeddings=True), (0, 90))
    assert rows.embedding is not None
    assert rows.embedding.shape == (90, 8)
    assert np.flatnonzero(np.isnan(rows.embedding).any(axis=1)).tolist() == sorted(MARKS)
    assert np.flatnonzero(np.isnan(rows.embedding).all(axis=1)).tolist() == sorted(MARKS)
    (without,) = done(plain, (0, 90))
    assert without.embedding is None
    for name, column in without.values.items():
        assert rows.values[name].tobytes() == column.tobytes()


@pytest.mark.parametrize("options", [{"max_atoms": 1}, {"max_atoms": 60, "max_edges": 300}, {"threads": 3}], ids=str)
def test_neither_batches_nor_threads_nor_cuts_change_a_bit(job: Job, tmp_path: Path, options: dict[str, int]) -> None:
    (whole,) = done(job, (0, 90))
    other = replace(job, shards=tmp_path / "other", **options)  # type: ignore[arg-type]
    other.shards.mkdir()
    parts = done(other, (0, 7), (50, 90), (7, 50))
    for name, column in whole.values.items():
        assert np.concatenate([part.values[name] for part in parts]).tobytes() == column.tobytes()
    assert [f for part in parts for f in part.failures] == list(whole.failures)


def test_a_report_counts_rows_and_times_stages(job: Job) -> None:
    engine = Engine(replace(job, threads=2))
    report = engine.compute(Lease(5, Rows(0, 50), "w"))
    assert (report.lease, report.start, report.stop) == (5, 0, 50)
    assert report.statuses == {"ok": 47, "failed": 3}
    failures = read_failures(next(job.shards.iterdir()))
    assert [(id, failure.row) for id, failure in failures] == [(f"made-{row:09d}", row) for row in (3, 40, 41)]
    assert set(report.seconds) == {"read", "graphs", "model", "describe", "write", "all"}
    with ShardFile(next(job.shards.iterdir())) as file:
        assert {"read", "graphs", "model", "describe"} <= set(file.attributes["timing"].replace('"', " ").split())
        assert file.attributes["worker"].split()[1].isdecimal()
    engine.close()


def test_what_is_sent_stays_small_whatever_fails_and_whatever_its_id(job: Job, tmp_path: Path) -> None:
    """File names that are no UTF-8 are lone surrogates in ids, which msgpack refuses; shards keep them."""
    batch = screens.marked(made_batch(200), dict.fromkeys(range(200), screens.RAISES))
    packed = tmp_path / "surrogates.h5"
    with PackedWriter(packed) as writer:
        writer.append(replace(batch, ids=[f"{chr(0xDC00 + k)}.cif" for k in range(200)]))
    engine = Engine(screens.job_of(job.shards, packed, job.model, load=screens.arithmetic))
    report = engine.compute(Lease(1, Rows(0, 200), "w"))
    engine.close()
    assert len(msgpack.packb(message_of(report))) < 1000
    failures = read_failures(job.shards / shard_name(0, 200))
    assert [(id, f.row) for id, f in failures] == [(f"{chr(0xDC00 + k)}.cif", k) for k in range(200)]


def test_a_verdict_is_recorded_without_predicting(job: Job) -> None:
    engine = Engine(job)
    engine.compute(Lease(1, Rows(3, 4), "w", Verdict(FailureReason.KILLED_WORKER, "killed its worker, twice")))
    (rows,) = [read_shard(path) for path in job.shards.iterdir()]
    assert [(f.row, f.reason, f.message) for f in rows.failures] == [(3, "killed_worker", "killed its worker, twice")]
    assert rows.formulas[0]
    engine.close()


def test_a_verdict_is_merged_with_embeddings(job: Job, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / SHARDS).mkdir(parents=True)
    engine = Engine(replace(job, shards=run / SHARDS, embeddings=True))
    verdict = Verdict(FailureReason.TIMED_OUT, "took longer than 2 s, twice")
    for lease in (Lease(1, Rows(0, 10), "w"), Lease(2, Rows(10, 11), "w", verdict), Lease(3, Rows(11, 90), "w")):
        engine.compute(lease)
    engine.close()
    write_record(record_of(run, job.stamp, job.packed, 90))
    with Results(merge(run)) as results:
        (_, columns), *_ = results.blocks(["status", "embedding"])
    assert columns["status"][10] == Status.FAILED
    assert columns["embedding"].shape == (91, 8)
    missing = np.isnan(columns["embedding"]).all(axis=1)
    assert np.flatnonzero(missing).tolist() == sorted([*MARKS, 10, 90])


@dataclass
class Gated(screens.Harmful):
    """A predictor of one thread that predicts a batch for each `release` of its gate."""

    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __call__(self, crystals: Crystals, stages: Stages) -> Float64:
        assert self.gate.acquire(timeout=60)
        return super().__call__(crystals, stages)


def stage_of(engine: Engine, lease: int) -> str:
    return engine.signs().get(f"run {lease}", ["", ""])[0]


def at_work(engine: Engine, number: int, start: int, stop: int) -> threading.Thread:
    """A lease in a thread of its own."""
    lease = Lease(number, Rows(start, stop), "w")
    thread = threading.Thread(target=engine.compute, args=(lease,), kwargs={"name": "run"})
    thread.start()
    return thread


def test_a_lease_gives_a_sign_of_life_for_each_batch_and_says_when_it_waits_for_another(
    job: Job, tmp_path: Path
) -> None:
    made: list[Gated] = []
    engine = Engine(
        replace(job, max_atoms=1, load=lambda job: made.append(Gated(screens.arithmetic(job), tmp_path)) or made[0])
    )
    gate = made[0].gate
    first = at_work(engine, 1, 50, 53)
    screens.wait_for(lambda: stage_of(engine, 1) == "predict")
    second = at_work(engine, 2, 53, 55)
    screens.wait_for(lambda: stage_of(engine, 2) == "wait")
    waiting = engine.signs()["run 2"]
    seen = [engine.signs()["run 1"]]
    for _ in range(2):
        gate.release()
        screens.wait_for(lambda: engine.signs()["run 1"] != seen[-1])
        seen.append(engine.signs()["run 1"])
        assert engine.signs()["run 2"] == waiting, "it has no turn yet"
    assert {stage for stage, _ in seen} == {"predict"}
    gate.release()
    screens.wait_for(lambda: stage_of(engine, 2) == "predict")
    gate.release(2)
    first.join()
    second.join()
    assert engine.signs() == {}
    engine.close()


def test_signs_of_life_survive_the_way_through_the_scheduler() -> None:
    metrics = {SIGNS: {"screening-1f 7": ["predict", "3"], "screening-2e 8": ["wait", "2"]}}
    assert signs_of({"metrics": metrics}) == [
        Sign("screening-1f", 7, "predict 3", computing=True, waiting=False),
        Sign("screening-2e", 8, "wait 2", computing=False, waiting=True),
    ]
    assert signs_of({}) == []


def test_another_model_input_or_other_targets_are_refused(job: Job, tmp_path: Path) -> None:
    other = screens.saved_model(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(InputError, match="is not the model that the run began with"):
        Engine(replace(job, model=other))
    with pytest.raises(InputError, match=r"gone.safetensors: cannot be read on .* \(No such file"):
        Engine(replace(job, model=tmp_path / "gone.safetensors"))
    with pytest.raises(InputError, match="holds other crystals than when the run began"):
        Engine(replace(job, packed=screens.packed_file(tmp_path / "d.h5", 80)))
    foreign = replace(job.stamp, targets=(Target("band_gap", "eV"),))
    with pytest.raises(InputError, match=r"predicts .* the run is of"):
        Engine(replace(job, stamp=foreign))


def test_a_damaged_input_block_is_an_error_and_leaves_no_shard(job: Job, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.h5"
    content = bytearray(job.packed.read_bytes())
    with PackedCrystals(job.packed) as packed:
        block = packed._columns["positions"].id.get_chunk_info(0)
    middle = block.byte_offset + block.size // 2
    content[middle : middle + 64] = bytes(64)
    damaged.write_bytes(content)
    engine = Engine(replace(job, packed=damaged))
    with pytest.raises(FileFormatError, match=r"damaged.h5: cannot read it"):
        engine.compute(Lease(1, Rows(0, 50), "w"))
    assert list(job.shards.iterdir()) == []
    assert engine.signs() == {}
    engine.close()


def test_troubles_of_a_file_system_that_pass_are_waited_for(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_reader, "PAUSES_S", (0.0,) * 3)
    engine = Engine(job)
    before, left = PackedCrystals.atoms, [3]

    def flaky(packed: PackedCrystals, start: int, stop: int) -> Crystals:
        left[0] -= 1
        if left[0] >= 0:
            raise ResourceError("c.h5: cannot be read now (Stale file handle)")
        return before(packed, start, stop)

    monkeypatch.setattr(PackedCrystals, "atoms", flaky)
    stale = engine.packed
    assert engine.compute(Lease(1, Rows(50, 60), "w")).statuses == {"ok": 10}
    assert engine.packed is not stale, "a stale handle stays stale"
    left[0] = 4
    with pytest.raises(UnreadableRowsError, match="Stale file handle"):
        engine.compute(Lease(2, Rows(60, 70), "w"))
    engine.close()


def test_what_every_worker_would_meet_is_met_here_too(job: Job, tmp_path: Path) -> None:
    require_job(job)
    assert list(job.shards.iterdir()) == []
    with pytest.raises(InputError, match="is not the model that the run began with"):
        require_job(replace(job, model=screens.saved_model(tmp_path / "other.safetensors", seed=1)))
    with pytest.raises(ResourceError, match="cannot be written"):
        require_job(replace(job, shards=tmp_path / "none"))


def test_atoms_alone_are_read_faster_and_are_the_same(made: tuple[Path, Path]) -> None:
    with PackedCrystals(made[0]) as packed:
        plain, full = packed.atoms(20, 60), packed[20:60]
        assert (plain.labels, plain.forces, plain.sources) == ({}, None, ())
        for name in ("numbers", "positions", "lattice", "pbc", "atom_offsets"):
            assert getattr(plain, name).tobytes() == getattr(full, name).tobytes()
        assert list(plain.ids) == list(full.ids)
        np.testing.assert_array_equal(packed.atom_offsets(20, 60) - packed.atom_offsets(20, 20)[0], full.atom_offsets)


class Stream:
    """A CUDA stream, where there is none."""

    def __init__(self, device: object) -> None:
        self.waited = 0

    def synchronize(self) -> None:
        self.waited += 1


@pytest.fixture
def on_gpu(job: Job, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelPredictor]:
    """A predictor that believes to be on a GPU, which does whatever it is asked."""
    for name, made_up in {
        "synchronize": lambda device: None,
        "empty_cache": lambda: None,
        "Stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, made_up)
    model, _ = checkpoint.load(job.model)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *place, **options: module)
    monkeypatch.setattr(predictor, "usable_device", torch.device)
    found = ModelPredictor(model, device="cuda", max_atoms=1000, max_edges=10**6)
    yield found
    found.close()


def graphs_on_cpu(crystals: Crystals, neighbors: Neighbors, *, device: str) -> Graphs:
    assert device == "cuda"
    return pack_graphs(crystals, neighbors)


def test_graphs_are_made_while_the_model_is_at_other_crystals(
    on_gpu: ModelPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs_of_second, at_model, most = threading.Event(), [], []

    def make(crystals: Crystals, neighbors: Neighbors, *, device: str) -> Graphs:
        if len(crystals) == 2:
            graphs_of_second.set()
        return graphs_on_cpu(crystals, neighbors, device=device)

    def predict(model: object, graphs: Graphs, *, embeddings: bool) -> Predictions:
        at_model.append(len(graphs))
        most.append(len(at_model))
        if len(graphs) == 1:
            assert graphs_of_second.wait(60), "it is at the model until the others' graphs are begun"
        found = inference.predict_graphs(on_gpu.model, graphs, embeddings=embeddings)
        at_model.pop()
        return found

    monkeypatch.setattr(predictor, "pack_graphs", make)
    monkeypatch.setattr(predictor, "predict_graphs", predict)
    batch = made_batch(3)
    waiting = [on_gpu.pool.submit(on_gpu, part, Stages()) for part in (batch[:1], batch[1:])]
    assert [len(future.result()) for future in waiting] == [1, 2]
    assert most == [1, 1], "but the model is at one batch at a time"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), ResourceError("out of memory in the native core")])
def test_a_gpu_that_was_full_is_emptied(
    on_gpu: ModelPredictor, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    emptied: list[int] = []

    def fail(crystals: Crystals, neighbors: Neighbors, *, device: str) -> Graphs:
        raise error

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    monkeypatch.setattr(predictor, "pack_graphs", fail)
    with pytest.raises(type(error)):
        on_gpu(made_batch(3), Stages())
    assert emptied == [1]
    predictor.recover(on_gpu.device, RuntimeError("of another kind"))
    assert emptied == [1]
    assert on_gpu.max_atoms == 1000


def test_batches_get_smaller_and_never_larger(on_gpu: ModelPredictor) -> None:
    for atoms, expected in ((300, 300), (500, 300), (0, 1)):
        on_gpu.shrink(atoms)
        assert on_gpu.max_atoms == expected


def test_a_device_that_works_no_more_ends_the_worker_not_the_crystals(
    on_gpu: ModelPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(device: object) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    with pytest.raises(BrokenWorkerError, match="the device cuda works no more: an illegal memory access"):
        predictor.recover(on_gpu.device, RuntimeError("in a kernel"))
