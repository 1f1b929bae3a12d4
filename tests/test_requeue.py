"""A job whose time is over goes back into the queue, if that leads anywhere, however long the controller is silent."""

from types import SimpleNamespace

import pytest

from screening.errors import InputError, ResourceError
from screening.runs.listener import Progress
from screening.runs.slurm import controller, requeue
from screening.runs.slurm.controller import SilentError
from screening.runs.slurm.requeue import go_on_later

NOW = 1_700_000_000.0
SAME = "job 7 goes back into the queue, and goes on from here"


class Controller:
    """Is silent some times, for as long as a call may take."""

    def __init__(self, silent: int) -> None:
        self.silent, self.now, self.asked = silent, NOW, 0

    def requeue(self, job: str) -> None:
        assert job == "7"
        self.asked += 1
        if self.asked <= self.silent:
            self.now += controller.LIMIT_S
            raise SilentError("scontrol: no answer")

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def asked(monkeypatch: pytest.MonkeyPatch, silent: int) -> Controller:
    found = Controller(silent)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    monkeypatch.setattr(controller, "requeue", found.requeue)
    monkeypatch.setattr(requeue, "time", SimpleNamespace(time=lambda: found.now, sleep=found.sleep))
    return found


def test_a_controller_that_is_silent_for_a_while_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found, said = asked(monkeypatch, 3), list[str]()
    go_on_later(Progress(100, rows=10), said.append)
    assert found.asked == 4
    assert said == [SAME, "scontrol: no answer; it is asked again until the time of this job is over"]


@pytest.mark.parametrize(("end", "most"), [("", requeue.UNTOLD_S), (str(int(NOW) + 900), 900 - requeue.SPARE_S)])
def test_one_that_stays_silent_is_told_before_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, end: str, most: float
) -> None:
    found = asked(monkeypatch, 10**6)
    monkeypatch.setenv("SLURM_JOB_END_TIME", end)
    with pytest.raises(ResourceError, match=r"7 is not queued again: scontrol: no answer; .* `screening submit`"):
        go_on_later(Progress(100, rows=10), lambda words: None)
    assert most - 2 * controller.LIMIT_S < found.now - NOW < most + controller.LIMIT_S


@pytest.mark.parametrize(
    ("progress", "cure"),
    [
        (None, "were not even packed in its time. Pack them first with `screening pack`"),
        (Progress(100, before=40), "has not done a single crystal in its time. Ask for more time"),
        (Progress(100, before=100), "all crystals are predicted, .* `screening merge RUN` finishes the run"),
    ],
    ids=["packing", "predicting", "merging"],
)
def test_what_would_come_no_further_is_not_queued_again(
    monkeypatch: pytest.MonkeyPatch, progress: Progress | None, cure: str
) -> None:
    found = asked(monkeypatch, 0)
    with pytest.raises(ResourceError, match=f"job 7 is not queued again: .*{cure}"):
        go_on_later(progress, lambda words: None)
    assert found.asked == 0


def test_a_merge_whose_job_predicted_something_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch, 0)
    go_on_later(Progress(100, before=90, rows=10), lambda words: None)
    assert found.asked == 1


def test_outside_of_a_job_there_is_nothing_to_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(InputError, match="this is no job of Slurm"):
        go_on_later(Progress(100, rows=10), lambda words: None)
