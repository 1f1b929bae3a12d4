"""What teachers say: once for any run, also of several at a time, whatever stops them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from teaching_made import ENERGY, GAP, GRAPHS, SETTINGS, labelled, never, saved

from screening.errors import FileFormatError, InputError
from screening.predictions import Target
from screening.training import teachers as teaching
from screening.training.labelled import LabelledGraphs
from screening.training.material import Listener
from screening.training.tables import mapped
from screening.training.teachers import Lecture, Teachers, described_atoms, predictions


def test_a_teacher_is_frozen_and_in_evaluation(tmp_path: Path) -> None:
    teachers = Teachers.loaded([saved(tmp_path / "t")], device="cpu", encoders=True)
    (model,) = teachers.models
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(InputError, match="is a pre-trained encoder"):
        Teachers.loaded([str(tmp_path / "t")], device="cpu", encoders=False)


def lecture(cache: Path, graphs: LabelledGraphs = GRAPHS, made: Any = never, say: Any = lambda text: None) -> Lecture:
    return Lecture(graphs, cache, SETTINGS, made, Listener(say, lambda progress: None))


def test_atoms_are_described_once_in_any_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teachers = Teachers.loaded([saved(tmp_path / "t")], device="cpu", encoders=True)
    cache = tmp_path / "cache"
    path = described_atoms(teachers, lecture(cache))
    found = mapped(path, len(GRAPHS.numbers))
    with torch.no_grad():
        whole, _ = GRAPHS.take(np.arange(len(GRAPHS)))
        right = torch.nn.functional.normalize(teachers.models[0].encode(whole), dim=1)
    np.testing.assert_allclose(found, right, atol=1e-6)
    assert list(cache.iterdir()) == [path]

    def fail(*arguments: object, **named: object) -> None:
        raise AssertionError("it was there already")

    monkeypatch.setattr(teaching._Asked, "block", fail)
    # Labels are of no interest to it; other crystals and other teachers are.
    other_labels = replace(GRAPHS, labels=GRAPHS.labels + 1.0)
    assert described_atoms(teachers, lecture(cache, other_labels)) == path
    another = Teachers.loaded([saved(tmp_path / "u", seed=1)], device="cpu", encoders=True)
    for who, graphs in ((another, GRAPHS), (teachers, GRAPHS.first(9))):
        with pytest.raises(AssertionError, match="it was there already"):
            described_atoms(who, lecture(cache, graphs))
    with pytest.raises(FileFormatError, match="rows, expected 3; delete it"):
        mapped(path, 3)
    with pytest.raises(FileFormatError, match=r"cannot be read \(No such file.*workers need it under one path"):
        mapped(cache / "elsewhere.npy", 3)


def test_a_teacher_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teachers = Teachers.loaded([saved(tmp_path / "t", GAP)], device="cpu", encoders=False)
    whole = mapped(described_atoms(teachers, lecture(tmp_path / "whole")), len(GRAPHS.numbers))
    monkeypatch.setattr(teaching, "BLOCK", 6)
    monkeypatch.setattr(teaching, "SAY_S", 0.0)
    block, asked, said = teaching._Asked.block, [], []

    def stopping(self: Any, number: int) -> Any:
        asked.append(number)
        if number == 2 and asked.count(2) == 1:
            raise KeyboardInterrupt
        return block(self, number)

    monkeypatch.setattr(teaching._Asked, "block", stopping)
    with pytest.raises(KeyboardInterrupt):
        described_atoms(teachers, lecture(tmp_path / "cache", say=said.append))
    path = described_atoms(teachers, lecture(tmp_path / "cache", say=said.append))
    assert asked == [0, 1, 2, 2, 3]
    assert said[:2] == ["teacher cgcnn: 6 of 20 crystals", "teacher cgcnn: 12 of 20 crystals"]
    assert said[-1] == "teacher cgcnn: 20 of 20 crystals"
    np.testing.assert_array_equal(mapped(path, len(GRAPHS.numbers)), whole)
    assert list((tmp_path / "cache").iterdir()) == [path]


@pytest.mark.parametrize("place", [0, 1, 3])
def test_runs_may_ask_a_teacher_for_the_same_at_once(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers = Teachers.loaded([saved(tmp_path / "t", GAP)], device="cpu", encoders=False)
    whole = mapped(described_atoms(teachers, lecture(tmp_path / "whole")), len(GRAPHS.numbers))
    monkeypatch.setattr(teaching, "BLOCK", 6)
    block, others = teaching._Asked.block, []

    def overtaken(self: Any, number: int) -> Any:
        # While this run is at a block, another begins, takes over what is there, and ends.
        if number == place and not others:
            others.append(None)
            others.append(described_atoms(teachers, lecture(tmp_path / "cache")))
        return block(self, number)

    monkeypatch.setattr(teaching._Asked, "block", overtaken)
    path = described_atoms(teachers, lecture(tmp_path / "cache"))
    assert others[1] == path
    np.testing.assert_array_equal(mapped(path, len(GRAPHS.numbers)), whole)
    assert list((tmp_path / "cache").iterdir()) == [path]


def test_predictions_are_means_of_those_who_can(tmp_path: Path) -> None:
    names = [saved(tmp_path / "a", GAP), saved(tmp_path / "b", ENERGY, GAP, seed=1)]
    # A teacher with other edges is shown the same crystals with these.
    names.append(saved(tmp_path / "c", GAP, seed=2, cutoff=4.0))
    teachers = Teachers.loaded(names, device="cpu", encoders=False)
    wide = Target("volume", "angstrom^3/cell")
    shown = lecture(tmp_path / "cache", made=labelled)
    path = predictions(teachers, (GAP, wide, ENERGY), shown)
    found = mapped(path, len(GRAPHS))
    values = []
    for model in teachers.models:
        graph, _ = labelled(model.neighbors).take(np.arange(len(GRAPHS)))
        with torch.no_grad():
            values.append({name: column.numpy() for name, column in model.predict(graph).items()})
    np.testing.assert_allclose(found[:, 0], np.mean([v["band_gap"] for v in values], axis=0), rtol=1e-6, atol=1e-9)
    assert np.isnan(found[:, 1]).all()
    np.testing.assert_allclose(found[:, 2], values[1][ENERGY.name], rtol=1e-6, atol=1e-9)
    with pytest.raises(InputError, match="no teacher predicts volume; name teachers"):
        predictions(teachers, (wide,), shown)
    with pytest.raises(InputError, match="a teacher's band_gap is a regression in eV, this run's a regression in meV"):
        predictions(teachers, (Target("band_gap", "meV"),), shown)
