"""The kinds of runs there are, by the command that begins them and by what their configuration is."""

from collections.abc import Mapping
from typing import Any

from screening.training.config import RunSettings
from screening.training.lessons.distillation import DistillationLesson
from screening.training.lessons.forces import ForcesLesson
from screening.training.lessons.lesson import Lesson
from screening.training.lessons.pretraining import PretrainingLesson
from screening.training.lessons.properties import PropertyLesson

LESSONS: Mapping[str, type[Lesson[Any]]] = {
    kind.command: kind for kind in (PropertyLesson, PretrainingLesson, DistillationLesson, ForcesLesson)
}


def lesson_of(config: RunSettings) -> Lesson[Any]:
    """The lesson that a configuration describes."""
    (kind,) = [kind for kind in LESSONS.values() if kind.settings_type is type(config)]
    return kind(config)
