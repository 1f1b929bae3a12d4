"""The study of derivative-based pre-training: its plan, its configurations, what it makes of metrics."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import derivative_study
import numpy as np
import pytest
from derivative.crystals import PUBLISHED, crystal_of, make_crystals
from derivative.plan import (
    FEW,
    KINDS,
    MODULI,
    SCRATCH,
    SETTINGS,
    SIEVE,
    WHOLE,
    FineTuning,
    PreTraining,
    Run,
    planned,
)
from derivative.report import best_two, claims_table, pretraining_table, published_table, report_of
from derivative.running import PUBLISHED_FILE, config_of, run_all, state_of
from derivative.settings import StudySettings
from made import PERIODIC_KINDS, made_crystals
from sizes import SMOOTH, small

from screening import config
from screening.crystals.crystal import Crystal
from screening.crystals.read import read
from screening.crystals.write import write
from screening.errors import InputError
from screening.training.config import TrainingConfig
from screening.training.forces_config import ForcesConfig
from screening.training.lessons.registry import lesson_of
from screening.training.material import Listener
from screening.training.recipe import claim

STUDY = config.load(StudySettings, derivative_study.STUDY)
SILENT = Listener(lambda text: None, lambda progress: None)


@pytest.fixture(autouse=True)
def no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the repository holds of the study out of the tests."""
    monkeypatch.setattr("record.FILE", str(tmp_path / "measured.json"))


def metrics(out: Path, run: FineTuning, choice: float, measure: float) -> None:
    def of(value: float) -> dict[str, Any]:
        return {"targets": {name: {"mae": value} for name in run.task.targets}}

    folder = out / run.name
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"validation": of(choice), "test": of(measure)}))


def test_runs_have_names_of_their_own_and_come_after_what_they_need() -> None:
    runs = planned(["E", "EFS"])
    names = [run.name for run in runs]
    assert len(set(names)) == len(names)
    for place, run in enumerate(runs):
        if isinstance(run, FineTuning) and run.needs is not None:
            assert run.needs in runs[:place]


def test_every_run_has_a_configuration_that_is_valid(tmp_path: Path) -> None:
    for run in planned(["E"]):
        settings = config_of(run, STUDY, tmp_path)
        assert isinstance(settings, ForcesConfig if isinstance(run, PreTraining) else TrainingConfig)
        assert lesson_of(settings).new_model().is_smooth
        if isinstance(settings, TrainingConfig):
            assert (settings.init is None) == (run.kind == SCRATCH)
            assert settings.init is None or not settings.init.readout, "all starts give as much"


def test_the_list_and_an_empty_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert derivative_study.main([str(tmp_path), "--list"]) == 0
    assert "waiting  pretrain-sieve-EFS" in capsys.readouterr().out
    assert derivative_study.main([str(tmp_path), "--report"]) == 0
    assert "open" in (tmp_path / "report.md").read_text()


def test_the_best_two_are_chosen_by_the_crystals_that_choose_and_only_when_all_are_known(tmp_path: Path) -> None:
    kinds = list(KINDS)
    for rank, kind in enumerate(kinds[1:]):
        for seed in range(FEW.seeds):
            # What only measures says the opposite, and must not decide.
            metrics(tmp_path, FineTuning(FEW, kind, SIEVE, seed), 1.0 + rank, 10.0 - rank)
    assert best_two(tmp_path) == []
    for seed in range(FEW.seeds):
        metrics(tmp_path, FineTuning(FEW, kinds[0], SIEVE, seed), 9.0, 0.1)
    assert best_two(tmp_path) == kinds[1:3]


def test_claims_follow_from_pairs_of_one_seed(tmp_path: Path) -> None:
    for seed in range(MODULI.seeds):
        metrics(tmp_path, FineTuning(MODULI, "E", SIEVE, seed), 1.0, 1.0 + 0.1 * seed)
        metrics(tmp_path, FineTuning(MODULI, "EFS", SIEVE, seed), 1.0, 0.9 * (1.0 + 0.1 * seed))
    rows = claims_table(tmp_path).splitlines()
    assert next(row for row in rows if "energy alone" in row).endswith("| 10.0 ± 0.0 % | 6 | confirmed |")
    assert next(row for row in rows if "labels beat denoising" in row).endswith("| 0 | open |")
    assert "| EFS | - | 0.99 ± 0.052 |" in report_of(tmp_path)


