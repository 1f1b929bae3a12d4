"""The study of multi-task learning: its plan, its report of made-up numbers, and a tiny study from end to end."""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import multitask_study
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import PERIODIC_KINDS, made_crystals
from multitask import running
from multitask.claims import Claim, claims_of
from multitask.figure import draw
from multitask.outcomes import PARTS, VALIDATIONS, Measure, Outcomes, percent_on_curve
from multitask.plan import (
    EVEN,
    FERMI,
    FORMATION,
    GAP,
    METAL,
    PAIR,
    PERCENTS,
    SEEDS,
    SET_UPS,
    WHOLE,
    Run,
    config_of,
    planned,
)
from multitask.report import report_of
from tables import Estimate

from screening import config
from screening.crystals.batch import Crystals
from screening.crystals.write import write
from screening.errors import InputError
from screening.training.config import TrainingConfig
from screening.training.material import Listener
from screening.training.recipe import fitted, prepare, splits_of, train

PLAN = planned()
BASES = {FORMATION: 0.08, GAP: 0.4, FERMI: 0.5, METAL: 0.1}


def test_the_plan_holds_what_the_study_asks_for() -> None:
    assert len(PLAN) == len(set(PLAN)) == len({run.name for run in PLAN}) == 3 * 19
    assert Counter(run.percent for run in PLAN) == {10: 9, 25: 9, 50: 9, WHOLE: 30}
    assert [run for run in PLAN if run.weight != 1] == [Run(PAIR, WHOLE, seed, EVEN) for seed in SEEDS] == PLAN[-3:]
    whole = {run.targets for run in PLAN if run.percent == WHOLE}
    pairs = [(FORMATION, GAP), (FORMATION, FERMI), (GAP, FERMI)]
    assert whole == {(FORMATION,), (GAP,), (FERMI,), *pairs, (FORMATION, GAP, FERMI), (METAL,), (FORMATION, GAP, METAL)}
    for percent in PERCENTS:
        for targets in ((FORMATION,), (GAP,), PAIR):
            wanted = (targets, percent, 1.0)
            assert [run.seed for run in PLAN if (run.targets, run.percent, run.weight) == wanted] == [0, 1, 2]


def test_a_part_of_the_plan_already_says_something() -> None:
    assert [run.seed for run in PLAN[:-3]] == sorted(run.seed for run in PLAN[:-3])
    # The first three compare the pair with its single tasks; the next four end all set-ups; then come the curves.
    assert {run.targets for run in PLAN[:3]} == {(FORMATION,), (GAP,), PAIR}
    assert {run.targets for run in PLAN[:7]} == {(FORMATION,), (GAP,), (FERMI,), *SET_UPS}
    assert [run.percent for run in PLAN[:16]] == [WHOLE] * 7 + [50] * 3 + [25] * 3 + [10] * 3


def test_a_single_task_comes_before_what_is_compared_with_it() -> None:
    for place, run in enumerate(PLAN):
        for target in run.targets:
            assert PLAN.index(Run((target,), run.percent, run.seed)) <= place if run.targets != (*PAIR, METAL) else True


def test_runs_of_a_seed_differ_in_targets_part_and_epochs_only() -> None:
    study = config.load(TrainingConfig, multitask_study.STUDY)
    whole, part = (config_of(Run(PAIR, percent, 2), study) for percent in (WHOLE, 25))
    single = config_of(Run((GAP,), WHOLE, 2), study)
    weighed = config_of(Run(PAIR, WHOLE, 2, EVEN), study)
    assert (whole.training.epochs, part.training.epochs) == (30, 60)
    assert (part.data.fraction, part.data.split, part.training.seed) == (0.25, whole.data.split, 2)
    assert (single.data, single.training, single.model) == (whole.data, whole.training, whole.model)
    assert list(whole.targets) == list(PAIR)
    assert {name: own.weight for name, own in weighed.targets.items()} == {FORMATION: EVEN, GAP: 1.0}
    assert weighed.model_copy(update={"targets": whole.targets}) == whole
    # What a folder keeps of a configuration is all of it.
    assert config.validated(TrainingConfig, whole.model_dump(mode="json"), origin="dump") == whole
    with pytest.raises(InputError, match=r"no target efermi; add \[targets.efermi\]"):
        config_of(Run((FERMI,), WHOLE, 0), whole)


