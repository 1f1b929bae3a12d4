"""The study of derivative-based pre-training: its plan, its configurations, what it makes of metrics."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import derivative_study
import numpy as np
import pytest
from derivative.crystals import PUBLISHED, make_crystals
from derivative.plan import (
    FEW,
    KINDS,
    LOST,
    MODULI,
    NEAREST,
    PHONONS,
    SCRATCH,
    SIEVE,
    STARTS,
    TASKS,
    TRANSFORMER,
    WHOLE,
    FineTuning,
    PreTraining,
    Run,
    Task,
    pretraining_tuning,
    tuning,
)
from derivative.report import best_two, claims_table, pretraining_table, published_table, report_of
from derivative.running import (
    CRYSTALS,
    PUBLISHED_FILE,
    best_rate,
    config_of,
    fold_errors_of,
    plan_of,
    run_all,
    state_of,
)
from derivative.settings import StudySettings
from made import PERIODIC_KINDS, made_crystals
from sizes import SMOOTH, small

from screening import config
from screening.crystals.crystal import Crystal
from screening.crystals.formulas import reduced_formulas
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


def plan(best: Sequence[str] = ()) -> list[Run]:
    return plan_of(STUDY, best)


def metrics(out: Path, run: FineTuning, choice: float, measure: float) -> None:
    def of(own: dict[str, Any]) -> dict[str, Any]:
        return {"targets": dict.fromkeys(run.task.targets, own)}

    def one(value: float) -> dict[str, Any]:
        # Where a logarithm is learned, the error in the target's own unit decides nothing.
        return of({"mae_log10": value, "mae": 3.0} if run.task == MODULI else {"mae": value})

    folder = out / run.name
    folder.mkdir(parents=True)
    if run.task.folds:
        (folder / "folds.json").write_text("{}")
        for fold in range(5):
            (folder / f"fold-{fold}").mkdir()
            found = {"validation": one(choice + 0.1 * (fold - 2)), "test": one(measure * (0.9 + 0.05 * fold))}
            (folder / f"fold-{fold}/metrics.json").write_text(json.dumps(found))
        return
    (folder / "metrics.json").write_text(json.dumps({"validation": one(choice), "test": one(measure)}))


def learned(out: Path, run: PreTraining, **errors: float) -> None:
    """What a run of pre-training leaves, with these errors."""
    folder = out / run.name
    folder.mkdir(parents=True)
    section = "denoising" if "noise" in errors else "derivatives"
    found = {"validation": {section: {name.replace("_", " "): {"mae": value} for name, value in errors.items()}}}
    (folder / "metrics.json").write_text(json.dumps(found))


def known_rates(out: Path) -> None:
    """As if tuning were done, and had found the second rate of each."""
    for trial in pretraining_tuning(STUDY.pretraining.rates):
        error = 1.0 if trial.rate == STUDY.pretraining.rates[trial.architecture][1] else 2.0
        terms = ["noise"] if "learn" in KINDS[trial.kind] else ["energy", "force", "stress"]
        learned(out, trial, **dict.fromkeys(terms, error))
    for run in tuning(STUDY.tuning):
        metrics(out, run, 1.0 if run.rate == STUDY.tuning[run.architecture][1] else 2.0, 9.0)


def test_runs_have_names_of_their_own_and_come_after_what_they_need() -> None:
    runs = plan(["E", "EFS"])
    names = [run.name for run in runs]
    assert len(set(names)) == len(names)
    for place, run in enumerate(runs):
        if isinstance(run, FineTuning) and run.needs is not None:
            assert run.needs in runs[:place]
    # Each start tries the same rates, and each is in every table.
    for architecture, starts in STARTS.items():
        tried = {
            (task.name, kind): [
                run.rate
                for run in tuning(STUDY.tuning)
                if (run.architecture, run.task, run.kind) == (architecture, task, kind)
            ]
            for task in TASKS[architecture]
            for kind in starts
        }
        assert all(rates == list(STUDY.tuning[architecture]) for rates in tried.values())
        for task in (PHONONS, MODULI):
            seeds = sorted(
                run.seed
                for run in runs
                if isinstance(run, FineTuning)
                and run.rate is None
                and (run.task, run.kind, run.architecture) == (task, starts[-1], architecture)
            )
            assert seeds == list(range(task.seeds))


def test_every_run_has_a_configuration_that_is_valid(tmp_path: Path) -> None:
    known_rates(tmp_path)
    for run in plan(["E"]):
        settings = config_of(run, STUDY, tmp_path)
        assert isinstance(settings, ForcesConfig if isinstance(run, PreTraining) else TrainingConfig)
        assert lesson_of(settings).new_model().is_smooth == (run.kind != NEAREST)
        if isinstance(settings, TrainingConfig) and isinstance(run, FineTuning):
            assert (settings.init is None) == (run.kind in (SCRATCH, NEAREST))
            assert settings.init is None or not settings.init.readout, "all starts give as much"
            assert set(run.task.targets) <= {target.name for target in settings.heads}
            rate = run.rate or (4e-3 if run.task == WHOLE else STUDY.tuning[run.architecture][1])
            assert settings.training.optimiser.rate == rate
        if isinstance(run, PreTraining):
            tried = STUDY.pretraining.rates[run.architecture]
            best = tried[0] if tried[1] in LOST.get((run.architecture, run.kind), ()) else tried[1]
            assert settings.training.optimiser.rate == (run.rate or best)
            long, short = STUDY.pretraining.epochs, STUDY.pretraining.trial_epochs
            assert settings.training.epochs == (long if run.rate is None else short)


def test_kinds_of_pre_training_are_tried_by_what_they_learn(tmp_path: Path) -> None:
    run = PreTraining("E", SIEVE)
    first, second, third = (replace(run, rate=rate) for rate in STUDY.pretraining.rates[SIEVE])
    # Forces, which it does not learn, and single sources decide nothing.
    learned(tmp_path, first, energy=2.0, force=1.0, stress=1.0, energy_of_mlearn=0.1)
    learned(tmp_path, second, energy=1.0, force=9.0, stress=9.0, energy_of_mlearn=9.0)
    assert best_rate(run, STUDY, tmp_path) is None
    assert state_of(run, STUDY, tmp_path) == "blocked"
    (tmp_path / third.name).mkdir()
    (tmp_path / third.name / "failed.txt").write_text("it diverged")
    assert best_rate(run, STUDY, tmp_path) == second.rate
    assert state_of(run, STUDY, tmp_path) == "waiting"


def test_a_rate_that_lost_a_whole_run_is_not_taken_however_well_it_did_in_a_short_one(tmp_path: Path) -> None:
    run = PreTraining("F", SIEVE)
    trials = [replace(run, rate=rate) for rate in STUDY.pretraining.rates[SIEVE]]
    lost = LOST[SIEVE, "F"]
    for rank, trial in enumerate(trials):
        learned(tmp_path, trial, force=0.1 if trial.rate in lost else 1.0 + rank)
    assert set(lost) < set(STUDY.pretraining.rates[SIEVE])
    assert state_of(run, STUDY, tmp_path) == "waiting"
    assert config_of(run, STUDY, tmp_path).training.optimiser.rate == trials[0].rate
    assert best_rate(run, STUDY, tmp_path) == trials[0].rate


def test_each_fold_has_the_rate_that_its_own_validation_chooses(tmp_path: Path) -> None:
    run = FineTuning(PHONONS, "EFS", SIEVE, 0)
    trials = [one for one in tuning(STUDY.tuning) if replace(one, rate=None) == run]
    (target,) = PHONONS.targets
    for rank, trial in enumerate(trials):
        assert fold_errors_of(run, STUDY, tmp_path) == []
        metrics(tmp_path, trial, 5.0, 10.0 * (rank + 1))
        # Each rate is the best of one fold, and what its test says must not decide; of the others the first is.
        file = tmp_path / trial.name / f"fold-{rank + 1}/metrics.json"
        file.write_text(
            json.dumps(
                {part: {"targets": {target: {"mae": mae}}} for part, mae in (("validation", 1.0), ("test", 99.0))}
            )
        )
    found = fold_errors_of(run, STUDY, tmp_path)
    first, second, third = STUDY.tuning[SIEVE]
    assert [rate for rate, _ in found] == [first, first, second, third, first]
    assert [errors[target] for _, errors in found] == pytest.approx([9.0, 99.0, 99.0, 99.0, 11.0])
    # One that diverged is not taken; the others are.
    shutil.rmtree(tmp_path / trials[1].name)
    (tmp_path / trials[1].name).mkdir()
    (tmp_path / trials[1].name / "failed.txt").write_text("it diverged")
    assert [rate for rate, _ in fold_errors_of(run, STUDY, tmp_path)] == [first, first, first, third, first]


@pytest.mark.parametrize(("task", "seed"), [(MODULI, 2), (FEW, 1)])
def test_rates_are_chosen_by_the_crystals_that_choose_when_all_are_known(task: Task, seed: int, tmp_path: Path) -> None:
    run = FineTuning(task, "EFS", SIEVE, seed)
    first, *others = (one for one in tuning(STUDY.tuning) if replace(one, rate=None, seed=seed) == run)
    (tmp_path / first.name).mkdir()
    (tmp_path / first.name / "failed.txt").write_text("it diverged")
    for rank, one in enumerate(others):
        assert best_rate(run, STUDY, tmp_path) is None
        metrics(tmp_path, one, 1.0 + rank, 9.0 - rank)
    assert best_rate(run, STUDY, tmp_path) == others[0].rate


def test_the_list_and_an_empty_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert derivative_study.main([str(tmp_path), "--list"]) == 0
    listed = capsys.readouterr().out
    assert "waiting  pretrain-sieve-EFS-tries-0.002\n" in listed
    assert "blocked  pretrain-sieve-EFS\n" in listed
    assert "blocked  moduli-sieve-scratch-seed0\n" in listed
    assert derivative_study.main([str(tmp_path), "--report"]) == 0
    assert "open" in (tmp_path / "report.md").read_text()


def test_the_best_two_are_chosen_by_the_crystals_that_choose_and_only_when_all_are_known(tmp_path: Path) -> None:
    kinds = list(KINDS)
    for rank, kind in enumerate(kinds[1:]):
        for seed in range(FEW.seeds):
            # What only measures says the opposite, and must not decide.
            metrics(tmp_path, FineTuning(FEW, kind, SIEVE, seed), 1.0 + rank, 10.0 - rank)
    assert best_two(STUDY, tmp_path) == []
    for seed in range(FEW.seeds):
        metrics(tmp_path, FineTuning(FEW, kinds[0], SIEVE, seed), 9.0, 0.1)
    assert best_two(STUDY, tmp_path) == kinds[1:3]
    # One that diverged with one of its seeds is no good start.
    folder = tmp_path / FineTuning(FEW, kinds[1], SIEVE, 0).name
    (folder / "metrics.json").unlink()
    (folder / "failed.txt").write_text("it diverged")
    assert best_two(STUDY, tmp_path) == kinds[2:4]


def test_claims_follow_from_gains_of_one_seed_or_fold_over_all_targets(tmp_path: Path) -> None:
    for task in (MODULI, FEW):
        for seed in range(task.seeds):
            metrics(tmp_path, FineTuning(task, "E", SIEVE, seed), 1.0, 1.0 + 0.1 * seed)
            metrics(tmp_path, FineTuning(task, "EFS", SIEVE, seed), 1.0, 0.9 * (1.0 + 0.1 * seed))

    def row(words: str) -> str:
        return next(row for row in claims_table(STUDY, tmp_path, SIEVE).splitlines() if words in row)

    assert row("energy alone").count("| **+10.0 ± 0.0 %**") == 5
    assert row("energy alone").endswith("| open |"), "one target is missing"
    for kind, error in (("E", 100.0), ("EFS", 80.0), ("F", 72.0)):
        for trial in tuning(STUDY.tuning):
            if (trial.task, trial.kind, trial.architecture) == (PHONONS, kind, SIEVE):
                metrics(tmp_path, trial, 1.0, error)
    assert row("energy alone").endswith("| **+12.0 ± 2.0 %** | yes |")
    assert row("labels beat denoising").endswith("| - | open |")
    assert row("labels are best").endswith("| open |")
    for task in (MODULI, FEW):
        for seed in range(task.seeds):
            metrics(tmp_path, FineTuning(task, "F", SIEVE, seed), 1.0, (0.9 - 0.1 * seed) * (1.0 + 0.1 * seed))
    assert "| -13.7 ± 8.3 %" in row("forces alone"), "of which one target alone says nothing"
    assert row("forces alone").endswith("| no |")
    assert row("labels are best").endswith("| no |")
    assert "nearest" not in claims_table(STUDY, tmp_path, TRANSFORMER)
    report = report_of(STUDY, tmp_path)
    assert "| EFS | 80 ± 2.8 | 0.99 ± 0.052 |" in report
    assert "| CrysGNN study: vanilla | " in report


def listed(runs: Sequence[Run]) -> Callable[[], Sequence[Run]]:
    return lambda: runs


def test_a_run_waits_for_what_it_starts_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("derivative.running.do", lambda *arguments: pytest.fail("nothing may run"))
    said: list[str] = []
    run = FineTuning(MODULI, "EFS", SIEVE, 0)
    listener = Listener(said.append, lambda progress: None)
    assert not run_all(listed([run]), STUDY, tmp_path, listener, budget_s=60.0)
    assert state_of(run, STUDY, tmp_path) == "blocked"
    assert said[-1] == "1 runs wait for others that have failed"
    tried = tuning(STUDY.tuning)[0]
    assert state_of(tried, STUDY, tmp_path) == "waiting"
    assert not run_all(listed([run, tried]), STUDY, tmp_path, listener, budget_s=0.0)
    assert said[-1] == "the budget is spent after 0.00 h: 2 runs are left"


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that take no time: they leave metrics, in which EFS and F are best. The names of what was done."""
    done: list[str] = []

    def do(run: Run, study: StudySettings, out: Path, listener: Listener) -> None:
        if isinstance(run, FineTuning) and run.rate is None and run.task == FEW and run.seed == 0:
            assert config_of(run, study, out).training.optimiser.rate == study.tuning[SIEVE][0]
        if isinstance(run, PreTraining) and run.rate is None:
            first = study.pretraining.rates[run.architecture][0]
            assert config_of(run, study, out).training.optimiser.rate == first
        done.append(run.name)
        claim(out / run.name, config_of(run, study, out))
        error = 1.0 if run.kind in ("EFS", "F") else 2.0
        mae = {"mae": error, "mae_log10": error}
        names = run.task.targets if isinstance(run, FineTuning) else ["none"]
        terms = dict.fromkeys(("energy", "force", "stress"), mae)
        found = {part: {"targets": dict.fromkeys(names, mae), "derivatives": terms} for part in ("validation", "test")}
        for fold in range(5):
            (out / run.name / f"fold-{fold}").mkdir(exist_ok=True)
            (out / run.name / f"fold-{fold}/metrics.json").write_text(json.dumps(found))
        for name in ("metrics.json", "folds.json", PUBLISHED_FILE, "model.safetensors"):
            folds = {key: {"mae": {"each": [error]}} for key in names} if name == "folds.json" else {}
            (out / run.name / name).write_text(json.dumps(found | {"targets": folds}))

    monkeypatch.setattr("derivative.running.do", do)
    monkeypatch.setattr("derivative.running.make_crystals", lambda data, place, say: None)
    return done


