"""Which workers there are, by what a scheduler says: here a made-up one, so that every order of events can be had."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from screening.errors import InputError, ResourceError
from screening.runs import dask_crew
from screening.runs.dask_crew import Crew, CrewLimits, Link, SchedulerLostError
from screening.runs.dask_tasks import SIGNS
from screening.runs.listener import Listener
from screening.runs.plan import LONGEST_TICK_S, Loss, Plan, Sizes
from screening.runs.worker import Job
from screening.store.schema import Stamp

TOPIC = "screening-1"


class Trial:
    """What Dask gives for a task: finished unless a test says otherwise."""

    def __init__(self) -> None:
        self.status = "finished"
        self.error: BaseException | None = None

    def exception(self) -> BaseException | None:
        return self.error


@dataclass
class Scheduler:
    """What a client asks of a scheduler, answered by a test."""

    workers: dict[str, dict[str, Any]] = field(default_factory=dict)
    status: str = "running"
    scheduler_comm: object = field(default_factory=object)
    trials: dict[str, Trial] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    on_submit: Callable[[Trial], None] = lambda trial: None

    @property
    def scheduler(self) -> "Scheduler":
        return self

    def sync(self, call: Callable[..., Any], **options: object) -> Any:
        return call(**options)

    def identity(self, n_workers: int = 5) -> dict[str, Any]:
        shown = list(self.workers.items())[: None if n_workers == -1 else n_workers]
        return {"workers": dict(shown)}

    def submit(self, function: object, *arguments: object, workers: list[str], key: str, **options: object) -> Trial:
        trial = Trial()
        self.on_submit(trial)
        self.keys.append(key)
        self.trials[workers[0]] = trial
        return trial

    def restart_workers(self, workers: list[str], **options: object) -> None:
        for address in workers:
            self.workers.pop(address, None)


@dataclass
class Site:
    """A crew with its plan and what it told."""

    scheduler: Scheduler
    plan: Plan
    crew: Crew
    told: list[tuple[str, dict[str, Any]]]
    lost: list[tuple[str, Loss | None]]
    now: list[float]
    made: Callable[[CrewLimits, Callable[[str], object] | None], Crew]

    def there(self, *names: str) -> None:
        """These workers are there now."""
        known = self.scheduler.workers
        self.scheduler.workers = {name: known.get(name, {"nthreads": 2, "name": f"{name}'s"}) for name in names}

    def look(self, after: float = 0.5) -> None:
        self.now[0] += after
        self.crew.look(TOPIC)

    def removed(self, name: str, *, expected: bool) -> None:
        self.crew.announced({"action": "remove-worker", "worker": name, "expected": expected})

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]


def job(folder: Path) -> Job:
    return Job(folder, folder / "c.h5", folder / "m.safetensors", Stamp("0", "0", ()))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    scheduler, plan = Scheduler(), Plan(1000, sizes=Sizes(10, 10))
    told: list[tuple[str, dict[str, Any]]] = []
    lost: list[tuple[str, Loss | None]] = []
    now = [0.0]
    monkeypatch.setattr(dask_crew, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(dask_crew, "require_job", lambda job: None)

    def gone(worker: str, loss: Loss | None) -> None:
        lost.append((worker, loss))
        plan.gone(worker, loss)

    listener = Listener(tell=lambda kind, facts: told.append((kind, facts)))
    link = Link.of(scheduler)  # type: ignore[arg-type]

    def crew(limits: CrewLimits, renew: Callable[[str], object] | None) -> Crew:
        return Crew(link, job(tmp_path), plan, listener, limits, gone, renew)

    return Site(scheduler, plan, crew(CrewLimits(), None), told, lost, now, crew)


def test_workers_join_when_they_have_tried_the_model_out(site: Site) -> None:
    names = [f"w{k}" for k in range(9)]
    site.there(*names)
    site.look()
    assert site.plan.workers == names, "however many there are"
    assert len(set(site.scheduler.keys)) == 9
    site.look()
    assert len(site.scheduler.keys) == 9, "nobody is tried out twice"


def test_keys_of_trials_differ_from_run_to_run(site: Site, tmp_path: Path) -> None:
    other = Crew(
        Link.of(site.scheduler),  # type: ignore[arg-type]
        job(tmp_path),
        Plan(10),
        Listener(),
        CrewLimits(),
        lambda worker, loss: None,
    )
    site.there("w")
    site.look()
    other.look("screening-2")
    assert len(set(site.scheduler.keys)) == 2


def test_a_worker_that_vanishes_died(site: Site) -> None:
    site.there("a", "b")
    site.look()
    site.there("b")
    site.look()
    assert (site.plan.workers, site.lost) == (["a", "b"], []), "it may have said why, and the word may be on its way"
    site.look()
    assert (site.plan.workers, site.lost) == (["b"], [("a", Loss.KILLED)])
    assert site.kinds[-1] == "worker_died"


def test_a_worker_that_leaves_politely_is_not_blamed_though_its_word_comes_late(site: Site) -> None:
    site.there("a", "b")
    site.look()
    site.there("b")
    site.look()
    site.removed("a", expected=True)
    site.look()
    assert site.lost == [("a", None)]
    assert site.kinds[-1] == "worker_left"


def test_a_worker_that_was_away_and_is_back_under_its_name_has_lost_what_it_held(site: Site) -> None:
    site.there("a")
    site.look()
    site.removed("a", expected=False)
    site.look()
    assert site.lost == [("a", Loss.KILLED)]
    assert site.plan.workers == ["a"]
    assert len(site.scheduler.keys) == 2


def test_nothing_is_concluded_from_another_scheduler(site: Site) -> None:
    """Dask's client connects again by itself, and the new scheduler knows no worker yet."""
    site.there("a", "b")
    site.look()
    site.there()
    site.scheduler.scheduler_comm = object()
    for _ in range(3):
        with pytest.raises(SchedulerLostError):
            site.look()
    assert site.lost == []
    site.scheduler.status = "connecting"
    with pytest.raises(SchedulerLostError):
        site.look()


