"""Studies in which some runs try values: how far runs are, which value is best, what is not done twice."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tuned import Tuned

from screening.training.config import RunSettings
from screening.training.material import Listener

MODEL, METRICS, PUBLISHED, FAILED = "model.safetensors", "metrics.json", "published.json", "failed.txt"


@dataclass(frozen=True)
class Job:
    name: str
    needs: "Job | None" = None
    tried: float | None = None
    is_reported: bool = True
    takes: tuple["Job", ...] = field(default=(), compare=False)


class Settings(RunSettings):
    says: str


TRIALS = tuple(Job(f"tries-{value:g}", tried=value) for value in (1.0, 2.0, 4.0))
ENCODER = Job("encoder", is_reported=False)
TEACHER = Job("teacher")
STUDENT = Job("student", ENCODER, takes=TRIALS)
PUPIL = Job("pupil", TEACHER)
PLAN = [ENCODER, TEACHER, *TRIALS, STUDENT, PUPIL]


def study(out: Path, *, same: Sequence[Job] = (), errors: Sequence[float] = (1.0, 1.0, 1.0)) -> Tuned[Job]:
    """Configurations are of a name, but for those that are the same."""
    by_trial = dict(zip(TRIALS, errors, strict=True))
    return Tuned(
        out=out,
        plan=lambda: PLAN,
        outcomes=lambda job: [METRICS, PUBLISHED] if job == TEACHER else [METRICS],
        errors=lambda job: {"one": by_trial[job], "other": 2.0},
        tried_for=lambda job: [job.takes] if job.takes else [],
        config_of=lambda job: Settings(says="the same" if job in same else job.name),
        ends=(METRICS, PUBLISHED, FAILED),
    )


def put(out: Path, job: Job, *names: str) -> None:
    (out / job.name).mkdir(exist_ok=True)
    for name in names:
        (out / job.name / name).parent.mkdir(exist_ok=True)
        (out / job.name / name).write_text(job.name, encoding="utf-8")


def test_the_best_value_is_known_when_all_that_try_have_ended(tmp_path: Path) -> None:
    runs = study(tmp_path, errors=(3.0, 1.0, 2.0))
    for job in TRIALS[1:]:
        assert runs.best(TRIALS) is None
        put(tmp_path, job, METRICS)
    assert not runs.knows_values(STUDENT)
    put(tmp_path, TRIALS[0], FAILED)
    assert runs.best(TRIALS) == 2.0
    assert runs.knows_values(STUDENT)
    assert runs.knows_values(PUPIL), "it takes none"
    # What failed is worse than whatever else there is, and no value is best when all failed.
    assert study(tmp_path, errors=(0.1, 9.0, 9.0)).best(TRIALS) == 2.0
    assert runs.best(TRIALS[:1]) is None


def test_a_run_is_blocked_until_the_model_and_the_values_that_it_needs_are_there(tmp_path: Path) -> None:
    runs = study(tmp_path)
    assert [runs.state(job) for job in PLAN] == [*["waiting"] * 5, "blocked", "blocked"]
    for job in TRIALS:
        put(tmp_path, job, METRICS)
    put(tmp_path, ENCODER, METRICS)
    assert runs.state(STUDENT) == "blocked", "there is no model"
    put(tmp_path, ENCODER, MODEL)
    assert (runs.state(ENCODER), runs.state(STUDENT)) == ("finished", "waiting")
    (tmp_path / TRIALS[0].name / METRICS).unlink()
    assert runs.state(STUDENT) == "blocked", "a value is not there"


def test_a_run_has_begun_when_it_has_a_state_or_some_of_what_it_measures(tmp_path: Path) -> None:
    runs = study(tmp_path)
    put(tmp_path, TRIALS[0], "fold-1/state.safetensors")
    put(tmp_path, TEACHER, METRICS, MODEL)
    assert [runs.state(job) for job in (TRIALS[0], TEACHER)] == ["begun", "begun"]
    put(tmp_path, TEACHER, PUBLISHED)
    assert runs.state(TEACHER) == "finished"


def test_what_only_measured_is_done_again_while_its_model_is_missed(tmp_path: Path) -> None:
    runs = study(tmp_path)
    put(tmp_path, TEACHER, METRICS, PUBLISHED)
    assert runs.state(TEACHER) == "waiting"
    put(tmp_path, PUPIL, FAILED)
    assert (runs.state(PUPIL), runs.state(TEACHER)) == ("failed", "finished")
    (tmp_path / PUPIL.name / FAILED).unlink()
    put(tmp_path, TEACHER, FAILED)
    assert runs.state(TEACHER) == "failed", "it diverged when it was done again"
    assert not runs.has_failed(TEACHER), "but what it measured once holds"
    put(tmp_path, PUPIL, METRICS)
    assert runs.state(TEACHER) == "finished"


def test_a_run_whose_model_alone_is_wanted_is_not_done_for_nobody(tmp_path: Path) -> None:
    runs = study(tmp_path)
    assert runs.state(ENCODER) == "waiting"
    put(tmp_path, STUDENT, METRICS)
    assert (runs.state(ENCODER), runs.state(STUDENT)) == ("finished", "finished")


def done(runs: Tuned[Job], job: Job) -> tuple[list[str], list[str]]:
    """What a run learned, and what was said of it."""
    learned: list[str] = []
    said: list[str] = []

    def learn(config: RunSettings, folder: Path) -> None:
        assert isinstance(config, Settings)
        learned.append(f"{folder.name}: {config.says}")

    runs.do(job, learn, Listener(said.append, lambda progress: None))
    return learned, said


@pytest.mark.parametrize("same", [(STUDENT, TRIALS[1]), (STUDENT, TRIALS[0]), ()])
def test_what_was_tried_already_is_taken_from_there(same: Sequence[Job], tmp_path: Path) -> None:
    for job in TRIALS[1:]:
        put(tmp_path, job, METRICS)
    learned, said = done(study(tmp_path, same=same), STUDENT)
    if TRIALS[1] in same:
        assert (learned, said) == ([], ["student is tries-2"])
        assert (tmp_path / "student" / METRICS).read_text(encoding="utf-8") == "tries-2"
    else:
        assert (learned, said) == ([f"student: {'the same' if same else 'student'}"], []), "the first is not finished"


def test_outcomes_without_a_model_make_way_when_a_run_is_done_again(tmp_path: Path) -> None:
    put(tmp_path, TEACHER, METRICS, PUBLISHED, "config.toml", "fold-0/metrics.json")
    assert done(study(tmp_path), TEACHER) == (["teacher: teacher"], [])
    kept = [str(path.relative_to(tmp_path / "teacher")) for path in (tmp_path / "teacher").rglob("*") if path.is_file()]
    assert sorted(kept) == ["config.toml", "fold-0/metrics.json"]
    put(tmp_path, TEACHER, METRICS, MODEL)
    done(study(tmp_path), TEACHER)
    assert (tmp_path / "teacher" / METRICS).exists()