def test_one_command_does_the_best_two_on_all_crystals_too(tmp_path: Path, pretend: list[str]) -> None:
    assert derivative_study.main([str(tmp_path), "--quiet"]) == 0
    assert len(pretend) == len(set(pretend)) == len(plan()) + 2 * WHOLE.seeds
    for seed in range(WHOLE.seeds):
        assert {FineTuning(WHOLE, kind, SIEVE, seed).name for kind in (NEAREST, SCRATCH, "F", "EFS")} <= set(pretend)


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
    runs = listed(plan())
    assert not run_all(runs, STUDY, tmp_path, SILENT, budget_s=7.0, clock=lambda: float(next(hours)))
    assert 0 < len(pretend) < 7


def test_a_trial_is_not_taken_for_the_run(tmp_path: Path, pretend: list[str]) -> None:
    words = [str(tmp_path), "--quiet"]
    assert derivative_study.main([*words, "--set", "pretraining.epochs=5"]) == 0
    with pytest.raises(InputError, match=r"holds a run with other settings.*training.epochs there 5, now"):
        run_all(listed(plan()), STUDY, tmp_path, SILENT, budget_s=60.0)
    assert derivative_study.main(words) == InputError.exit_code


def test_trials_are_shorter_than_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert derivative_study.main([str(tmp_path), "--list", "--set", "pretraining.epochs=4"]) == InputError.exit_code
    assert "trial_epochs is 4, not less than epochs, 4" in capsys.readouterr().err


