"""The study of derivative-based pre-training: its plan, its configurations, what it makes of metrics."""

import json
from pathlib import Path
from typing import Any

import derivative_study
import pytest
from derivative.plan import FEW, KINDS, MODULI, SIEVE, FineTuning, PreTraining, planned
from derivative.report import best_two, claims_table, report_of
from derivative.running import config_of, run_all, state_of

from screening.errors import InputError
from screening.training.config import TrainingConfig
from screening.training.forces_config import ForcesConfig
from screening.training.lessons.registry import lesson_of
from screening.training.material import Listener


def metrics(out: Path, run: FineTuning, choice: float, measure: float) -> None:
    def of(value: float) -> dict[str, Any]:
        return {"targets": {name: {"mae": value} for name in run.task.targets}}

    folder = out / run.name
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"validation": of(choice), "test": of(measure)}))


def test_runs_have_names_of_their_own_and_come_after_what_they_need() -> None:
    runs = planned(["E", "EFS"])
    names = [run.name for run in runs]
    assert len(set(names)) == len(names)
    for place, run in enumerate(runs):
        if isinstance(run, FineTuning) and run.needs is not None:
            assert run.needs in runs[:place]


def test_every_run_has_a_configuration_that_is_valid(tmp_path: Path) -> None:
    for run in planned(["E"]):
        config = config_of(run, Path("data"), tmp_path)
        assert isinstance(config, ForcesConfig if isinstance(run, PreTraining) else TrainingConfig)
        assert lesson_of(config).new_model().is_smooth


def test_shares_divide_the_runs() -> None:
    runs = planned()
    halves = [derivative_study.shared(runs, share) for share in ("1/2", "2/2")]
    assert sorted(run.name for half in halves for run in half) == sorted(run.name for run in runs)
    with pytest.raises(InputError, match="expected K/N"):
        derivative_study.shared(runs, "3/2")


def test_the_list_and_an_empty_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert derivative_study.main([str(tmp_path), "--list"]) == 0
    assert "waiting  pretrain-sieve-EFS" in capsys.readouterr().out
    assert derivative_study.main([str(tmp_path), "--report"]) == 0
    assert "open" in (tmp_path / "report.md").read_text()


def test_the_best_two_are_chosen_by_the_crystals_that_choose_and_only_when_all_are_known(tmp_path: Path) -> None:
    kinds = list(KINDS)
    for rank, kind in enumerate(kinds[1:]):
        for seed in range(FEW.seeds):
            # What only measures says the opposite, and must not decide.
            metrics(tmp_path, FineTuning(FEW, kind, SIEVE, seed), 1.0 + rank, 10.0 - rank)
    assert best_two(tmp_path) == []
    for seed in range(FEW.seeds):
        metrics(tmp_path, FineTuning(FEW, kinds[0], SIEVE, seed), 9.0, 0.1)
    assert best_two(tmp_path) == kinds[1:3]


def test_claims_follow_from_pairs_of_one_seed(tmp_path: Path) -> None:
    for seed in range(MODULI.seeds):
        metrics(tmp_path, FineTuning(MODULI, "E", SIEVE, seed), 1.0, 1.0 + 0.1 * seed)
        metrics(tmp_path, FineTuning(MODULI, "EFS", SIEVE, seed), 1.0, 0.9 * (1.0 + 0.1 * seed))
    rows = claims_table(tmp_path).splitlines()
    assert next(row for row in rows if "energy alone" in row).endswith("| 10.0 ± 0.0 % | 6 | confirmed |")
    assert next(row for row in rows if "labels beat denoising" in row).endswith("| 0 | open |")
    assert "| EFS | - | 0.99 ± 0.052 |" in report_of(tmp_path)


def test_a_run_waits_for_what_it_starts_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("derivative.running.make_crystals", lambda data, out, say: None)
    monkeypatch.setattr("derivative.running.train", lambda config, folder, listener: pytest.fail("nothing may run"))
    said: list[str] = []
    run = FineTuning(MODULI, "EFS", SIEVE, 0)
    listener = Listener(said.append, lambda progress: None)
    assert not run_all([run], tmp_path, tmp_path, listener, budget_s=60.0, epochs=1.0)
    assert state_of(run, tmp_path) == "waiting"
    assert said[-1] == f"{run.name} waits for pretrain-sieve-EFS, which another share does"
    assert not run_all([run], tmp_path, tmp_path, listener, budget_s=0.0, epochs=1.0)
