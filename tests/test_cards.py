"""The card in a model's file: what the configuration says, also where it says something else by now."""

from pathlib import Path

import pytest
from runs_made import lay, ran, weights

from screening import config
from screening.models.header import read_card
from screening.training.config import TrainingConfig
from screening.training.loop import Progress


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with crystals and a configuration, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("screening.training.recipe.draw_curves", lambda *arguments: None)
    monkeypatch.setattr("screening.training.judge.draw_parity", lambda *arguments: None)
    lay(tmp_path)
    return tmp_path


def test_the_card_says_what_the_configuration_does(folder: Path) -> None:
    ran(folder, "training.epochs=1", "card.title=a trial", "card.licence=CC-BY-4.0", "card.limits=knows salts only")
    card = read_card(folder / "run" / "model.safetensors")[2]
    assert (card.title, card.licence, card.limits) == ("a trial", "CC-BY-4.0", "knows salts only")


@pytest.mark.parametrize("by", ["random", "folds"])
def test_a_card_is_reworded_without_training_anew(folder: Path, by: str) -> None:
    ways = (f"data.split.by={by}", "card.title=first", "card.licence=mine")
    first = ran(folder, *ways)
    (model, *_) = models = sorted((folder / "run").glob("**/model.safetensors"))
    assert len(models) == (3 if by == "folds" else 1)
    _, _, before = read_card(model)
    held, untouched = weights(model), model.read_bytes()
    assert ran(folder, *ways) == first
    assert model.read_bytes() == untouched
    assert ran(folder, *ways, "card.title=second", "card.limits=none known") == first
    _, _, after = read_card(model)
    assert after == before.model_copy(update={"title": "second", "limits": "none known"})
    assert weights(model) == held
    assert {read_card(each)[2].title for each in models} == {"second"}
    assert config.load(TrainingConfig, folder / "run/config.toml").card.title == "second"
    for each in models:
        each.unlink()
    assert ran(folder, *ways) == first, "of a model that somebody took away there is nothing to say"


def test_a_stopped_run_goes_on_with_another_card(folder: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    best = ("training.optimiser.rate=3.0",)
    whole = ran(folder, *best, "card.title=second", out="whole")
    assert whole["best_epoch"] == 1, "which is not saved again after the stop"
    with pytest.raises(KeyboardInterrupt):
        ran(folder, *best, "card.title=first", watch=stop)
    assert read_card(folder / "run/model.safetensors")[2].title == "first"
    assert ran(folder, *best, "card.title=second") == whole
    assert read_card(folder / "run/model.safetensors")[2].title == "second"
    assert weights(folder / "run/model.safetensors") == weights(folder / "whole/model.safetensors")