# Whose formula each crystal of the validation file has, by the number of the frame.
HELD = {0: "mp-1", 3: "mvc-9"}


def data_folder(place: Path) -> Path:
    """A few crystals of every set; the crystals that validate and measure have the formulas of two frames."""

    def crystals(names: Sequence[str], *labels: str, forces: bool = False) -> list[Crystal]:
        made = made_crystals(
            len(names), kinds=PERIODIC_KINDS, max_atoms=3, labels=labels, missing=0.0, forces=forces, seed=len(names)
        )
        return [replace(c, id=name, labels=dict(c.labels)) for c, name in zip(made, names, strict=True)]

    frames = ["mp-1-0-3", "mp-1-1-0", "mp-3-0-0", "mvc-9-0-1", "mp-2-0", "mb-1"]
    more = [f"agm{k}" for k in range(100, 112)]
    tests = [f"mlearn-Cu-{part}-{k}" for part, count in (("training", 12), ("test", 3)) for k in range(count)]
    copper = [replace(c, numbers=np.full(len(c), 29, np.uint8)) for c in crystals(tests, "energy", forces=True)]
    mattersim = crystals([*frames, *more], "energy", forces=True)
    held = [replace(mattersim[k], id=id, forces=None, labels={"bulk_modulus": 1.0}) for k, id in HELD.items()]
    alloys = crystals([f"monbtaw-W-{k}" for k in range(12)], "energy", forces=True)
    known = crystals([f"mp-{k}" for k in range(100, 120)], "band_gap")
    sets = {
        "forces/mattersim": mattersim,
        "forces/mlearn": copper,
        # A frame that both sets have, under two names.
        "forces/monbtaw": [*alloys, replace(copper[-1], id="monbtaw-Cu-0")],
        "mp36k/train": [*known, *crystals([f"mp-{k}" for k in range(200, 220)], "bulk_modulus")],
        "mp36k/val": held,
        "matbench/phonons": [replace(mattersim[5], forces=None, stress=None, labels={"last_phdos_peak": 1.0})],
    }
    for name, some in sets.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write(some, place / f"{name}.extxyz.gz", format="extxyz")
    return place