Change = Callable[[Run, str], float]


def made_up(change: Change = lambda run, target: 1.0, *, runs: list[Run] = PLAN) -> Outcomes:
    """Errors that fall as the root of the crystals, times a change, times a factor of the seed that gains cancel."""
    values: dict[tuple[Run, Measure], float] = {}
    for run in runs:
        for target in run.targets:
            error = BASES[target] * math.sqrt(WHOLE / run.percent) * change(run, target) * (1 + 0.2 * run.seed)
            for validation in VALIDATIONS:
                metrics = {"mae": error, "spearman": 1 - error / 4, "auc": 1 - error / 4}
                values |= {(run, Measure(target, metric, validation)): v for metric, v in metrics.items()}
    return Outcomes(values)


def together_gains(percent: float, *, spread: float = 0.0) -> Change:
    """Learning several targets lowers errors by so many percent, more or less by seed."""

    def change(run: Run, target: str) -> float:
        return 1.0 if len(run.targets) == 1 else 1.0 - (percent + spread * (run.seed - 1)) / 100

    return change


def verdicts(outcomes: Outcomes) -> dict[str, str]:
    return {claim.says: claim.verdict for claim in claims_of(outcomes, "formula")}


def claim_of(outcomes: Outcomes, start: str) -> Claim:
    return next(claim for claim in claims_of(outcomes, "random") if claim.says.startswith(start))


def test_gains_are_taken_within_each_seed() -> None:
    estimate = Estimate.of(made_up(together_gains(5.0, spread=1.0)).mean_gains(PAIR, "random"))
    assert estimate is not None
    assert (estimate.mean, estimate.error, estimate.seeds) == (pytest.approx(5), pytest.approx(1 / math.sqrt(3)), 3)


@pytest.mark.parametrize(
    ("gain", "spread", "any_gain", "large_gain"),
    [
        (5.0, 0.1, "holds", "holds"),
        (1.0, 0.1, "holds", "does not hold"),
        (-2.0, 0.1, "does not hold", "does not hold"),
        (1.0, 5.0, "undecided", "undecided"),
    ],
)
def test_verdicts_follow_the_numbers(gain: float, spread: float, any_gain: str, large_gain: str) -> None:
    found = verdicts(made_up(together_gains(gain, spread=spread)))
    assert found["the four set-ups: mean gain in MAE above 0"] == any_gain
    assert found["formation+gap: mean gain in MAE above 0"] == any_gain
    assert found["formation+gap+fermi: mean gain in MAE of 1.7 % or more"] == large_gain
    assert found["gap+fermi: AUC of metals by the predicted gap rises"] == any_gain
    assert found["formation+gap+metal: AUC of metals by a head for the classes rises"] == any_gain
    assert found["formation+fermi: Spearman's rank correlation of formation energy rises"] == any_gain
    suffers = [verdict for says, verdict in found.items() if says.startswith("formation energy gets worse")]
    assert suffers == [{"holds": "does not hold", "does not hold": "holds"}.get(any_gain, any_gain)]


def test_the_set_up_that_hurts_formation_energy_is_named() -> None:
    hurt = (FORMATION, FERMI)
    outcomes = made_up(lambda run, target: 1.04 + run.seed / 1000 if run.targets == hurt else 1.0)
    claim = claim_of(outcomes, "formation energy gets worse")
    assert claim.where == "formation+fermi"
    assert claim.verdict == "holds"
    assert claim.measured is not None
    assert claim.measured.mean == pytest.approx(4.1)


def test_less_data_is_read_off_the_single_tasks_curve() -> None:
    # On errors that fall as 1 / sqrt(n), errors lower by a factor f are those from 1 / f^2 as many crystals.
    claim = claim_of(made_up(together_gains(10.0, spread=0.2)), "formation+gap from 50 %")
    assert claim.measured is not None
    assert claim.measured.mean == pytest.approx(50 / 0.9**2, rel=1e-3)
    assert claim.verdict == "holds"
    assert claim_of(made_up(together_gains(1.0, spread=0.2)), "formation+gap from 50 %").verdict == "does not hold"