def listed(runs: Sequence[Run]) -> Callable[[], Sequence[Run]]:
    return lambda: runs


def test_a_run_waits_for_what_it_starts_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("derivative.running.do", lambda *arguments: pytest.fail("nothing may run"))
    said: list[str] = []
    run = FineTuning(MODULI, "EFS", SIEVE, 0)
    listener = Listener(said.append, lambda progress: None)
    assert not run_all(listed([run]), STUDY, tmp_path, listener, budget_s=60.0)
    assert state_of(run, tmp_path) == "blocked"
    assert said[-1] == "1 runs wait for others that have failed"
    (scratch,) = [one for one in planned() if one.name == "moduli-sieve-scratch-seed0"]
    assert not run_all(listed([run, scratch]), STUDY, tmp_path, listener, budget_s=0.0)
    assert said[-1] == "the budget is spent after 0.00 h: 2 runs are left"


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that take no time: they leave metrics, in which EFS and F are best. The names of what was done."""
    done: list[str] = []

    def do(run: Run, study: StudySettings, out: Path, listener: Listener) -> None:
        done.append(run.name)
        claim(out / run.name, config_of(run, study, out))
        mae = {"mae": 1.0 if run.kind in ("EFS", "F") else 2.0}
        names = run.task.targets if isinstance(run, FineTuning) else ["none"]
        found = {part: {"targets": dict.fromkeys(names, mae)} for part in ("validation", "test")}
        for name in ("metrics.json", "folds.json", PUBLISHED_FILE, "model.safetensors"):
            (out / run.name / name).write_text(json.dumps(found | {"targets": {}}))

    monkeypatch.setattr("derivative.running.do", do)
    monkeypatch.setattr("derivative.running.make_crystals", lambda data, place, say: None)
    return done


def test_one_command_does_the_best_two_on_all_crystals_too(tmp_path: Path, pretend: list[str]) -> None:
    assert derivative_study.main([str(tmp_path), "--quiet"]) == 0
    assert len(pretend) == len(set(pretend)) == len(planned()) + 2
    assert pretend[-2:] == [FineTuning(WHOLE, kind, SIEVE, 0).name for kind in ("F", "EFS")]


def test_what_the_record_holds_is_not_repeated(tmp_path: Path, pretend: list[str]) -> None:
    assert derivative_study.main([str(tmp_path / "one"), "--quiet"]) == 0
    assert derivative_study.main([str(tmp_path / "one"), "--keep"]) == 0
    first = list(pretend)
    assert derivative_study.main([str(tmp_path / "two"), "--quiet"]) == 0
    assert pretend == first
    assert (tmp_path / "two/report.md").read_text() == (tmp_path / "one/report.md").read_text()
    # Of a model that a run starts from the record has no weights.
    missing = FineTuning(MODULI, "EFS", SIEVE, 1)
    shutil.rmtree(tmp_path / "two" / missing.name)
    kept = json.loads((tmp_path / "measured.json").read_text())
    del kept["runs"][missing.name]
    (tmp_path / "measured.json").write_text(json.dumps(kept))
    assert derivative_study.main([str(tmp_path / "two"), "--quiet"]) == 0
    assert pretend[len(first) :] == ["pretrain-sieve-EFS", missing.name]
    assert derivative_study.main([str(tmp_path / "three"), "--quiet", "--afresh"]) == 0
    assert len(pretend) == 2 * len(first) + 2


def test_the_budget_is_of_the_whole_command(tmp_path: Path, pretend: list[str]) -> None:
    hours = iter(range(10_000))
    runs = listed(planned())
    assert not run_all(runs, STUDY, tmp_path, SILENT, budget_s=7.0, clock=lambda: float(next(hours)))
    assert 0 < len(pretend) < 7


def test_a_trial_is_not_taken_for_the_run(tmp_path: Path, pretend: list[str]) -> None:
    words = [str(tmp_path), "--quiet"]
    assert derivative_study.main([*words, "--set", "epochs.pretraining=1"]) == 0
    with pytest.raises(InputError, match=r"holds a run with other settings.*epochs = 1"):
        run_all(listed(planned()), STUDY, tmp_path, SILENT, budget_s=60.0)
    assert derivative_study.main(words) == InputError.exit_code


def data_folder(place: Path) -> Path:
    """A few crystals of every set; frames of mp-1 and mp-3, of which the first two validate and measure."""

    def crystals(names: Sequence[str], *labels: str, forces: bool = False) -> list[Crystal]:
        made = made_crystals(
            len(names), kinds=PERIODIC_KINDS, max_atoms=3, labels=labels, missing=0.0, forces=forces, seed=len(names)
        )
        return [replace(c, id=name, labels=dict(c.labels)) for c, name in zip(made, names, strict=True)]

    frames = ["mp-1-0-3", "mp-1-1-0", "mp-3-0-0", "mvc-9-0-1", "mp-2-0", "agm001"]
    more = [f"agm{k}" for k in range(100, 112)]
    tests = [f"mlearn-Cu-{part}-{k}" for part, count in (("training", 12), ("test", 3)) for k in range(count)]
    copper = [replace(c, numbers=np.full(len(c), 29, np.uint8)) for c in crystals(tests, "energy", forces=True)]
    sets = {
        "forces/mattersim": crystals([*frames, *more], "energy", forces=True),
        "forces/mlearn": copper,
        "forces/monbtaw": crystals([f"monbtaw-W-{k}" for k in range(12)], "energy", forces=True),
        "mp36k/train": crystals(["mp-3", "mp-4"], "bulk_modulus"),
        "mp36k/val": crystals(["mp-1", "mvc-9"], "bulk_modulus"),
        "matbench/phonons": crystals(["mb-1"], "last_phdos_peak"),
    }
    for name, some in sets.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write(some, place / f"{name}.extxyz.gz", format="extxyz")
    return place


def ids(file: Path) -> set[str]:
    return {crystal.id for crystal in read(file)}


@pytest.mark.native
def test_pre_training_sees_no_crystal_that_chooses_or_measures(tmp_path: Path) -> None:
    place = tmp_path / "crystals"
    make_crystals(data_folder(tmp_path / "given"), place, lambda text: None)
    for prefix in ("", "moduli-"):
        assert (ids(place / f"{prefix}choose.extxyz"), ids(place / f"{prefix}measure.extxyz")) == ({"mp-1"}, {"mvc-9"})
    seen = ids(place / "mattersim.extxyz")
    assert {"mp-3-0-0", "mp-2-0", "agm001"} <= seen
    assert not {crystal_of(id) for id in seen} & {"mp-1", "mvc-9"}
    assert ids(place / f"{PUBLISHED}.extxyz") == {f"mlearn-Cu-test-{k}" for k in range(3)}
    assert len(ids(place / "mlearn.extxyz")) == 12


@pytest.mark.native
@pytest.mark.usefixtures("one_torch_thread")
def test_a_potential_is_measured_on_published_test_crystals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, SIEVE, small("sieve") | SMOOTH["sieve"])
    monkeypatch.setattr("screening.training.recipe.draw_curves", lambda *arguments: None)
    study = STUDY.model_copy(
        update={"data": data_folder(tmp_path / "given"), "epochs": STUDY.epochs.model_copy(update={"pretraining": 1})}
    )
    runs = [PreTraining(kind, SIEVE) for kind in ("denoise-head", "F")]
    assert run_all(listed(runs), study, tmp_path, SILENT, budget_s=600.0)
    assert [(tmp_path / run.name / PUBLISHED_FILE).exists() for run in runs] == [False, True]
    table = published_table(tmp_path)
    assert table.startswith("| element | SNAP, published | sieve F |")
    assert "| Cu | 0.060 | - |" not in table
    assert "| Ni | 0.062 | - |" in table
    parts = [row.split("|")[4].strip() for row in pretraining_table(tmp_path).splitlines()[2:]]
    assert set(parts[:4]) == {"validation"}, "a head is not kept for the test"
    assert set(parts[4:]) == {"test"}
