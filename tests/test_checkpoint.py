"""Checkpoints: what is loaded is what was saved, and every file that is not one says so."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from screening.errors import FileFormatError, InputError, ResourceError, ScreeningError
from screening.models.checkpoint import load, save
from screening.models.header import METADATA_KEY, Card, read_card
from screening.models.model import CrystalModel
from screening.models.registry import build
from screening.predictions import Target

TARGETS = (
    Target("efermi", "eV"),
    Target("is_metal", "1", "classification"),
    Target("bulk_modulus", "GPa", scale="log10"),
)
CARD = Card(
    title="a small one",
    elements=(1, 8, 26),
    fingerprint="abc",
    metrics={"val": {"efermi": {"mae": 0.25, "r2": float("nan")}}},
)


def small_model(seed: int = 0) -> CrystalModel:
    torch.manual_seed(seed)
    model = build("cgcnn", {"width": 4, "convolutions": 1, "hidden": 3}, TARGETS)
    model.set_scaling([0.1, 0.0, 2.0], [1.5, 1.0, 1 / 3])
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(small_model(), tmp_path / "model.safetensors", CARD)
    return tmp_path / "model.safetensors"


def rewritten(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Save a file again with its header changed."""
    with safe_open(file, framework="pt") as content:
        header = json.loads(content.metadata()[METADATA_KEY])
    change(header)
    save_file(load_file(file), file, {METADATA_KEY: json.dumps(header)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    model = small_model().to(dtype)
    written = save(model, tmp_path / "m.safetensors", CARD)
    random_before = torch.get_rng_state()
    again, card = load(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), random_before)
    assert not again.training
    assert again.dtype == dtype
    assert (again.targets, again.settings, again.neighbors) == (model.targets, model.settings, model.neighbors)
    assert again.scaling == model.scaling
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert card == written
    assert card.metrics == {"val": {"efermi": {"mae": 0.25, "r2": None}}}
    assert card.created
    assert card.code_version
    assert read_card(tmp_path / "m.safetensors") == ("cgcnn", model.targets, card)


def test_saving_twice_gives_the_same_bytes_and_leaves_no_part(saved: Path) -> None:
    first = saved.read_bytes()
    model, card = load(saved)
    save(model, saved, card)
    assert saved.read_bytes() == first
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_a_write_that_fails_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        save(small_model(1), saved, CARD)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_a_model_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        model.embedding.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"embedding.weight of the model is not finite"):
        save(model, tmp_path / "m.safetensors", CARD)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match="there is no folder"):
        save(small_model(), tmp_path / "absent" / "m.safetensors", CARD)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, place: float, bit: int) -> None:
    file = tmp_path_factory.mktemp("flipped") / "m.safetensors"
    save(small_model(), file, Card(created="now", code_version="1"))
    whole = file.read_bytes()
    content = bytearray(whole)
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)
    try:
        model, card = load(file)
    except ScreeningError:
        return
    assert (card, model.scaling) == (Card(created="now", code_version="1"), small_model().scaling)


@settings(max_examples=30, deadline=None)
@given(kept=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(tmp_path_factory: pytest.TempPathFactory, kept: float) -> None:
    file = tmp_path_factory.mktemp("cut") / "m.safetensors"
    save(small_model(), file, CARD)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(FileFormatError, match="truncated"):
        load(file)


class Hostile:
    """Ends the process when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def test_files_of_other_programs_are_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    file.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(FileFormatError, match="is no model"):
        load(file)
    torch.save({"state_dict": Hostile()}, file)
    assert zipfile.is_zipfile(file)
    with pytest.raises(FileFormatError, match="is no model"):
        load(file)
    save_file({"x": torch.ones(2)}, file, {METADATA_KEY: "{"})
    with pytest.raises(FileFormatError, match="header is damaged at JSON"):
        load(file)
    save_file({"x": torch.ones(2)}, file)
    with pytest.raises(FileFormatError, match="of another program"):
        load(file)


def test_a_newer_format_asks_for_an_update(saved: Path) -> None:
    rewritten(saved, lambda header: header.update(format_version=2, card="in another form"))
    with pytest.raises(FileFormatError, match=r"has model format 2, .* update screening"):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.clear(), "header is damaged at format_version"),
        (lambda h: h.pop("targets"), "header is damaged at targets"),
        (lambda h: h.update(extra=1), "header is damaged at extra"),
        (lambda h: h["targets"][0].update(kind="ranking"), "header is damaged at targets.0.kind"),
        (lambda h: h["targets"][0].update(std=-1.0), "does not fit this version.*positive deviation"),
        (lambda h: h.update(architecture="transformer"), "architecture 'transformer' is not in this version"),
        (lambda h: h["settings"].update(depth=3), "does not fit this version.*depth"),
        (lambda h: h["settings"].update(width=5), "weight .* has shape .*, expected"),
        (lambda h: h["settings"].update(convolutions=2), "missing convolutions.1"),
        (lambda h: h["neighbors"].update(cutoff=6.0), "trained on edges with cutoff = 6.0 and"),
        (lambda h: h.update(sha256="0"), "is damaged: its weights"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(saved: Path, change: Callable[..., None], message: str) -> None:
    rewritten(saved, change)
    with pytest.raises(FileFormatError, match=message):
        load(saved)
