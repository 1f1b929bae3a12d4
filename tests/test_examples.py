"""The examples: settings that are valid, a first screen whose printed commands work, and the benchmark of a million."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import million
import pytest
import screens
from made import PERIODIC_KINDS, made_crystals

from screening import config, load_model, write
from screening.config import Settings
from screening.enumerate.spec import Specification
from screening.pretrained.shipped import POTENTIAL
from screening.runs.config import ScreenConfig
from screening.training.config import TrainingConfig
from screening.training.distillation_config import DistillationConfig
from screening.training.forces_config import ForcesConfig
from screening.training.pretraining_config import PretrainingConfig

KINDS: dict[str, type[Settings]] = {
    "cgcnn.toml": TrainingConfig,
    "crysgnn.toml": PretrainingConfig,
    "distil.toml": DistillationConfig,
    "finetune.toml": TrainingConfig,
    "forces.toml": ForcesConfig,
    "million.toml": Specification,
    "perovskites.toml": Specification,
    "relaxed_screen.toml": ScreenConfig,
}
FEW = 300


def first_screen(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("first_screen", root / "examples/first_screen.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_settings_are_valid(root: Path) -> None:
    files = {file.name: file for file in (root / "examples").glob("*.toml")}
    assert set(files) == set(KINDS)
    for name, file in files.items():
        assert config.load(KINDS[name], file)


def test_a_first_screen_ends_in_a_shortlist_and_commands_that_work(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    example = first_screen(root)
    whole = (root / "examples/perovskites.toml").read_text(encoding="utf-8")
    (tmp_path / "perovskites.toml").write_text(f"max_crystals = {FEW}\n{_without_limit(whole)}", encoding="utf-8")
    monkeypatch.setattr(example, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["first_screen.py", str(tmp_path / "first")])
    assert example.main() == 0
    said = capfd.readouterr().out
    found = re.search(rf"(\d+) of {FEW} crystals may absorb sunlight", said)
    assert found, said
    # What is printed, what the report shows and what the printed query finds are the same crystals.
    wanted = int(found[1])
    assert f"{FEW} predicted crystals, {wanted} asked for" in said
    (line,) = re.findall(r"For DFT: +\.venv/bin/screening (query .*)", said)
    query = [sys.executable, "-m", "screening", *shlex.split(line)[:-1], str(tmp_path / "short.jsonl")]
    subprocess.run(query, check=True, timeout=120)
    short = [json.loads(row) for row in (tmp_path / "short.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(short) == min(wanted, 100)
    best = re.findall(r"^  (\S+) +-?[\d.]+ eV/atom, bound more strongly than", said, flags=re.MULTILINE)
    assert best == [row["formula"] for row in short[: example.COUNT]]
    assert not set(example.POISONS) & {symbol for row in short for symbol in re.findall("[A-Z][a-z]?", row["formula"])}


def test_a_property_of_ones_own_starts_from_the_shipped_potential(root: Path, tmp_path: Path) -> None:
    crystals = [
        replace(crystal, labels={"bulk_modulus": 10.0 + len(crystal)})
        for crystal in made_crystals(40, seed=1, max_atoms=6, kinds=PERIODIC_KINDS)
    ]
    write(crystals, tmp_path / "mine.extxyz", format="extxyz")
    example = str(root / "examples/finetune.toml")
    settings = [f"data.train={tmp_path / 'mine.extxyz'}", "training.epochs=1", "training.threads=1"]
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "screening", "train", example, *words, "--out", str(tmp_path / "run"), "--quiet"]
    subprocess.run(command, check=True, timeout=120)
    model, _ = load_model(tmp_path / "run")
    start, _ = load_model(POTENTIAL)
    assert [target.name for target in model.targets] == ["bulk_modulus"]
    # A few steps away from the start, and no further.
    moved = (model.embedding.weight - start.embedding.weight).detach().norm() / start.embedding.weight.detach().norm()
    assert 0 < float(moved) < 0.2


def _without_limit(text: str) -> str:
    return re.sub(r"(?m)^max_crystals = .*\n", "", text)


def test_the_benchmark_of_a_million_measures_every_stage(tmp_path: Path) -> None:
    model = screens.saved_model(tmp_path / "model.safetensors")
    rows = {row.case: row for row in million.run(FEW, str(model))}
    assert rows[next(case for case in rows if case.startswith(f"screen and merge {FEW} crystals"))].ours > 0
    assert {"enumerate", "packed file", "results.h5", "of that, merge alone"} < set(rows)
    assert all(row.ours > 0 for case, row in rows.items() if "over that with half" not in case)
    assert rows["query: two conditions, the best 100"].at_most == million.PROMISED_QUERY_SECONDS