@given(st.floats(1.0, 400.0), st.floats(0.1, 2.0))
def test_a_power_law_is_inverted_between_and_beyond_its_points(percent: float, power: float) -> None:
    curve = [-power * math.log(p) for p in PERCENTS]
    assert percent_on_curve(-power * math.log(percent), curve) == pytest.approx(percent, rel=1e-6)


def test_a_curve_that_never_falls_has_no_equal() -> None:
    assert math.isnan(percent_on_curve(0.0, [1.0, 1.0, 2.0, 2.0]))


def test_too_few_seeds_decide_nothing() -> None:
    for outcomes in (made_up(together_gains(50.0), runs=planned([0])), Outcomes({})):
        assert set(verdicts(outcomes).values()) == {"undecided"}


def test_the_report_of_the_whole_study() -> None:
    text = report_of(made_up(together_gains(5.0, spread=1.0)), runs=len(PLAN))
    assert text.startswith("# Single-task against multi-task\n\n57 of 57 runs are finished.")
    holds = "| 3 | 5.0 ± 0.6 % | holds | 5.0 ± 0.6 % | holds |"
    assert text.count(f"mean gain in MAE above 0 | 8.3, 3.8, 1.7 and 4.4 % in four set-ups {holds}") == 4
    assert text.count(f"| 16 x formation+gap: mean gain in MAE above 0 | not tried {holds}") == 1
    assert "| formation | 0.0960 ± 0.0092 |  |  |" in text
    assert "| formation+gap | 5.0 ± 0.6 | 5.0 ± 0.6 |  | 5.0 ± 0.6 |" in text
    assert "| 16 x formation+gap | 5.0 ± 0.6 | 5.0 ± 0.6 |  | 5.0 ± 0.6 |" in text
    assert "nan" not in text
    curves = text.split("## Learning curves, random validation\n\n")[1].split("\n\n")[0].splitlines()
    assert [line.count("|") for line in curves] == [9] * (2 + len(PERCENTS))


@pytest.mark.parametrize("finished", [0, 1, 3, 20, 55])
def test_the_report_of_a_part_has_dashes_and_a_picture(tmp_path: Path, finished: int) -> None:
    outcomes = made_up(runs=PLAN[:finished])
    text = report_of(outcomes, runs=len(PLAN))
    assert f"{finished} of 57 runs" in text
    # The last three runs fill a row of their own, the first sixteen all others.
    assert ("| - |" in text) == (finished < 55)
    assert ("| formation+gap | - |" in text) == (finished < 3)
    draw(outcomes, tmp_path / "study.png")
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"


# A tiny study: generated crystals, a small network, one epoch.

TINY = """
[data]
train = ["train.extxyz"]
validation = ["val.extxyz"]
[data.split]
by = "files"
held_formulas = 0.2
[model.settings]
width = 8
convolutions = 1
hidden = 8
cutoff = 5.0
elements = "one_hot"
[targets.formation_energy_per_atom]
[targets.band_gap]
[targets.efermi]
[targets.is_metal]
kind = "classification"
[training]
epochs = 1
batch_size = 16
threads = 1
"""


def labelled(count: int, *, seed: int, prefix: str) -> Crystals:
    rng = np.random.default_rng(seed)
    made = made_crystals(count, seed=seed, kinds=PERIODIC_KINDS, max_atoms=4, labels=(), prefix=prefix)
    return Crystals.of([replace(crystal, labels=labels(rng)) for crystal in made])


def labels(rng: np.random.Generator) -> Mapping[str, float]:
    return {FORMATION: float(rng.normal()), GAP: float(max(rng.normal(), 0.0)), FERMI: float(rng.normal())}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with crystals and the configuration of a tiny study, in which the test runs; runs draw no pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("screening.training.recipe.draw_curves", lambda *arguments: None)
    monkeypatch.setattr("screening.training.judge.draw_parity", lambda *arguments: None)
    write(labelled(60, seed=1, prefix="train"), tmp_path / "train.extxyz", format="extxyz")
    write(labelled(20, seed=2, prefix="val"), tmp_path / "val.extxyz", format="extxyz")
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    return tmp_path


def studied(*words: str) -> int:
    return multitask_study.main(["out", "--config", "tiny.toml", "--quiet", *words])


