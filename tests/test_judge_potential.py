"""Errors of a potential: those that a loop over crystals and atoms finds, by file and by element."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made import made_crystals
from sizes import SMOOTH, small
from typer.testing import CliRunner, Result

from screening.cli import app
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.crystals.elements import SYMBOLS
from screening.crystals.write import write
from screening.errors import InputError
from screening.models.checkpoint import load, save
from screening.models.header import Card
from screening.models.registry import build
from screening.predictions import Target
from screening.relaxation.potential import Potential
from screening.training.mechanics import PLACES

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("one_torch_thread")]

LEARNED = Target("referenced_energy_per_atom", "eV/atom")
REFERENCES = {"a.extxyz": {"C": -1.5, "O": 2.0}, "other": {"C": 0.5, "O": 0.25, "Au": 1.0}}


def labelled(prefix: str, seed: int) -> list[Crystal]:
    """Crystals of carbon and oxygen, every third with gold; slabs too, which have no stress."""
    rng = np.random.default_rng(seed)
    made = made_crystals(
        9, seed=seed, kinds=["cell", "slab"], max_atoms=4, labels=("energy",), forces=True, prefix=prefix
    )
    numbers = [rng.choice([6, 8], len(c)).astype(np.uint8) for c in made]
    for own in numbers[::3]:
        own[0] = 79
    return [replace(c, numbers=own) for c, own in zip(made, numbers, strict=True)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.manual_seed(0)
    model = build("sieve", small("sieve") | SMOOTH["sieve"], [LEARNED])
    save(model, tmp_path / "p.safetensors", Card(references=REFERENCES))
    for name, seed in (("a", 1), ("b", 2)):
        write(labelled(name, seed), tmp_path / f"{name}.extxyz", format="extxyz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def called(*words: str) -> Result:
    context = SimpleNamespace(check=lambda: None)
    return CliRunner().invoke(app, ["evaluate", *words], obj=context, catch_exceptions=False)


def right(crystals: list[Crystal], references: dict[str, float]) -> dict[str, dict[str, list[float]]]:
    """All differences by element, and under `all`."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    model, _ = load(Path("p.safetensors"))
    for crystal in crystals:
        with Potential(model, threads=1) as potential:
            surface = potential(Crystals.of([crystal]))
        symbols = [SYMBOLS[z] for z in crystal.numbers.tolist()]
        groups = ["all", *sorted(set(symbols))]
        if "energy" in crystal.labels and set(symbols) <= set(references):
            zero = sum(references[symbol] for symbol in symbols)
            off = (surface.energy[0] - crystal.labels["energy"] + zero) / len(crystal)
            for group in groups:
                found[group]["energy"].append(off)
        if crystal.stress is not None and all(crystal.pbc):
            for group in groups:
                found[group]["stress"] += [float(surface.stress[0][p] - crystal.stress[p]) for p in PLACES]
        if crystal.forces is not None:
            for symbol, row in zip(symbols, surface.forces - crystal.forces, strict=True):
                for group in ("all", symbol):
                    found[group]["force"] += row.tolist()
    return found


def assert_errors(found: dict[str, dict[str, float]], wanted: dict[str, list[float]]) -> None:
    for term in ("energy", "force", "stress"):
        off = np.array(wanted.get(term, []))
        assert found[term]["count"] == len(off)
        if len(off):
            assert found[term]["mae"] == pytest.approx(np.abs(off).mean(), rel=1e-4)
            assert found[term]["rmse"] == pytest.approx(np.sqrt((off**2).mean()), rel=1e-4)
        else:
            assert found[term]["mae"] is None


def test_errors_are_those_of_a_loop_by_file_and_by_element(folder: Path) -> None:
    ran = called("p.safetensors", "a.extxyz", "b.extxyz", "--json", "e.json")
    assert ran.exit_code == 0
    assert "b.extxyz: no source of the model, so its energies are compared with nothing" in ran.stderr
    found = json.loads((folder / "e.json").read_text())
    ours, others = right(labelled("a", 1), REFERENCES["a.extxyz"]), right(labelled("b", 2), {})
    assert set(found["element"]) == {"C", "O", "Au"}
    for name, wanted in (("a.extxyz", ours), ("b.extxyz", others)):
        assert_errors(found["file"][name], wanted["all"])
    for group in ("all", "C", "O", "Au"):
        both = {term: ours[group][term] + others[group][term] for term in ("energy", "force", "stress")}
        assert_errors(found["all" if group == "all" else "element"][group], both)
    assert [line.split()[0] for line in ran.stdout.splitlines() if not line.startswith(("of", "units"))] == [
        *("all", "a.extxyz", "b.extxyz", "C", "O", "Au"),
    ]


def test_a_source_is_named_for_files_of_another_name(folder: Path) -> None:
    called("p.safetensors", "b.extxyz", "--source", "other", "--json", "e.json")
    found = json.loads((folder / "e.json").read_text())
    assert_errors(found["all"]["all"], right(labelled("b", 2), REFERENCES["other"])["all"])
    with pytest.raises(
        InputError, match=r"nobody: the model has no references of this source; it has a\.extxyz, other"
    ):
        called("p.safetensors", "b.extxyz", "--source", "nobody")


def test_what_does_not_belong_together_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="of which --plot draws nothing"):
        called("p.safetensors", "a.extxyz", "--plot", "p.png")
    save(build("sieve", small("sieve"), [Target("band_gap", "eV")]), folder / "gap.safetensors", Card())
    with pytest.raises(InputError, match="no potential of `screening train-forces`, so it has no --source"):
        called("gap.safetensors", "a.extxyz", "--source", "other")
    write(made_crystals(2, labels=()), folder / "bare.extxyz", format="extxyz")
    with pytest.raises(InputError, match="no crystal has an energy, forces or a stress"):
        called("p.safetensors", "bare.extxyz")
