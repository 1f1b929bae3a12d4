"""What the studies have in common: how their commands end, how several processes share runs, what the record holds."""

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import record
import studies
import tables
from hypothesis import given
from hypothesis import strategies as st
from studies import State, work_through
from tables import Estimate

from screening.config import Settings
from screening.errors import InputError, ScreeningError
from screening.training.material import Listener


@dataclass(frozen=True)
class Job:
    name: str
    after: "Job | None" = None


def state_in(out: Path) -> Callable[[Job], State]:
    def state(job: Job) -> State:
        if (out / job.name).exists():
            return "finished"
        return "blocked" if job.after is not None and state(job.after) != "finished" else "waiting"

    return state


def quiet(said: list[str] | None = None) -> Listener:
    return Listener([].append if said is None else said.append, lambda progress: None)


@given(st.lists(st.integers(-1, 8), max_size=9), st.integers(1, 4))
def test_workers_do_every_run_once_and_after_what_it_needs(
    tmp_path_factory: pytest.TempPathFactory, needs: list[int], workers: int
) -> None:
    jobs: list[Job] = []
    for number, need in enumerate(needs):
        jobs.append(Job(f"job{number}", jobs[need % number] if need >= 0 and number else None))
    out = tmp_path_factory.mktemp("study")
    done: list[Job] = []
    ends: list[bool] = []

    def nap(_: float) -> None:
        time.sleep(0.001)

    def do(job: Job) -> None:
        assert job.after is None or job.after in done
        time.sleep(0.001)
        done.append(job)
        (out / job.name).touch()

    def work() -> None:
        # Later runs first: a run that is blocked is left for another.
        plan = list(reversed(jobs))
        ends.append(work_through(lambda: plan, state_in(out), do, out, quiet(), budget_s=60.0, pause=nap))

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [True] * workers
    assert sorted(job.name for job in done) == sorted(job.name for job in jobs)


def test_a_plan_may_grow_when_runs_are_done(tmp_path: Path) -> None:
    def plan() -> Sequence[Job]:
        return [Job("a"), *([Job("b")] if (tmp_path / "a").exists() else [])]

    assert work_through(
        plan, state_in(tmp_path), lambda job: (tmp_path / job.name).touch(), tmp_path, quiet(), budget_s=60.0
    )
    assert (tmp_path / "b").exists()


def test_work_ends_when_only_blocked_runs_are_left_or_the_budget_is_spent(tmp_path: Path) -> None:
    said: list[str] = []
    jobs = [Job("b", after=Job("a"))]

    def work(budget_s: float) -> bool:
        return work_through(lambda: jobs, state_in(tmp_path), pytest.fail, tmp_path, quiet(said), budget_s=budget_s)

    assert not work(60.0)
    assert said == ["1 runs wait for others that have failed"]
    assert not work(0.0)
    assert said[-1] == "the budget is spent after 0.00 h: 1 runs are left"


def test_what_is_done_and_not_finished_is_not_done_again_for_ever(tmp_path: Path) -> None:
    with pytest.raises(ScreeningError, match="a was done, and its folder still says waiting"):
        work_through(
            lambda: [Job("a")],
            state_in(tmp_path),
            lambda job: None,
            tmp_path,
            quiet(),
            budget_s=60.0,
            pause=pytest.fail,
        )


def test_a_command_ends_with_what_is_left_or_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(chosen: argparse.Namespace) -> bool:
        raise InputError("no such file")

    ends = [studies.command("study", act, argparse.Namespace()) for act in (lambda _: True, lambda _: False, wrong)]
    assert ends == [0, 1, InputError.exit_code]
    assert capsys.readouterr().err == "study: no such file\n"


class Lengths(Settings):
    epochs: int = 3
    threads: int = 1