def test_a_tiny_study_from_end_to_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert studied("--budget-hours", "0") == 1
    assert "57 runs are left" in capsys.readouterr().err
    assert studied() == 0
    assert capsys.readouterr().err.count("crystals\n") == 2, "the files are read once"
    runs = {path.name: json.loads((path / "metrics.json").read_text()) for path in (folder / "out").glob("*-seed*")}
    assert sorted(runs) == sorted(run.name for run in PLAN)
    metrics = runs["formation+gap-100-seed0"]
    areas = json.loads((folder / "out/formation+gap-100-seed0/gap-auc.json").read_text())
    # The first validation is the file, the second a fifth of the training crystals.
    assert [metrics[part]["targets"][GAP]["count"] for part in PARTS.values()] == [20, 12]
    assert all(0.0 <= area <= 1.0 for area in areas.values())
    report = (folder / "out/report.md").read_text(encoding="utf-8")
    assert "57 of 57 runs" in report
    assert "| - |" not in report
    assert (folder / "out/multitask.png").read_bytes()[:4] == b"\x89PNG"

    kept = (folder / "out/gap-10-seed2/metrics.json").stat().st_mtime_ns
    (folder / "out/gap-10-seed2/gap-auc.json").unlink()
    assert studied("--list") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line for line in listed if "finished" not in line] == [line for line in listed if " gap-10-seed2" in line]
    assert studied() == 0
    assert (folder / "out/gap-10-seed2/metrics.json").stat().st_mtime_ns == kept
    assert studied("--epochs", "2") == 2
    assert "formation-100-seed0 holds a run with other settings" in capsys.readouterr().err


def test_a_run_of_the_study_is_what_its_configuration_alone_gives(folder: Path) -> None:
    study = config.load(TrainingConfig, folder / "tiny.toml")
    listener = Listener(lambda text: None, lambda progress: None)
    run = Run((GAP, METAL), 50, 1)
    running.do(run, study, folder, listener, prepare(study, listener))
    alone = config.load(TrainingConfig, folder / run.name / "config.toml")
    train(alone, folder / "alone", listener)
    for name in ("metrics.json", "config.toml"):
        assert (folder / "alone" / name).read_bytes() == (folder / run.name / name).read_bytes()


def test_single_and_multi_task_runs_have_the_same_crystals(folder: Path) -> None:
    study = config.load(TrainingConfig, folder / "tiny.toml")
    material = prepare(study, Listener(lambda text: None, lambda progress: None))

    def rows(run: Run) -> list[list[int]]:
        own = config_of(run, study)
        (split,) = splits_of(own, fitted(own, material))
        return [split.train.tolist(), split.validation.tolist(), split.test.tolist()]

    single, pair, half = (rows(Run(t, p, 0)) for t, p in (((GAP,), WHOLE), (PAIR, WHOLE), (PAIR, 50)))
    assert single == pair
    assert set(half[0]) < set(pair[0])
    assert len(half[0]) == len(pair[0]) // 2
    assert half[1:] == pair[1:]
    assert rows(Run(PAIR, WHOLE, 1))[2] != pair[2]
    train_part, validation, held = pair
    assert sorted(train_part + held) == list(range(60))
    assert validation == list(range(60, 80))
    formulas = material.graphs.formulas
    assert not {formulas[r] for r in train_part} & {formulas[r] for r in held}


def test_material_of_other_crystals_is_refused(folder: Path) -> None:
    study = config.load(TrainingConfig, folder / "tiny.toml")
    listener = Listener(lambda text: None, lambda progress: None)
    material = prepare(config_of(Run(PAIR, WHOLE, 0), study), listener)
    for overrides, message in (
        (["model.settings.cutoff=4.0"], "the model needs"),
        (["data.validation=['train.extxyz']"], "of other files"),
        ([], "without labels for efermi, is_metal"),
    ):
        other = config.load(TrainingConfig, folder / "tiny.toml", overrides=overrides)
        with pytest.raises(InputError, match=message):
            train(other, folder / "other" / message, listener, material=material)


def test_there_is_one_test_set(folder: Path) -> None:
    for override, message in (("data.test=['val.extxyz']", "one test set"), ("data.split.by=random", "by = 'files'")):
        overrides = [override] if "by" not in override else [override, "data.validation=[]"]
        with pytest.raises(InputError, match=message):
            config.load(TrainingConfig, folder / "tiny.toml", overrides=overrides)
