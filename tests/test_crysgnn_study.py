"""The study of CrysGNN: its plan, its subset, its report, and a tiny study from end to end."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import crysgnn_study
import numpy as np
import pytest
from crysgnn import running
from crysgnn.crystals import SUBSET_SIZE, draw_subset, read_subset, write_subset
from crysgnn.plan import (
    ASPECTS,
    FORMATION,
    GAP,
    LARGE,
    MODES,
    Encoder,
    Run,
    controls,
    encoders,
    every,
    runs,
    taught,
    tuning,
)
from crysgnn.report import report_of
from crysgnn.running import metrics_of, state_of
from crysgnn.settings import StudySettings
from made import PERIODIC_KINDS, made_crystals

from screening import config
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.crystals.read import read
from screening.crystals.write import write
from screening.errors import ResourceError, ScreeningError
from screening.training.config import RunSettings
from screening.training.material import Listener
from screening.training.pretraining_config import PretrainingConfig

STUDY = config.load(StudySettings, crysgnn_study.STUDY)
SIZES = "{ width = 4, convolutions = 1, hidden = 4, cutoff = 3.5 }"
TINY = f"""
pool = "60k"
seeds = [0]
whole_seeds = [0]

[crystals]
train = "train.extxyz"
validation = "val.extxyz"
unlabelled = ["more.extxyz"]
phonons = "phonons.extxyz"
enumeration = "{Path(__file__).resolve().parent.parent / "examples/perovskites.toml"}"
pools = {{ "60k" = 60, "300k" = 64 }}
workers = 1

[lengths]
pretraining_crystals = 60
subset = 1
whole = 1
fifth = 1
moduli = 1
phonons = 1

[tuning]
rates = [1.0]
encoder_rates = [1.0]
alphas = [0.1]

[teacher]
settings = {SIZES}

[architectures.cgcnn]
settings = {SIZES}

[architectures.sieve]
settings = {SIZES}
"""


def test_the_plan_holds_what_the_study_asks_for() -> None:
    plan = every(STUDY)
    assert len({one.name for one in plan}) == len(plan)
    subset = [run for run in runs(STUDY) if run.part == "subset"]
    main = [run for run in subset if run.encoder is None or run.encoder.aspects == ASPECTS]
    counted = Counter((run.architecture, run.mode) for run in main if run.encoder is None or run.encoder.pool == "60k")
    # Two seeds; the unmasked teacher of the ablation is a distilled CGCNN too.
    assert all(run.targets == (FORMATION, GAP) for run in subset)
    for name in STUDY.architectures:
        for mode in MODES:
            assert counted[name, mode] == (4 if (name, mode) == ("cgcnn", "distilled") else 2)
    for part in ("whole", "fifth", "moduli", "phonons"):
        found = {(r.architecture, r.mode, r.seed) for r in runs(STUDY) if r.part == part}
        assert found == {(name, mode, seed) for name in LARGE for mode in MODES for seed in range(3)}
    teachers = {e for e in encoders(STUDY) if e.architecture == "teacher"}
    assert {Encoder("teacher", "60k", (aspect,)) for aspect in ASPECTS} < teachers
    assert {e.pool for e in teachers} == {"10k", "60k", "300k"}
    assert {e.masked for e in teachers} == {True, False}
    # Where crystals are fewer or more than those that chose the rate, other rates are looked at, by all kinds alike.
    looked = Counter((run.part, run.architecture, run.mode) for run in controls(STUDY))
    sizes = {("phonons", "sieve"): 3, ("moduli", "sieve"): 3, ("whole", "cgcnn"): 2}
    assert looked == {(*place, mode): size for place, size in sizes.items() for mode in MODES}
    # Whoever learns from predictions learns from one who has the same labels and no others: of the same part and seed.
    assert {(run.architecture, run.seed) for run in taught(STUDY)} == {(n, s) for n in LARGE for s in STUDY.seeds}
    assert all(r.needs == Run("fifth", "sieve", "vanilla", r.targets, r.seed) for r in taught(STUDY))
    assert {run.needs for run in taught(STUDY)} < set(plan)
    # No more tries for a run that takes the rate of the vanilla one than for that.
    tries = Counter(run.mode for run in tuning(STUDY))
    assert tries["vanilla"] >= max(tries["fine-tuned"], tries["distilled"]) > 0


def test_the_subset_is_there() -> None:
    ids = read_subset()
    assert len(ids) == SUBSET_SIZE
    assert all(name.startswith("mp-") for name in ids)


def test_ids_survive_being_written(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).permutation(900_000)[:3000]
    ids = {f"mp-{number}" for number in numbers.tolist()}
    write_subset(ids, tmp_path / "ids.txt")
    assert read_subset(tmp_path / "ids.txt") == ids
    assert max(map(len, (tmp_path / "ids.txt").read_text().splitlines())) <= 120


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few crystals of every kind, and settings of a tiny study."""
    monkeypatch.chdir(tmp_path)
    for name in ("plan.LARGE", "plan.TUNED", "running.TUNED", "report.LARGE", "report.TUNED"):
        monkeypatch.setattr(f"crysgnn.{name}", ("cgcnn",))
    for name in ("plan.TEACHING", "report.TEACHING"):
        monkeypatch.setattr(f"crysgnn.{name}", "cgcnn")
    for name in ("plan.CONTROLS", "report.CONTROLS"):
        monkeypatch.setattr(f"crysgnn.{name}", {("moduli", "cgcnn"): (0.5, 3.0), ("whole", "cgcnn"): (0.5, 3.0)})
    monkeypatch.setattr("screening.training.recipe.draw_curves", lambda *arguments: None)
    monkeypatch.setattr("screening.training.judge.draw_parity", lambda *arguments: None)
    rng = np.random.default_rng(0)

    def crystals(count: int, first: int, *labels: str, prefix: str = "mp") -> Crystals:
        made = made_crystals(count, seed=first, kinds=PERIODIC_KINDS, max_atoms=3, labels=(), prefix=prefix)
        return Crystals.of(
            Crystal(
                f"{prefix}-{first + k}",
                c.numbers,
                c.positions,
                c.lattice,
                labels={n: float(k % 5 if n == "fold" else rng.uniform(1.0, 9.0)) for n in labels},
            )
            for k, c in enumerate(made)
        )

    all_labels = (FORMATION, GAP, "bulk_modulus", "shear_modulus")
    write(crystals(30, 100, *all_labels), tmp_path / "train.extxyz", format="extxyz")
    write(crystals(8, 200, *all_labels), tmp_path / "val.extxyz", format="extxyz")
    write(crystals(30, 300, prefix="more"), tmp_path / "more.extxyz", format="extxyz")
    write(crystals(15, 400, "last_phdos_peak", "fold", prefix="ph"), tmp_path / "phonons.extxyz", format="extxyz")
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    study = config.load(StudySettings, tmp_path / "tiny.toml")
    write_subset(draw_subset(study, size=20), tmp_path / "subset.txt")
    return tmp_path