def test_gains_are_taken_seed_by_seed() -> None:
    assert tables.gains({0: 1.0, 1: 2.0, 3: 1.0}, {1: 1.6, 0: 0.5, 2: 9.0}) == pytest.approx({0: 50.0, 1: 20.0})
    assert tables.gain({0: 1.0, 1: 2.0}, {0: 0.9, 1: 1.6, 2: 9.0}) == "+15.0 % ± 5.0"
    assert tables.gain({0: 1.0}, {0: 1.1}) == "-10.0 %"
    assert tables.gain({}, {0: 1.1}) == "-"


def test_an_estimate_is_shown_with_its_error_if_it_has_one() -> None:
    one, two = (Estimate.of(dict(enumerate(values))) for values in ([2.0], [1.0, 2.0]))
    assert one == Estimate(2.0, None, 1)
    assert two is not None
    assert (two.mean, two.seeds) == (1.5, 2)
    assert (two.error, two.margin) == (pytest.approx(0.5), pytest.approx(6.314 * 0.5))
    assert one.margin == float("inf")
    assert [tables.shown(each) for each in (one, two, None)] == ["2", "1.5 ± 0.5", "-"]
    assert tables.shown(two, "{:+.1f}", "{:.2f}", "%") == "+1.5 ± 0.50 %"
    assert [tables.fixed(each, 2, "eV") for each in (one, two, None)] == ["2.00 eV", "1.50 ± 0.50 eV", "-"]


def test_a_table_is_markdown() -> None:
    assert tables.table(["a", "b"], [["1", "2"], ["", "4"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n|  | 4 |"
    assert tables.table(["a", "b", "c"], [], numbers=True) == "| a | b | c |\n| --- | ---: | ---: |"


def test_a_record_gives_back_what_reports_read(tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "measured.json"
    whole = {"test": {"targets": {"gap": {"mae": 0.123456789, "curve": [1, 2], "count": 7}}, "seconds": 5.0}}
    for name, text in (("a/metrics.json", json.dumps(whole)), ("b/failed.txt", "it diverged\n"), ("c/state", "")):
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text(text)
    assert record.pack(file, Lengths(), out, "abc", ("metrics.json", "failed.txt")) == 2
    again = tmp_path / "again"
    (again / "b").mkdir(parents=True)
    (again / "b/failed.txt").write_text("of its own")
    # Where it runs is no matter; what it is, is.
    assert record.unpack(file, Lengths(epochs=4), again) == 0
    assert not (again / "a").exists()
    assert record.unpack(file, Lengths(threads=8), again) == 2
    assert json.loads((again / "a/metrics.json").read_text()) == {"test": {"targets": {"gap": {"mae": 0.123457}}}}
    assert (again / "b/failed.txt").read_text() == "of its own"
    assert record.unpack(tmp_path / "none.json", Lengths(), again) == 0
    # What is being done again keeps its line.
    record.forget(again / "a", ["metrics.json"], without="model")
    assert not (again / "a/metrics.json").exists()
    assert record.pack(file, Lengths(), again, "abc", ("metrics.json", "failed.txt")) == 2
    assert json.loads(file.read_text())["runs"]["a"]["metrics.json"]["test"]["targets"]["gap"] == {"mae": 0.123457}
    with pytest.raises(InputError, match="no run is finished"):
        record.pack(tmp_path / "new.json", Lengths(), tmp_path / "empty", "abc", ("metrics.json",))


@pytest.mark.parametrize("name", ["crysgnn", "derivative"])
def test_the_records_of_the_repository_are_of_its_studies(name: str) -> None:
    module = __import__(f"{name}_study")
    place = module.STUDY.parent / record.FILE
    if place.exists():
        study = studies_settings(name, module.STUDY)
        assert json.loads(place.read_text(encoding="utf-8"))["study"] == record.digest(study)


def studies_settings(name: str, path: Path) -> Settings:
    from screening import config

    module = __import__(f"{name}.settings", fromlist=["StudySettings"])
    settings: Settings = config.load(module.StudySettings, path)
    return settings