@pytest.mark.parametrize("status", ["cancelled", "lost"])
def test_a_trial_that_nobody_wants_any_more_is_a_lost_scheduler(site: Site, status: str) -> None:
    site.scheduler.on_submit = lambda trial: setattr(trial, "status", status)
    site.there("a")
    with pytest.raises(SchedulerLostError):
        site.look()


def test_a_suspended_driver_does_not_give_up_on_workers_that_load(site: Site) -> None:
    site.scheduler.on_submit = lambda trial: setattr(trial, "status", "pending")
    site.there("a")
    site.look()
    site.look(after=1e6)
    assert site.kinds == []
    for _ in range(int(CrewLimits().loading_s / LONGEST_TICK_S) + 1):
        site.look(after=LONGEST_TICK_S)
    assert site.kinds == ["worker_unfit"]


def test_a_worker_that_says_nothing_new_is_ended(site: Site) -> None:
    site.there("a")
    site.look()
    (lease, *_) = site.plan.next_leases()
    site.scheduler.workers["a"]["metrics"] = {SIGNS: {f"{TOPIC} {lease.number}": ["predict", "3"]}}
    for _ in range(int(CrewLimits().patience_s / LONGEST_TICK_S) + 3):
        site.look(after=LONGEST_TICK_S)
    assert site.lost == [("a", Loss.HUNG)]
    assert site.kinds[-1] == "worker_ended"


def failing(error: BaseException) -> Callable[[Trial], None]:
    def fail(trial: Trial) -> None:
        trial.status, trial.error = "error", error

    return fail


def fine(trial: Trial) -> None:
    """Nothing is wrong with this one."""


ERRORS = [ResourceError("no GPU here"), InputError("stale"), RuntimeError("old driver")]


@pytest.mark.parametrize("error", ERRORS)
def test_one_bad_node_costs_the_run_that_node_even_if_it_is_tried_first(site: Site, error: Exception) -> None:
    site.crew = site.made(CrewLimits(workers=3, no_workers_s=300), None)
    site.scheduler.on_submit = failing(error)
    site.there("bad", "worse")
    for _ in range(50):
        site.look()
    site.scheduler.on_submit = fine
    site.there("bad", "worse", "good")
    for _ in range(3):
        site.look()
    assert site.plan.workers == ["good"]
    assert site.kinds == ["worker_unfit", "worker_unfit", "worker_joined"]
    assert len(site.scheduler.keys) == 3, "who is unfit is not tried again"
    site.crew.dismiss("good", error)
    site.plan.gone("good", None)
    with pytest.raises(ResourceError, match=f"none of 3 workers can work; of the last: .*{error}"):
        site.look()


