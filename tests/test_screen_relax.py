"""A whole screen that relaxes: the same bytes however it is run and stopped, refused to others, told to the user."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import relaxing
import screens
import torch
from distributed import SpecCluster
from sizes import SMOOTH, small

from screening import config
from screening.errors import InputError
from screening.models import checkpoint, registry
from screening.models.header import Card
from screening.models.potential_files import required_energy
from screening.predictions import FailureReason, Target
from screening.query.query import Query
from screening.runs.config import BatchSettings, RelaxationSettings, ScreenConfig, ShardSettings
from screening.runs.listener import Listener, Progress
from screening.runs.local_cluster import Layout, local_cluster
from screening.runs.run_folder import ModelFile
from screening.runs.screen import Screened, screen
from screening.runs.slurm.batch import BatchRun, batch_script
from screening.runs.slurm.profile import Profile
from screening.runs.worker import load_predictor
from screening.store.merge import merge
from screening.store.record import RELAXED, RESULTS, SHARDS, read_record
from screening.store.schema import Status
from screening.store.shard import shard_ranges

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cluster() -> Iterator[SpecCluster]:
    with local_cluster(Layout(2, 1, 4_000_000_000)) as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with crystals, a model, a potential, and the right results."""
    folder = tmp_path_factory.mktemp("screen")
    packed = relaxing.packed_file(folder / "c.h5")
    model, potential = screens.saved_model(folder / "m.safetensors"), relaxing.saved_potential(folder / "p.safetensors")
    screens.reference(folder / "right", relaxing.relaxing_job(folder / "none", packed, model, potential), (13,))
    return folder


def settings(made: Path, **options: Any) -> ScreenConfig:
    asked = {"potential": str(made / "p.safetensors")} | options.pop("relax", {})
    relax = relaxing.SETTINGS.model_copy(update=asked) if asked["potential"] else RelaxationSettings()
    given = {"model": str(made / "m.safetensors"), "shards": ShardSettings(least=5, most=9), "relax": relax}
    return ScreenConfig(**given | options)


def screened(made: Path, run: Path, cluster: SpecCluster, load: Any = load_predictor, **options: Any) -> Screened:
    listener = Listener(**options.pop("listening", {}))
    packed = options.pop("packed", made / "c.h5")
    return screen([packed], run, settings(made, **options), cluster=cluster, listener=listener, load=load)


def assert_right(made: Path, run: Path) -> None:
    screens.assert_same_columns(relaxing.bytes_of(run), relaxing.bytes_of(made / "right"))