def formulas(some: Iterable[Iterable[Crystal]]) -> set[str]:
    return {reduced_formulas(c.numbers, np.array([0, len(c)]))[0] for crystals in some for c in crystals}


def ids(file: Path) -> set[str]:
    return {crystal.id for crystal in read(file)}


@pytest.mark.native
def test_pre_training_sees_no_crystal_that_chooses_or_measures(tmp_path: Path) -> None:
    place = tmp_path / "crystals"
    data = data_folder(tmp_path / "given")
    make_crystals(data, place, lambda text: None)
    kept, given = list(read(place / "mattersim.extxyz")), list(read(data / "forces/mattersim.extxyz.gz"))
    held = formulas(read(place / f"{name}.extxyz") for name in ("whole-choose", "whole-measure", "phonons"))
    assert len(held) == 3
    assert not formulas([kept]) & held
    assert [c.id for c in kept] == [c.id for c in given if not formulas([[c]]) & held]
    assert 0 < len(kept) < len(given)
    assert ids(place / "monbtaw.extxyz") == {f"monbtaw-W-{k}" for k in range(12)}
    assert ids(place / f"{PUBLISHED}.extxyz") == {f"mlearn-Cu-test-{k}" for k in range(3)}
    assert len(ids(place / "mlearn.extxyz")) == 12


