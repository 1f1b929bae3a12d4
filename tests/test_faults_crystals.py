"""Crystals that crash, hang or exhaust the memory of their worker cost a row each; all others come out as ever."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import screens
from distributed import SpecCluster

from screening.runs.config import LimitSettings, ScreenConfig, ShardSettings
from screening.runs.listener import Listener
from screening.runs.local_cluster import Layout, local_cluster
from screening.runs.screen import screen
from screening.store.schema import Status
from screening.store.shard import read_shard, shard_ranges

# Enough for a worker, and soon full.
MEMORY = 700_000_000
COUNT = 120
# Silence of two heartbeats; what hangs costs it four times.
PATIENCE = 5.0
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cluster() -> Iterator[SpecCluster]:
    with local_cluster(Layout(3, 1, MEMORY)) as found:
        yield found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return screens.saved_model(tmp_path_factory.mktemp("model") / "m.safetensors")


def settings(model: Path, *, patience: float) -> ScreenConfig:
    return ScreenConfig(
        model=str(model), shards=ShardSettings(least=4, most=8), limits=LimitSettings(patience=patience)
    )


def failures_in(run: Path) -> set[tuple[int, str, str]]:
    failures = [f for _, _, path in shard_ranges(run / "shards") for f in read_shard(path).failures]
    return {(f.row, f.reason, f.message) for f in failures}


def test_every_harm_costs_one_row(tmp_path: Path, cluster: SpecCluster, model: Path) -> None:
    marks = {
        7: screens.RAISES,
        30: screens.SEGFAULTS,
        31: screens.IS_NAN,
        57: screens.HANGS,
        81: screens.OVERFLOWS,
        99: screens.FREEZES,
        119: screens.TOO_LARGE,
    }
    packed = screens.packed_file(tmp_path / "c.h5", COUNT, marks=marks)
    events: list[tuple[str, dict[str, Any]]] = []
    done = screen(
        [packed],
        tmp_path / "run",
        settings(model, patience=PATIENCE),
        cluster=cluster,
        listener=Listener(tell=lambda kind, facts: events.append((kind, facts))),
        load=screens.arithmetic,
    )
    assert done.counts == {Status.OK: COUNT - 7, Status.REJECTED: 0, Status.DUPLICATE: 0, Status.FAILED: 7}
    assert failures_in(tmp_path / "run") == {
        (7, "model_error", "ValueError: the crystal is cursed"),
        (30, "killed_worker", "killed its worker, twice"),
        (31, "non_finite_prediction", "predicted nan for formation_energy_per_atom, nan for band_gap"),
        (57, "timed_out", f"took longer than {PATIENCE:g} s, twice"),
        (81, "non_finite_prediction", "predicted inf for band_gap"),
        (99, "timed_out", f"took longer than {PATIENCE:g} s, twice"),
        (119, "out_of_memory", "MemoryError"),
    }
    told = {facts["id"] for kind, facts in events if kind == "crystal_failed"}
    assert told == {f"made-{row:09d}" for row in marks}
    # And each row but those is what it is when nothing goes wrong.
    right = screens.packed_file(tmp_path / "harmless.h5", COUNT)
    job = screens.job_of(tmp_path / "none", right, model, load=screens.arithmetic)
    screens.reference(tmp_path / "right", job)
    values = screens.values_of(tmp_path / "run")
    expected = screens.values_of(tmp_path / "right")
    assert values.keys() == expected.keys()
    assert {id for id in values if values[id] != expected[id]} == {f"made-{row:09d}" for row in marks}


def test_a_machine_whose_memory_somebody_else_takes_costs_no_crystal(
    tmp_path: Path, cluster: SpecCluster, model: Path
) -> None:
    packed = screens.packed_file(tmp_path / "c.h5", COUNT)
    ended: list[str] = []
    listener = Listener(tell=lambda kind, facts: ended.append(facts["why"]) if kind == "worker_ended" else None)
    load = screens.crowded_in_one_process
    done = screen(
        [packed], tmp_path / "run", settings(model, patience=600), cluster=cluster, load=load, listener=listener
    )
    assert done.counts[Status.OK] == COUNT
    assert len(ended) == 1
    assert re.match("UnwellMachineError: OutOfMemoryError: 2 MiB .*; so does what is known to be good: OutOf", ended[0])


def test_one_that_exhausts_memory_costs_one_row(tmp_path: Path, cluster: SpecCluster, model: Path) -> None:
    """Its worker ends it when it sees it, however long that takes."""
    packed = screens.packed_file(tmp_path / "c.h5", 12, marks={8: screens.HOGS})
    done = screen([packed], tmp_path / "run", settings(model, patience=600), cluster=cluster, load=screens.arithmetic)
    assert done.counts == {Status.OK: 11, Status.REJECTED: 0, Status.DUPLICATE: 0, Status.FAILED: 1}
    assert failures_in(tmp_path / "run") == {(8, "killed_worker", "killed its worker, twice")}