WAYS: dict[str, dict[str, Any]] = {
    "as ever": {},
    "one shard": {"shards": ShardSettings(least=100, most=100)},
    "a crystal each, small batches": {
        "shards": ShardSettings(least=1, most=4),
        "batches": BatchSettings(max_atoms=30, max_edges=200, relax_atoms=9),
        "threads": 3,
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_the_results_do_not_depend_on_how_they_were_made(
    tmp_path: Path, made: Path, cluster: SpecCluster, way: str
) -> None:
    shown: list[tuple[int, int]] = []
    watch = {"show": lambda progress: shown.append((progress.done, progress.total))}
    done = screened(made, tmp_path / "run", cluster, listening=watch, **WAYS[way])
    assert_right(made, tmp_path / "run")
    with Query(tmp_path / "run").results as results:
        held = results.counts()
    assert done.counts == held
    assert done.counts[Status.REJECTED] == done.counts[Status.DUPLICATE] == 1
    assert done.counts[Status.FAILED] > 0
    assert shown[-1] == (relaxing.COUNT, relaxing.COUNT)
    assert "relax" in done.progress.seconds


def test_the_record_and_the_results_name_the_potential(made: Path, tmp_path: Path, cluster: SpecCluster) -> None:
    run = tmp_path / "run"
    screened(made, run, cluster)
    record = read_record(run)
    potential = ModelFile.of(str(made / "p.safetensors"))
    assert record.stamp.relaxation == relaxing.SETTINGS.relaxation(potential.hash)
    assert record.content["potential"]["card"]["title"] == "untrained potential"
    assert record.content["relaxation"]["steps"] == relaxing.SETTINGS.steps
    with Query(run).results as results:
        assert results.stamp == record.stamp


def test_another_potential_or_way_to_relax_is_refused(made: Path, tmp_path: Path, cluster: SpecCluster) -> None:
    run = tmp_path / "run"
    screened(made, run, cluster)
    (run / RESULTS).unlink()
    other = relaxing.saved_potential(tmp_path / "other.safetensors", seed=1)
    refused = {
        r"potential: there .*p\.safetensors \(untrained potential.*other\.safetensors": {"potential": str(other)},
        r"relax\.force there 0\.3, now 0\.2, relax\.cells there True, now False": {"force": 0.2, "cells": False},
        "relaxation: there with it, now without it": {"potential": None},
    }
    for words, relax in refused.items():
        with pytest.raises(InputError, match=f"another run \\({words}"):
            screened(made, run, cluster, relax=relax)
    plain = tmp_path / "plain"
    screened(made, plain, cluster, relax={"potential": None})
    assert not (plain / RELAXED).exists()
    assert "relaxation" not in Query(plain).fields
    with pytest.raises(InputError, match="relaxation: there without it, now with it"):
        screened(made, plain, cluster)
    assert screened(made, run, cluster).progress.rows == 0, "its own goes on, and merges"
    assert_right(made, run)


def test_a_crystal_that_kills_its_worker_while_it_is_relaxed_is_found(
    made: Path, tmp_path: Path, cluster: SpecCluster
) -> None:
    packed = relaxing.packed_file(tmp_path / "marked.h5", 12, marks={7: screens.SEGFAULTS})
    run = tmp_path / "run"
    load = relaxing.with_harmful_relaxer
    screened(made, run, cluster, load, packed=packed, shards=ShardSettings(least=4, most=4))
    found = Query(run).status("failed").where(f"reason = '{FailureReason.KILLED_WORKER}'")
    frame = found.columns("row", "message", "relaxation").frame()
    assert frame.rows() == [(7, "killed its worker, twice", None)]
    whole = Query(run).status("ok", "failed").columns("row", "relaxation").frame()
    assert whole["relaxation"].null_count() == 1


# --- on the command line, stopped and gone on with -----------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    screens.end_all()


def command(made: Path, run: Path, workers: int) -> list[object]:
    relax = ["--relax", made / "p.safetensors", "--set", "relax.force=0.3", "--set", "relax.stress=0.05"]
    relax += ["--set", "relax.steps=12", "--set", "relax.swell=1.15"]
    least = ["--set", "shards.least=2", "--set", "shards.most=4", "--workers", workers, "--threads", 1, "--quiet"]
    return ["screen", made / "c.h5", "--out", run, "--model", made / "m.safetensors", *relax, *least]


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_killed_in_the_middle_and_gone_on_with(made: Path, tmp_path: Path, first: int, then: int) -> None:
    run = tmp_path / "run"
    process = screens.started(tmp_path, "gated_model", *command(made, run, first))
    screens.wait_for(lambda: (run / SHARDS).is_dir() and len(shard_ranges(run / SHARDS)) >= screens.FREE)
    left = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    os.kill(process.pid, signal.SIGKILL)
    screens.ended(process)
    screens.wait_for(lambda: not any(map(psutil.pid_exists, left)))
    before = {path.name: path.stat().st_mtime_ns for _, _, path in shard_ranges(run / SHARDS)}
    (tmp_path / "gate").touch()
    code, _, errors = screens.ended(screens.started(tmp_path, "gated_model", *command(made, run, then)))
    assert (code, errors) == (0, "")
    after = {path.name: path.stat().st_mtime_ns for _, _, path in shard_ranges(run / SHARDS)}
    assert before.items() <= after.items(), "what is done stays as it is"
    assert_right(made, run)


# --- what cannot be right ------------------------------------------------------------------------------------------


def test_a_model_that_is_no_potential_is_refused_before_there_is_a_folder(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    jumping = tmp_path / "jumping.safetensors"
    checkpoint.save(registry.build("sieve", small("sieve"), [relaxing.ENERGY]), jumping, Card())
    for potential, words in {
        jumping: "is no potential: a sieve with these neighbours is not smooth",
        tmp_path / "none": "is no file, no folder and no shipped model",
    }.items():
        with pytest.raises(InputError, match=words):
            screen([made / "c.h5"], run, settings(made, relax={"potential": str(potential)}))
    gap = tmp_path / "gap.safetensors"
    model = registry.build("sieve", small("sieve") | SMOOTH["sieve"], [Target("band_gap", "eV")])
    checkpoint.save(model, gap, Card())
    with pytest.raises(InputError, match="predicts band_gap, and has learned no forces"):
        screen([made / "c.h5"], run, settings(made, relax={"potential": str(gap)}))
    assert not run.exists()


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [*((name, {}) for name in sorted(registry.ARCHITECTURES)), *SMOOTH.items()],
    ids=lambda value: value if isinstance(value, str) else "smooth" if value else "usual",
)
def test_headers_tell_potentials_as_models_do(architecture: str, settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = registry.build(architecture, small(architecture) | settings, [relaxing.ENERGY])
    checkpoint.save(model, tmp_path / "m.safetensors", Card())
    if model.is_smooth:
        assert required_energy(tmp_path / "m.safetensors") == relaxing.ENERGY
    else:
        with pytest.raises(InputError, match="is no potential"):
            required_energy(tmp_path / "m.safetensors")


def test_shards_are_smaller_when_crystals_are_relaxed_unless_told_otherwise(made: Path) -> None:
    potential = str(made / "p.safetensors")
    for relax in ({"potential": potential}, RelaxationSettings(potential=potential)):
        found = ScreenConfig(relax=relax)
        assert (found.shards.least, found.shards.most) == (100, 1000)
    assert config.load(ScreenConfig, None, overrides=["relax.potential=p", "shards.most=300"]).shards.most == 300
    assert ScreenConfig(relax={"potential": "p"}, shards=ShardSettings()).shards == ShardSettings()


def test_settings_of_a_relaxation_without_a_potential_are_refused() -> None:
    both = r"relax: relax.force and relax.steps are set, but relax.potential is not, .*; name a potential with --relax"
    with pytest.raises(InputError, match=both):
        config.load(ScreenConfig, None, overrides=["relax.steps=3", "relax.force=0.05"])
    with pytest.raises(InputError, match=r"relax.steps is set, but relax.potential is not"):
        config.load(BatchRun, None, overrides=["inputs=['c.h5']", "out='r'", "relax.steps=500"])
    resolved = ScreenConfig().model_dump(mode="json")
    assert ScreenConfig.model_validate(resolved) == ScreenConfig()
    assert RelaxationSettings(**resolved["relax"]).in_vain == ()


def test_a_submitted_run_relaxes_too(made: Path) -> None:
    run = config.load(
        BatchRun, None, overrides=["inputs=['c.h5']", "out='r'", "relax.potential='p'", "relax.steps=7", "model='m'"]
    )
    script = batch_script(run, Profile(nodes=1, cores=2, memory="1G", walltime="1:00:00"))
    assert "relax.potential=" in script
    assert "relax.steps=7" in script
    assert "shards.least=100" in script


def test_progress_tells_time_left(made: Path, tmp_path: Path, cluster: SpecCluster) -> None:
    shown: list[Progress] = []
    events: list[str] = []

    def show(progress: Progress) -> None:
        if progress.rows and progress.done < progress.total:
            assert progress.seconds_left is not None
            assert progress.seconds_left > 0
        shown.append(progress)

    listening = {"show": show, "tell": lambda kind, facts: events.append(json.dumps([kind, facts]))}
    screened(made, tmp_path / "run", cluster, listening=listening)
    assert shown[-1].seconds_left == 0
    assert any('"crystal_failed"' in event and "relaxation_diverged" in event for event in events)


def test_parts_of_a_run_relax_and_are_merged(made: Path, tmp_path: Path) -> None:
    for part in ("1/2", "2/2"):
        started = screens.started(tmp_path, "load_predictor", *command(made, tmp_path / "run", 1), "--part", part)
        assert screens.ended(started)[0] == 0
    assert not (tmp_path / "run" / RELAXED).exists()
    merge(tmp_path / "run")
    assert_right(made, tmp_path / "run")