@pytest.mark.parametrize("limits", [CrewLimits(), CrewLimits(workers=2, no_workers_s=dask_crew.UNFIT_S)])
def test_workers_that_cannot_work_are_not_waited_with_for_ever(site: Site, limits: CrewLimits) -> None:
    site.crew = site.made(limits, None)
    site.scheduler.on_submit = failing(ResourceError("no GPU here"))
    site.there("bad")
    # The first look starts the clock.
    for _ in range(1 + int(dask_crew.UNFIT_S / LONGEST_TICK_S)):
        site.look(after=LONGEST_TICK_S)
    with pytest.raises(ResourceError, match="none of 1 workers can work; of the last: no GPU here"):
        site.look(after=LONGEST_TICK_S)


def test_when_all_workers_that_will_come_cannot_work_the_run_ends_at_once(site: Site) -> None:
    site.crew = site.made(CrewLimits(workers=2, no_workers_s=300), None)
    site.scheduler.on_submit = failing(ResourceError("no GPU here"))
    site.there("bad", "worse")
    with pytest.raises(ResourceError, match="none of 2 workers can work"):
        site.look()


def test_workers_that_cannot_work_make_room_for_others_where_others_can_come(site: Site) -> None:
    renewed: list[str] = []
    site.crew = site.made(CrewLimits(workers=100), renewed.append)
    site.scheduler.on_submit = failing(ResourceError("no GPU here"))
    for k in range(3):
        site.there(f"bad{k}")
        site.look()
        site.there()
        site.look()
    assert renewed == ["bad0's", "bad1's", "bad2's"]
    site.scheduler.on_submit = fine
    site.there("good")
    site.look()
    site.crew.dismiss("good", ResourceError("stale"))
    site.plan.gone("good", None)
    site.there()
    site.look()
    site.scheduler.on_submit = failing(ResourceError("no GPU here"))
    for k in range(3, 5):
        site.there(f"bad{k}")
        site.look()
        site.there()
    site.there("bad5")
    with pytest.raises(ResourceError, match="none of 4 workers can work; of the last: no GPU here"):
        site.look()
    assert renewed[3:] == ["good's", "bad3's", "bad4's"]


def test_what_this_machine_meets_too_ends_the_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def require(job: Job) -> None:
        raise ResourceError("ours: the disk is full")

    monkeypatch.setattr(dask_crew, "require_job", require)
    site.there("a", "b")
    site.look()
    with pytest.raises(ResourceError, match="theirs: the disk is full"):
        site.crew.dismiss("a", ResourceError("theirs: the disk is full"))


def test_an_unfit_worker_that_was_restarted_is_tried_again(site: Site) -> None:
    site.there("a", "b")
    site.look()
    site.crew.dismiss("a", ResourceError("stale"))
    site.plan.gone("a", None)
    site.removed("a", expected=True)
    site.look()
    assert sorted(site.plan.workers) == ["a", "b"]


def die_while_loading(site: Site, *names: str) -> None:
    """Workers that come, and go before they have tried the model out."""
    site.scheduler.on_submit = lambda trial: setattr(trial, "status", "pending")
    site.there(*names)
    site.look()
    for name in names:
        site.removed(name, expected=False)
    site.there()
    site.look()


def test_bad_starters_before_the_first_good_one_end_nothing(site: Site) -> None:
    for k in range(3):
        die_while_loading(site, *(f"bad{k}{j}" for j in range(5)))
    assert site.kinds == ["worker_unfit"] * 15
    site.scheduler.on_submit = fine
    site.there("good")
    site.look()
    for k in range(9):
        site.scheduler.on_submit = lambda trial: setattr(trial, "status", "pending")
        site.there("good", f"bad{k}")
        site.look()
        site.removed(f"bad{k}", expected=False)
        site.there("good")
        site.look()
    assert site.plan.workers == ["good"]


def test_workers_that_all_die_while_they_load_end_the_run(site: Site) -> None:
    words = "4 workers in a row could not start to work; of the last: it died while it loaded the model"
    for k in range(3):
        die_while_loading(site, f"bad{k}")
    with pytest.raises(ResourceError, match=words):
        die_while_loading(site, "bad3")