@pytest.mark.native
def test_no_crystal_both_learns_or_chooses_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FEW": 25, "FEW_CHOOSE": 10, "MODULI_CHOOSE": 0.2}.items():
        monkeypatch.setattr(f"derivative.crystals.{name}", value)
    make_crystals(data_folder(tmp_path / "given"), tmp_path, lambda text: None)

    def parts(task: str) -> list[set[str]]:
        return [ids(tmp_path / f"{task}{part}.extxyz") for part in ("", "-choose", "-measure")]

    with_moduli = {f"mp-{k}" for k in range(200, 220)}
    learn, choose, measure = parts("moduli")
    assert (len(learn), len(choose), learn | choose, measure) == (16, 4, with_moduli, {"mp-1", "mvc-9"})
    learn, choose, measure = parts("mp2000")
    assert (len(learn), len(choose), len(learn | choose), measure) == (25, 10, 35, {"mp-1", "mvc-9"})
    learn, choose, measure = parts("whole")
    assert (len(learn), choose, measure) == (40, {"mp-1"}, {"mvc-9"})


@pytest.mark.native
def test_the_report_says_how_large_is_what_is_predicted(tmp_path: Path) -> None:
    make_crystals(data_folder(tmp_path / "given"), tmp_path / CRYSTALS, lambda text: None)
    learned(tmp_path, PreTraining("F", SIEVE), force_of_mlearn=0.5)
    copper = [c for c in read(tmp_path / CRYSTALS / "mlearn.extxyz") if isinstance(c, Crystal) and c.forces is not None]
    size = np.abs(np.concatenate([c.forces for c in copper])).mean()
    assert f"| sieve | F | force of mlearn | validation | 0.5000 | - | {size:.4f} |" in pretraining_table(tmp_path)
    learned(tmp_path, PreTraining("denoise-head", SIEVE), noise=0.05)
    assert "| noise | validation | 0.0500 | - | 0.0798 |" in pretraining_table(tmp_path)


