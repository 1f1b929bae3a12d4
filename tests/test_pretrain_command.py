"""Pre-training as a user meets it: an encoder from packed files, continued bit for bit, on ranks, handed on."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from made import PERIODIC_KINDS, made_crystals
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from screening import config
from screening.cli import app
from screening.crystals.batch import Crystals
from screening.crystals.pack import pack
from screening.crystals.write import write
from screening.errors import InputError
from screening.models import checkpoint
from screening.runs.clusters import chosen
from screening.runs.ranks import train as train_on
from screening.training.config import TrainingConfig
from screening.training.journal import read_journal
from screening.training.loop import Progress
from screening.training.material import Listener
from screening.training.pretraining_config import PretrainingConfig
from screening.training.recipe import train

SETTINGS = """
[data]
train = ["all.h5"]
split.validation = 0.2

[model.settings]
width = 8
convolutions = 2
cutoff = 5.0

[training]
epochs = 2
batch_size = 12
threads = 1
ema_decay = 0.9
save_every_s = 0.0
"""
FINE_TUNING = """
[data]
train = ["labelled.extxyz"]
split.validation = 0.2

[model.settings]
width = 8
convolutions = 2
hidden = 8
cutoff = 5.0

[targets.band_gap]

[training]
epochs = 1
batch_size = 8
threads = 1
optimiser.rate = 0.01
"""
STEPS = 2 * 3


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with packed crystals, labelled ones, and configurations."""
    folder = tmp_path_factory.mktemp("pretrain")
    write(
        Crystals.of(made_crystals(40, seed=1, kinds=PERIODIC_KINDS, max_atoms=5)),
        folder / "all.extxyz",
        format="extxyz",
    )
    labelled = made_crystals(24, seed=2, kinds=PERIODIC_KINDS, max_atoms=4, missing=0.0, prefix="labelled")
    write(Crystals.of(labelled), folder / "labelled.extxyz", format="extxyz")
    pack([folder / "all.extxyz"], folder / "all.h5", space_group_tolerance=0.01)
    pack([folder / "all.extxyz"], folder / "without.h5")
    (folder / "p.toml").write_text(SETTINGS, encoding="utf-8")
    (folder / "t.toml").write_text(FINE_TUNING, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _there(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setattr("screening.training.recipe.draw_curves", lambda *arguments: None)
    monkeypatch.setattr("screening.training.judge.draw_parity", lambda *arguments: None)


def settings(*overrides: str) -> PretrainingConfig:
    return config.load(PretrainingConfig, Path("p.toml"), overrides=overrides)


def silent(watch: Callable[[Progress], None] = lambda progress: None) -> Listener:
    return Listener(lambda text: None, watch)


@pytest.fixture(scope="module")
def whole(made: Path) -> Path:
    """A run that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.setattr("screening.training.recipe.draw_curves", lambda *arguments: None)
        train(settings(), made / "whole", silent())
    return made / "whole"


def called(*words: str) -> Result:
    context = SimpleNamespace(check=lambda: None)
    return CliRunner().invoke(app, list(words), obj=context, catch_exceptions=False)


def weights(folder: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / "model.safetensors").items()}


def journal(folder: Path) -> list[dict[str, object]]:
    clock = ("seconds", "crystals_per_s")
    return [{k: v for k, v in entry.items() if k not in clock} for entry in read_journal(folder / "metrics.jsonl")]


def test_a_run_leaves_an_encoder_and_what_it_knows(whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == [
        "config.toml",
        "metrics.json",
        "metrics.jsonl",
        "model.safetensors",
    ]
    model, card = checkpoint.load(whole / "model.safetensors", encoder=True)
    assert (model.targets, model.width) == ((), 8)
    found = json.loads((whole / "metrics.json").read_text(encoding="utf-8"))["validation"]
    assert set(found["objectives"]) == {"nodes", "connectivity", "space_group", "contrast"}
    assert card.metrics["validation"]["connectivity"]["recall"] == found["objectives"]["connectivity"]["recall"]
    entries = journal(whole)
    assert entries[0]["train"]["losses"].keys() >= {"nodes", "connectivity", "space_group"}


@pytest.mark.parametrize("step", [1, 3, STEPS - 1])
def test_killed_and_continued_is_never_killed(made: Path, whole: Path, step: int) -> None:
    def kill(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    folder = made / f"killed-{step}"
    with pytest.raises(Killed):
        train(settings(), folder, silent(kill))
    assert not (folder / "graphs").exists()
    train(settings(), folder, silent())
    assert weights(folder) == weights(whole)
    assert journal(folder) == journal(whole)


def test_ranks_learn_what_one_process_learns(made: Path, whole: Path) -> None:
    found = train_on(settings(), made / "ranks", silent(), chosen("local:2"))
    right = json.loads((whole / "metrics.json").read_text(encoding="utf-8"))
    assert found["best_epoch"] == right["best_epoch"]
    # Biases before normalisation have gradients of rounding alone, of which Adam makes steps.
    assert found["validation"]["loss"] == pytest.approx(right["validation"]["loss"], rel=1e-3)
    assert not (made / "ranks/graphs").exists()


def test_the_commands_from_structures_to_a_model(made: Path, whole: Path) -> None:
    done = called("pretrain", "p.toml", "--out", "whole")
    assert done.exit_code == 0
    assert "contrast" in done.stdout
    tuned = called("train", "t.toml", "--init", "whole", "--set", "init.frozen=1", "--out", "tuned", "--quiet")
    assert tuned.exit_code == 0
    resolved = (made / "tuned/config.toml").read_text(encoding="utf-8")
    assert '[init]\ncheckpoint = "whole"\nreadout = true\nnew_heads = []\nfrozen = 1\n' in resolved
    encoder, model = load_file(whole / "model.safetensors"), load_file(made / "tuned/model.safetensors")
    assert (encoder["embedding.weight"] == model["embedding.weight"]).all()
    assert not (encoder["convolutions.1.messages.centre"] == model["convolutions.1.messages.centre"]).all()
    # What config.toml says gives the same again.
    again = config.load(TrainingConfig, made / "tuned/config.toml")
    train(again, made / "again", silent())
    assert weights(made / "again") == weights(made / "tuned")
    taught = called(
        "distill", "t.toml", "--init", "whole", "--set", "distillation.teacher=whole", "--out", "taught", "--quiet"
    )
    assert taught.exit_code == 0
    assert "nodes" in journal(made / "taught")[0]["train"]["losses"]
    assert '[init]\ncheckpoint = "whole"\n' in (made / "taught/config.toml").read_text(encoding="utf-8")


def test_a_model_without_heads_is_not_asked_to_predict(whole: Path) -> None:
    with pytest.raises(InputError, match="is a pre-trained encoder, which predicts nothing; give it heads"):
        called("evaluate", str(whole), "labelled.extxyz")


def test_files_without_space_groups_are_refused(made: Path) -> None:
    without = ["data.train=['without.h5']"]
    with pytest.raises(InputError, match="no training crystal has a space group"):
        train(settings(*without), made / "refused", silent())
    none = ["objectives.space_group.weight=0", "objectives.contrast.weight=0", "training.epochs=1"]
    found = train(settings(*without, *none), made / "refused", silent())
    assert set(found["validation"]["objectives"]) == {"nodes", "connectivity"}


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.split.by=folds", "pre-training has no folds"),
        ("objectives.nodes.weigth=1", "did you mean weight"),
        ("training.select=nodes.mae", "expected one of loss, nodes.accuracy, connectivity.accuracy"),
        ("objectives.contrast.weight=0 training.select=contrast.accuracy", "loss, nodes.*space_group.accuracy_5$"),
    ],
)
def test_settings_that_cannot_be_used_are_named_before_crystals_are_read(made: Path, override: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        train(settings(*override.split()), made / "wrong", silent())
