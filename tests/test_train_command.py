"""Whole runs: from files and a configuration to a checkpoint, metrics and pictures; continued, judged, listed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from full_disks import full
from made import PERIODIC_KINDS, made_crystals
from runs_made import labelled, lay, ran, weights
from typer.testing import CliRunner, Result

from screening import config
from screening.cli import app
from screening.crystals.batch import Crystals
from screening.crystals.write import write
from screening.errors import FileFormatError, InputError, ResourceError
from screening.models import checkpoint
from screening.ops import core
from screening.runs.claim import CLAIM_FILE, Claim
from screening.training.config import TrainingConfig
from screening.training.loop import Progress
from screening.training.material import Listener
from screening.training.recipe import prepare, prepare_files, prepared, train

COMMAND = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; from screening.cli import main; main()"]
PNG = b"\x89PNG"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with crystals and a configuration, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    lay(tmp_path)
    return tmp_path


@pytest.fixture
def pictures() -> None:
    """Ask for the pictures of a run, which take longer than all else."""


@pytest.fixture(autouse=True)
def _few_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("screening.training.recipe.draw_curves", lambda *arguments: None)
        monkeypatch.setattr("screening.training.judge.draw_parity", lambda *arguments: None)


def called(*words: str) -> Result:
    context = SimpleNamespace(check=lambda: None)
    return CliRunner().invoke(app, list(words), obj=context, catch_exceptions=False)


SILENT = Listener(lambda text: None, lambda progress: None)
BY_FILES = ("data.split.by=files", "data.validation=['val.extxyz']")


def test_a_run_leaves_what_it_promises(folder: Path, pictures: None) -> None:
    run = folder / "run"
    run.mkdir()
    for name in ("state.safetensors", "model.safetensors"):
        (run / f"{name}.0123abcd.part").write_bytes(b"begun by one that was killed")
    found = ran(folder, "data.split.test=0.2")
    names = ["config.toml", "curves.png", "metrics.json", "metrics.jsonl", "model.safetensors"]
    assert sorted(p.name for p in run.iterdir()) == [*names, "parity-test.png", "parity-validation.png"]
    assert all((run / name).read_bytes()[:4] == PNG for name in ("curves.png", "parity-test.png"))
    assert json.loads((run / "metrics.json").read_text()) == found
    assert found["test"]["targets"]["formation_energy_per_atom"]["count"] == 8
    resolved = tomllib.loads((run / "config.toml").read_text())
    assert resolved["training"]["optimiser"]["name"] == "adamw"
    assert resolved["data"]["split"]["test"] == 0.2


def test_the_checkpoint_says_what_it_was_made_of(folder: Path) -> None:
    found = ran(folder, *BY_FILES)
    model, card = checkpoint.load(folder / "run/model.safetensors")
    assert [t.name for t in model.targets] == ["formation_energy_per_atom", "is_metal", "bulk_modulus"]
    crystals = labelled(40, seed=1, prefix="train")
    assert card.elements == tuple(sorted({int(z) for c in crystals for z in c.numbers}))
    labels = [np.log10(c.labels["bulk_modulus"]) for c in crystals if "bulk_modulus" in c.labels]
    assert model.scaling[2] == pytest.approx((np.mean(labels), np.std(labels)))
    assert len(card.fingerprint) == 64
    ours, kept = found["validation"]["targets"], card.metrics["validation"]
    assert ours["is_metal"]["auc"] == kept["is_metal"]["auc"]


def test_evaluate_repeats_the_metrics_of_the_run(folder: Path, pictures: None) -> None:
    found = ran(folder, *BY_FILES)
    result = called("evaluate", "run", "val.extxyz", "--json", "m.json", "--plot", "p.png")
    assert result.exit_code == 0
    written = json.loads((folder / "m.json").read_text())
    assert written == {"targets": {name: pytest.approx(m) for name, m in found["validation"]["targets"].items()}}
    assert (folder / "p.png").read_bytes()[:4] == PNG
    assert "mae" in result.stdout
    assert "eV/atom" in result.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--json", "none/m.json"), "none/m.json: there is no folder none; make it first"),
        (("--plot", "none/p.png"), "none/p.png: there is no folder none; make it first"),
        (("--plot", "p.gif"), "p.gif: what is drawn is a PNG; end the name in .png"),
        (("--json", "."), ".: a folder, expected the name of a file to write"),
        (("--json", "val.extxyz"), "val.extxyz: is one of the inputs; choose another name"),
    ],
    ids=str,
)
def test_evaluate_refuses_what_it_cannot_write_before_it_predicts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str], said: str
) -> None:
    monkeypatch.setattr("screening.pretrained.shipped.load_model", lambda *given, **more: pytest.fail("was loaded"))
    before = sorted(folder.iterdir())
    (folder / "m.safetensors").touch()
    with pytest.raises(InputError) as refused:
        called("evaluate", "m.safetensors", "val.extxyz", *options)
    assert said in str(refused.value)
    assert sorted(folder.iterdir()) == sorted([*before, folder / "m.safetensors"])


def test_evaluate_prints_what_it_found_though_it_cannot_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(folder)

    def full(path: Path, blocks: object) -> None:
        raise ResourceError(f"{path}: the disk is full")

    monkeypatch.setattr("screening.files.whole.write_whole", full)
    result = CliRunner().invoke(
        app, ["evaluate", "run", "val.extxyz", "--json", "m.json"], obj=SimpleNamespace(check=lambda: None)
    )
    assert isinstance(result.exception, ResourceError)
    assert "formation_energy_per_atom" in result.stdout


def test_evaluate_counts_nothing_where_labels_are_missing(folder: Path) -> None:
    ran(folder)
    bare = made_crystals(4, kinds=PERIODIC_KINDS, labels=())
    some = [replace(crystal, labels={"bulk_modulus": 1.0 + k}) for k, crystal in enumerate(bare)]
    write(Crystals.of(some), folder / "some.extxyz", format="extxyz")
    assert called("evaluate", "run", "some.extxyz", "--json", "m.json").exit_code == 0
    found = json.loads((folder / "m.json").read_text())["targets"]
    assert found.pop("bulk_modulus")["count"] == 4
    assert {name: (m["count"], m["mae"]) for name, m in found.items()} == dict.fromkeys(found, (0, None))


@pytest.mark.parametrize(
    ("labels", "held"), [((), "no labels"), (("shear_modulus", "density"), "density, shear_modulus")]
)
def test_evaluate_refuses_crystals_without_any_label_of_the_model(
    folder: Path, labels: tuple[str, ...], held: str
) -> None:
    ran(folder, "training.epochs=1")
    others = made_crystals(4, kinds=PERIODIC_KINDS, labels=labels)
    write(Crystals.of(others), folder / "others.extxyz", format="extxyz")
    names = "formation_energy_per_atom, is_metal, bulk_modulus"
    said = re.escape(f"no crystal has a label of this model ({names}), the files have {held}") + "$"
    with pytest.raises(InputError, match=said):
        called("evaluate", "run", "others.extxyz", "--json", "m.json")
    assert not (folder / "m.json").exists()


def test_training_without_any_label_names_those_that_there_are(folder: Path) -> None:
    others = made_crystals(12, kinds=PERIODIC_KINDS, labels=("density",))
    write(Crystals.of(others), folder / "train.extxyz", format="extxyz")
    settings = config.load(TrainingConfig, folder / "c.toml", overrides=["data.split.by=random"])
    mapped = prepared(settings, folder / "graphs", prepare_files(settings, folder / "graphs", SILENT))
    said = "no training crystal has a label formation_energy_per_atom, the files have density; remove the target"
    for material in (None, mapped):
        with pytest.raises(InputError, match=said):
            train(settings, folder / "run", SILENT, material=material)


def test_models_lists_cards(folder: Path) -> None:
    assert "no models" in called("models", str(folder)).stdout
    ran(folder)
    shown = called("models", str(folder)).stdout
    assert "cgcnn for formation_energy_per_atom, is_metal, bulk_modulus" in shown
    listed = json.loads(called("models", "--json", str(folder / "run/model.safetensors")).stdout)
    assert listed[0]["architecture"] == "cgcnn"
    assert listed[0]["targets"][2] == {"name": "bulk_modulus", "unit": "GPa", "kind": "regression", "scale": "log10"}


def test_a_finished_run_is_not_run_again(folder: Path) -> None:
    first = ran(folder)
    told: list[Progress] = []
    assert ran(folder, watch=told.append) == first
    assert told == []


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_finished_run_of_other_crystals_is_refused(folder: Path, part: str) -> None:
    write(Crystals.of(labelled(9, seed=3, prefix="test")), folder / "test.extxyz", format="extxyz")
    parts = (*BY_FILES, "data.test=['test.extxyz']", "training.epochs=1")
    found = ran(folder, *parts)
    write(Crystals.of(labelled(11, seed=4, prefix=part)), folder / f"{part}.extxyz", format="extxyz")
    with pytest.raises(InputError, match="run: is finished, with other settings or data, or from other models; choose"):
        ran(folder, *parts)
    # As older versions wrote it.
    del found["stamp"]
    (folder / "run/metrics.json").write_text(json.dumps(found), encoding="utf-8")
    assert ran(folder, *parts) == found


@pytest.mark.parametrize("content", [b"", b'{"epochs": 2, "val', b"[]", b"\x00\xff"])
def test_a_damaged_outcome_is_named(folder: Path, content: bytes) -> None:
    (folder / "run").mkdir()
    (folder / "run/metrics.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"run/metrics\.json: is damaged; remove it to train here again, or"):
        ran(folder)


def test_a_folder_of_another_run_is_refused(folder: Path) -> None:
    ran(folder)
    with pytest.raises(InputError, match=r"other settings \(training\.epochs there 2, now 3\); choose another"):
        ran(folder, "training.epochs=3")
    more = ("training.clip_norm=1.0", "training.optimiser.rate=0.1", "training.seed=2", "model.settings.width=4")
    with pytest.raises(
        InputError, match=r"\(model\.settings\.width there 8, now 4; .*rate there 0\.001, now 0\.1; and 1 more\)"
    ):
        ran(folder, *more)
    (folder / "run/config.toml").write_bytes(b"[da")
    with pytest.raises(FileFormatError, match=r"config\.toml: is damaged .*; choose another folder with --out"):
        ran(folder)


@pytest.mark.parametrize("by", ["random", "folds"])
def test_a_folder_in_which_nothing_was_learned_takes_other_settings(folder: Path, by: str) -> None:
    with pytest.raises(InputError, match="has a neighbour"):
        ran(folder, "model.settings.cutoff=0.8", f"data.split.by={by}")
    found = ran(folder, "training.epochs=1", f"data.split.by={by}")
    settings = config.load(TrainingConfig, folder / "run/config.toml")
    assert (settings.training.epochs, settings.model.settings["cutoff"]) == (1, 5.0)
    assert "folds" in found if by == "folds" else found["epochs"] == 1


def test_settings_are_replaced_only_by_whom_the_folder_is(folder: Path) -> None:
    with pytest.raises(InputError, match="has a neighbour"):
        ran(folder, "model.settings.cutoff=0.8")
    before = (folder / "run/config.toml").read_bytes()
    with Claim(folder / "run"), pytest.raises(ResourceError, match="another driver is at work there"):
        called("train", "c.toml", "--out", "run", "--quiet")
    assert (folder / "run/config.toml").read_bytes() == before


def test_the_seed_decides_and_nothing_else(folder: Path) -> None:
    ran(folder)
    torch.manual_seed(5)
    ran(folder, out="again")
    ran(folder, "training.seed=1", out="other")
    first, again, other = (weights(folder / name / "model.safetensors") for name in ("run", "again", "other"))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("overrides", "folds"),
    [(("data.split.folds=2",), 2), (("data.split.by=formula", "data.split.folds=2"), 2), (("data.split.by=folds",), 3)],
)
def test_folds_are_runs_of_their_own_with_a_mean(folder: Path, overrides: tuple[str, ...], folds: int) -> None:
    found = ran(folder, *overrides, "training.epochs=1")
    assert found["folds"] == folds
    each = [json.loads((folder / f"run/fold-{k}/metrics.json").read_text())["test"]["targets"] for k in range(folds)]
    name = "formation_energy_per_atom"
    spread = found["targets"][name]["mae"]
    assert spread["each"] == [fold[name]["mae"] for fold in each]
    assert spread["mean"] == pytest.approx(np.mean(spread["each"]))
    assert spread["std"] == pytest.approx(np.std(spread["each"], ddof=1))
    assert sum(found["targets"][name]["count"]["each"]) == 40
    assert json.loads((folder / "run/folds.json").read_text()) == found


def test_a_single_fold_can_be_run(folder: Path) -> None:
    found = ran(folder, "data.split.by=folds", "data.split.fold=1", "training.epochs=1")
    assert found["folds"] == 1
    assert [p.name for p in (folder / "run").iterdir() if p.is_dir()] == ["fold-1"]
    with pytest.raises(InputError, match="fold is 7, but there are folds 0 to 2"):
        ran(folder, "data.split.by=folds", "data.split.fold=7", out="none")


def test_part_of_the_training_set(folder: Path) -> None:
    told: list[str] = []
    settings = config.load(TrainingConfig, folder / "c.toml", overrides=[*BY_FILES, "data.fraction=0.5"])
    train(settings, folder / "run", Listener(told.append, lambda progress: None))
    assert "20 to train, 12 to validate" in told[-1]


def test_atoms_without_a_neighbour_are_told_and_a_cutoff_that_reaches_none_is_refused(folder: Path) -> None:
    told: list[str] = []
    settings = config.load(TrainingConfig, folder / "c.toml", overrides=["model.settings.cutoff=2.0"])
    train(settings, folder / "run", Listener(told.append, lambda progress: None))
    (lonely,) = [text for text in told if "to train" in text]
    assert re.search(r"to test; \d+(\.\d+)? % of the atoms to train on have no neighbour within 2 angstrom", lonely)
    with pytest.raises(InputError, match=r"has a neighbour within 0\.8 angstrom; give model\.settings\.cutoff in"):
        ran(folder, "model.settings.cutoff=0.8", out="none")


def test_a_run_leaves_the_threads_of_others_alone(folder: Path) -> None:
    before = core.threads(), torch.get_num_threads()
    ran(folder, "training.threads=3", "training.epochs=1")
    assert (core.threads(), torch.get_num_threads()) == before


def test_labels_that_are_no_numbers_are_told(folder: Path) -> None:
    text = (folder / "train.extxyz").read_text(encoding="utf-8")
    broken = text.replace("band_gap=", "band_gap=a", 1).replace("formation_energy_per_atom=", "e_form=inf x=", 2)
    (folder / "train.extxyz").write_text(broken, encoding="utf-8")
    said: list[str] = []
    prepare(config.load(TrainingConfig, folder / "c.toml"), Listener(said.append, lambda progress: None))
    assert said == [
        "train: 40 crystals; 3 labels are no finite numbers and count as missing, the first: "
        "formation_energy_per_atom of train-000000"
    ]


def test_ids_in_two_parts_are_told(folder: Path) -> None:
    told: list[str] = []
    overrides = ["data.split.by=files", "data.validation=['train.extxyz']", "training.epochs=1"]
    settings = config.load(TrainingConfig, folder / "c.toml", overrides=overrides)
    train(settings, folder / "run", Listener(told.append, lambda progress: None))
    assert any("40 ids are in an earlier part too, such as train-000000" in text for text in told)


def command(folder: Path, *words: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*COMMAND, *words], cwd=folder, text=True, **pipes)


def test_a_process_that_is_killed_goes_on_where_it_was(folder: Path) -> None:
    epochs = "training.epochs=20"
    ran(folder, epochs, out="whole")
    words = ["train", "c.toml", "--out", "run", "--set", epochs, "--set", "training.save_every_s=0"]
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = command(folder, *words)
        journal = folder / "run/metrics.jsonl"
        before = journal.stat().st_size if journal.exists() else 0
        while process.poll() is None and (not journal.exists() or journal.stat().st_size <= before):
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        assert process.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM), said
    assert "stopped by SIGTERM" in said
    assert not (folder / "run/metrics.json").exists()
    result = called(*words)
    assert result.exit_code == 0
    assert "20 epochs" in result.stdout
    assert weights(folder / "run/model.safetensors") == weights(folder / "whole/model.safetensors")
    assert (folder / "run/metrics.json").read_bytes() == (folder / "whole/metrics.json").read_bytes()


def test_a_folder_in_which_another_command_trains_is_refused(folder: Path) -> None:
    (folder / "run").mkdir()
    with Claim(folder / "run"), pytest.raises(ResourceError, match="another driver is at work there"):
        called("train", "c.toml", "--out", "run", "--quiet")
    assert not (folder / "run/model.safetensors").exists()
    assert called("train", "c.toml", "--out", "run", "--quiet").exit_code == 0
    assert not (folder / "run" / CLAIM_FILE).exists()


def test_what_cannot_be_made_a_folder_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match=r"run/config\.toml: the disk is full"):
            ran(folder)
    assert list((folder / "run").iterdir()) == []
    for out, why in (("c.toml", "File exists"), ("c.toml/run", "Not a directory")):
        with pytest.raises(ResourceError, match=rf"{out}: cannot be made a folder \({why}\); choose another"):
            called("train", "c.toml", "--out", out, "--quiet")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.select=formation_energy_per_atom.auc", r"training\.select is .*; expected one of loss, formation_"),
        ("init.checkpoint=nowhere", "nowhere: is no file, no folder and no shipped model"),
        ("init.checkpoint=sieve", "sieve: is a sieve, and this run trains a cgcnn"),
        ("init={checkpoint='first',frozen=4}", r"init\.frozen is 4, and the encoder of cgcnn has 2 stages"),
    ],
)
def test_what_no_crystal_can_mend_is_said_before_any_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, override: str, said: str
) -> None:
    if "first" in override:
        ran(folder, "training.epochs=1", out="first")
    monkeypatch.setattr("screening.training.recipe.read_crystals", unread)
    with pytest.raises(InputError, match=said):
        ran(folder, override)
    # No worker is asked for either.
    monkeypatch.setattr("screening.runs.ranks.opened", unread)
    with pytest.raises(InputError, match=said):
        called("train", "c.toml", "--set", override, "--cluster", "local:2", "--out", "ranks", "--quiet")


def unread(*arguments: object, **named: object) -> None:
    raise AssertionError("nothing is to be read")


def test_a_wrong_key_is_one_line_and_an_exit_code(folder: Path) -> None:
    process = command(folder, "train", "c.toml", "--set", "training.epoch=3")
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert said == "screening: override 'training.epoch=3': training.epoch is unknown; did you mean epochs?\n"