@pytest.mark.native
@pytest.mark.usefixtures("one_torch_thread")
def test_a_potential_is_measured_on_published_test_crystals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screening.training.recipe.draw_curves", lambda *arguments: None)
    study = STUDY.model_copy(
        update={
            "data": data_folder(tmp_path / "given"),
            "models": {SIEVE: small("sieve") | SMOOTH["sieve"]},
            "pretraining": STUDY.pretraining.model_copy(
                update={"epochs": 2, "trial_epochs": 1, "rates": {SIEVE: [2e-3], TRANSFORMER: []}}
            ),
        }
    )
    runs = [PreTraining(kind, SIEVE, rate) for kind in ("denoise-head", "F") for rate in (2e-3, None)]
    assert run_all(listed(runs), study, tmp_path, SILENT, budget_s=600.0)
    assert [(tmp_path / run.name / PUBLISHED_FILE).exists() for run in runs] == [False, False, False, True]
    table = published_table(tmp_path)
    assert table.startswith("| element | SNAP, published | sieve F |")
    assert "| Cu | 0.060 | - |" not in table
    assert "| Ni | 0.062 | - |" in table
    parts = [row.split("|")[4].strip() for row in pretraining_table(tmp_path).splitlines()[2:]]
    assert set(parts[:4]) == {"validation"}, "a head is not kept for the test"
    assert set(parts[4:]) == {"test"}
