"""Engines of several runs in one worker process: made once each, never closed in use, closed when idle."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import screens

from screening.runs import engines as module
from screening.runs.engines import Engines
from screening.runs.plan import Lease, Rows
from screening.runs.worker import Job, Predictor


@pytest.fixture
def job(tmp_path: Path) -> Job:
    model = screens.saved_model(tmp_path / "m.safetensors")
    packed = screens.packed_file(tmp_path / "c.h5", 60)
    return screens.job_of(tmp_path / "shards", packed, model, load=screens.arithmetic)


def test_an_engine_is_made_once(job: Job) -> None:
    made: list[Predictor] = []

    def load(job: Job) -> Predictor:
        made.append(screens.arithmetic(job))
        return made[-1]

    engines, together = Engines(), threading.Barrier(4)

    def use(k: int) -> object:
        together.wait()
        with engines.use(replace(job, load=load)) as engine:
            return engine

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(use, range(4)))) == 1
    assert len(made) == 1


def test_runs_do_not_disturb_each_other(job: Job, tmp_path: Path) -> None:
    engines = Engines(idle_s=0.0)
    other = replace(job, shards=tmp_path / "other")
    other.shards.mkdir()
    with engines.use(job) as ours:
        with engines.use(other) as theirs:
            assert theirs is not ours
            theirs.compute(Lease(1, Rows(0, 60), "w"), name="theirs")
        engines.close_idle()
        assert ours.compute(Lease(1, Rows(0, 60), "w"), name="ours").statuses == {"ok": 60}
        with engines.use(job) as again:
            assert again is ours
    assert len(list(job.shards.iterdir())) == len(list(other.shards.iterdir())) == 1


def test_signs_are_of_all_runs(job: Job) -> None:
    engines = Engines()
    with engines.use(job) as ours, engines.use(replace(job, max_atoms=7)) as theirs:
        ours._note("ours 1", "read")
        theirs._note("theirs 1", "wait")
        assert engines.signs() == {"ours 1": ["read", "1"], "theirs 1": ["wait", "1"]}


def test_what_is_idle_is_closed_after_a_while(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    engines = Engines(idle_s=10.0)
    with engines.use(job) as first:
        now[0] = 100.0
        engines.close_idle()
        with engines.use(job) as second:
            assert second is first
    now[0] = 105.0
    engines.close_idle()
    with engines.use(job) as third:
        assert third is first
    now[0] = 116.0
    engines.close_idle()
    with engines.use(job) as fourth:
        assert fourth is not first


def test_an_engine_that_cannot_be_made_is_tried_again(job: Job) -> None:
    engines = Engines()

    def load(job: Job) -> Predictor:
        raise RuntimeError("no")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"), engines.use(replace(job, load=load)):
            pass
    with engines.use(job) as engine:
        assert engine.job == job