def test_a_tiny_study_from_end_to_end(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["study", "--config", "tiny.toml", "--subset", "subset.txt", "--quiet"]
    study = config.load(StudySettings, tiny / "tiny.toml")
    plan = every(study)
    out = tiny / "study"
    assert crysgnn_study.main([*given, "--list"]) == 0
    assert capsys.readouterr().out.count("blocked") > len(plan) // 2
    assert crysgnn_study.main([*given, "--budget-hours", "0"]) == 1
    assert crysgnn_study.main(given) == 0
    assert {state_of(one, study, out) for one in plan} == {"finished"}
    assert all(metrics_of(run, out) for run in runs(study))
    report = report_of(study, out)
    assert (out / "report.md").read_text(encoding="utf-8") == report
    compared = [*runs(study), *taught(study)]
    assert f"{len(compared)} of {len(compared)} runs are finished" in report
    # A control differs from the run that it controls by its rate alone.
    for run in controls(study):
        own, other = (running.config_of(one, study, out).model_dump() for one in (run, replace(run, factor=None)))
        rates = [found["training"]["optimiser"].pop("rate") for found in (own, other)]
        assert rates[0] == rates[1] * run.factor
        assert own == other
        assert metrics_of(run, out)
        assert running.chosen_by(run, out) > 0
    # Predictions are of crystals without labels: all that train, beside the fifth that has them.
    (student,) = taught(study)
    journal = (out / student.name / "metrics.jsonl").read_text(encoding="utf-8")
    assert f"{FORMATION} taught" in journal
    shown = [entry for entry in read([out / "crystals/unlabelled.extxyz"]) if isinstance(entry, Crystal)]
    assert len(shown) == 30
    assert not any(crystal.labels for crystal in shown)
    # A gap only where the ablation's first line has nothing to compare vanilla runs with.
    gaps = [line for line in report.splitlines() if "| - |" in line]
    assert [line.split(" | ")[0] for line in gaps] == ["| nobody (vanilla)"]
    # Of what a record holds there is no model: it is learned again for a run that is to start from it, and only then.
    tuned = next(run for run in runs(study) if run.mode == "fine-tuned" and run.part == "moduli")
    assert tuned.encoder is not None
    for file in out.glob("*/model.safetensors"):
        file.unlink()
    shutil.rmtree(out / tuned.name)
    assert crysgnn_study.main(given) == 0
    assert {state_of(one, study, out) for one in plan} == {"finished"}
    assert metrics_of(tuned, out)
    learned_again = [file.parent.name for file in out.glob("*/model.safetensors")]
    assert sorted(learned_again) == sorted([tuned.encoder.name, tuned.name])
    # So is the run that teaches, for who is to learn from it.
    teacher = student.needs
    assert teacher is not None
    shutil.rmtree(out / student.name)
    assert state_of(teacher, study, out) == "waiting"
    assert state_of(student, study, out) == "blocked"
    assert crysgnn_study.main(given) == 0
    assert (out / teacher.name / "model.safetensors").exists()
    assert metrics_of(student, out)
    # What is measured on is in no file that an encoder learned from.
    held = {crystal.id for crystal in read([tiny / "val.extxyz", tiny / "phonons.extxyz"])}
    assert len(held) == 8 + 15
    learned = set()
    for encoder in encoders(study):
        used = config.load(PretrainingConfig, out / encoder.name / "config.toml").data
        assert not [*used.validation, *used.test]
        ids = {crystal.id for crystal in read(used.train)}
        assert {"mp-100", "more-300"} <= ids
        assert not ids & held
        learned |= ids
    assert len(learned) == 30 + 30 + 4


def test_a_run_that_diverges_is_noted_and_the_others_go_on(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["--config", "tiny.toml", "--subset", "subset.txt", "--quiet", "--set", "tuning.rates=[1.0, 2.0]"]
    study = config.load(StudySettings, tiny / "tiny.toml", overrides=["tuning.rates=[1.0, 2.0]"])
    out = tiny / "study"
    begun: list[str] = []

    def pretended(settings: RunSettings, folder: Path, listener: Listener) -> None:
        begun.append(folder.name)
        folder.mkdir()
        if folder.name.endswith("-tries-2"):
            raise ScreeningError("the weights have diverged")
        for name in ("metrics.json", "model.safetensors"):
            (folder / name).write_text("{}", encoding="utf-8")
        if isinstance(settings, PretrainingConfig):
            return
        targets = settings.model_dump()["targets"]
        folds = {"targets": {target: {"mae": {"mean": 1.0}} for target in targets}}
        found = {"validation": {"targets": {target: {"mae": 1.0} for target in targets}}}
        (folder / "folds.json").write_text(json.dumps(folds), encoding="utf-8")
        (folder / "metrics.json").write_text(json.dumps(found), encoding="utf-8")

    monkeypatch.setattr(running, "train", pretended)
    assert crysgnn_study.main(["study", *settings]) == 0
    (failed,) = [one for one in every(study) if state_of(one, study, out) == "failed"]
    assert failed.name == "subset-cgcnn-vanilla-formation+gap-seed0-tries-2"
    assert (out / failed.name / "failed.txt").read_text(encoding="utf-8") == "the weights have diverged\n"
    assert running.best_tried("cgcnn", "vanilla", study, out) == 1.0
    # What tuning chose is not trained again: one run of each kind.
    copied = {one.name for one in every(study)} - set(begun)
    assert copied == {replace(run, tried=None).name for run in tuning(study)}
    assert len(begun) == len(set(begun))
    assert ", 1 failed. " in report_of(study, out)
    assert f"Failed: {failed.name}." in report_of(study, out)
    # What is no fault of the run ends the study, and is noted nowhere.
    shutil.rmtree(out / failed.name)
    monkeypatch.setattr(running, "train", full_disk)
    assert crysgnn_study.main(["study", *settings]) == ResourceError.exit_code
    assert not (out / failed.name).exists()


def full_disk(*arguments: object) -> None:
    raise ResourceError("the disk is full")


def test_the_report_marks_the_rate_that_validates_best(tmp_path: Path) -> None:
    for run, chosen, measured in zip(controls(STUDY)[:9], [3.0, 1, 1, 2, 2, 2, 1, 3, 3], range(9), strict=True):
        place = tmp_path / run.name
        for fold in range(2):
            (place / f"fold-{fold}").mkdir(parents=True)
            held = {"validation": {"targets": {"last_phdos_peak": {"mae": chosen + fold - 0.5}}}}
            (place / f"fold-{fold}/metrics.json").write_text(json.dumps(held), encoding="utf-8")
        found = {"targets": {"last_phdos_peak": {"mae": {"mean": 10.0 + measured}}}}
        (place / "folds.json").write_text(json.dumps(found), encoding="utf-8")
        assert running.chosen_by(run, tmp_path) == chosen
    lines = report_of(STUDY, tmp_path).splitlines()
    assert [
        line for line in lines if line.startswith(tuple(f"| sieve | phonons (cm⁻¹) | {mode} |" for mode in MODES))
    ] == [
        "| sieve | phonons (cm⁻¹) | vanilla | - | 10 | 13 | **16** |",
        "| sieve | phonons (cm⁻¹) | fine-tuned | - | **11** | 14 | 17 |",
        "| sieve | phonons (cm⁻¹) | distilled | - | **12** | 15 | 18 |",
    ]


def test_the_report_says_what_was_not_tuned(tmp_path: Path) -> None:
    report = report_of(STUDY, tmp_path)
    assert "what tuning tried for cgcnn, sieve, crysxpp and gatgnn; folds of phonons chose nothing" in report
    assert "Nothing was tuned for alignn, whose runs learn at the rate in study.toml" in report
