"""How work shows where it is: lines now and then without a terminal, a bar on one."""

import io
import itertools
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from screening.cli import progress
from screening.cli.progress import Moment, shown
from screening.cli.training_progress import training_progress
from screening.training.loop import Progress


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by 10 seconds whenever it is read."""
    set_clock(monkeypatch, itertools.count(step=10))


def set_clock(monkeypatch: pytest.MonkeyPatch, ticks: Iterator[int]) -> None:
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))


def lines(
    done: list[int], capsys: pytest.CaptureFixture[str], *, total: int | None, last_line: bool = False
) -> list[str]:
    with shown(quiet=False, last_line=last_line) as show:
        for each in done:
            show(Moment(f"{each} done", each, total))
    return capsys.readouterr().err.splitlines()


def test_a_line_now_and_then_says_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines([0, 2, 4, 6, 8, 10], capsys, total=20) == ["4 done, 0:01:20 left", "10 done, 0:00:50 left"]


def test_of_an_unknown_whole_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines([1, 2, 3], capsys, total=None) == ["3 done"]


def test_the_end_has_a_line_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines([1, 2, 2], capsys, total=2) == ["2 done, 0:00:00 left"]
    assert lines([1, 2, 2], capsys, total=2, last_line=True) == ["2 done, 0:00:00 left"]
    assert lines([1, 2], capsys, total=3, last_line=True) == []


def test_continued_work_has_some_behind_it_that_took_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines([*range(101, 107)], capsys, total=106) == ["103 done, 0:00:30 left", "106 done, 0:00:00 left"]


def test_waiting_is_no_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # Workers took 1,000 seconds to start; then a unit of work takes 10.
    set_clock(monkeypatch, itertools.chain([0, 1000], itertools.count(2000, step=10)))
    found = lines([0, 0, 1, 2, 3, 4], capsys, total=9)
    assert found == ["0 done", "0 done", "3 done, 0:01:00 left"]


@pytest.mark.parametrize("back", [1, 90])
def test_work_after_other_work_or_that_goes_back_begins_anew(back: int, capsys: pytest.CaptureFixture[str]) -> None:
    def left(found: list[str]) -> list[str]:
        return [line.split(", ")[-1] for line in found]

    with shown(quiet=False, last_line=True) as show:
        for each in range(95, 101):
            show(Moment("first", each, 100))
        for each in range(back, back + 6):
            show(Moment("then", each, back + 5))
    assert left(capsys.readouterr().err.splitlines()) == ["0:00:30 left", "0:00:00 left"] * 2


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(quiet=True, last_line=True) as show:
        for each in range(10):
            show(Moment("a word", each, 9))
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar_that_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with shown(quiet=False) as show:
        for total, done in [(None, 3), (10, 5), (10, 1)]:
            show(Moment(f"{done} crystals", done, total))
    drawn = sys.stderr.getvalue()
    assert "1 crystals" in drawn
    assert "10%" in drawn
    # The last thing is to erase the line.
    assert drawn.endswith("\x1b[1A\x1b[2K")


def test_training_is_told_by_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    with training_progress(quiet=False) as watch:
        for step in (1, 2, 3, 4):
            watch(Progress(1, 2, step, 4, loss=0.5, rate=100.0, validation="MAE 0.1" if step == 4 else ""))
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1/2, loss 0.5, 100 crystals/s, 0:00:10 left",
        "epoch 1/2, loss 0.5, 100 crystals/s, MAE 0.1, 0:00:00 left",
    ]
