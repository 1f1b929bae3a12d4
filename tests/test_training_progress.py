"""How training shows where it is, without a terminal."""

import itertools
from types import SimpleNamespace

import pytest

from screening.cli import progress
from screening.training.loop import Progress


def at(step: int, *, steps: int) -> Progress:
    return Progress(1, 1, step, steps, loss=0.5, rate=100.0, validation="")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by 10 seconds whenever it is read."""
    ticks = itertools.count(step=10)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))


def left(steps: list[Progress], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with progress.training_progress(quiet=False) as watch:
        for step in steps:
            watch(step)
    return [line.split(", ")[-1] for line in capsys.readouterr().err.splitlines()]


def test_time_left_is_that_of_the_steps_made_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert left([at(k, steps=6) for k in range(1, 7)], capsys) == ["0:00:30 left", "0:00:00 left"]


def test_a_continued_run_has_steps_behind_it_that_took_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert left([at(k, steps=106) for k in range(101, 107)], capsys) == ["0:00:30 left", "0:00:00 left"]


def test_what_came_before_the_first_step_is_no_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Reading and asking teachers took 1,000 seconds; then a step takes 10.
    ticks = itertools.chain([0], itertools.count(1000, step=10))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    said = left([at(k, steps=9) for k in range(1, 10)], capsys)
    assert said == ["100 crystals/s", "0:00:50 left", "0:00:20 left", "0:00:00 left"]


@pytest.mark.parametrize("back", [1, 90])
def test_a_run_after_another_or_one_that_goes_back_begins_anew(back: int, capsys: pytest.CaptureFixture[str]) -> None:
    first = [at(k, steps=100) for k in range(95, 101)]
    then = [at(k, steps=back + 5) for k in range(back, back + 6)]
    assert left([*first, *then], capsys) == ["0:00:30 left", "0:00:00 left"] * 2


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.training_progress(quiet=True) as watch:
        watch(at(6, steps=6))
    assert capsys.readouterr().err == ""
