"""The card in a run's model file: made as the model is saved, and written anew where its words have changed since.

Words (title, description, licence, limits) decide nothing of what is learned, so that a run goes on with others.
"""

from pathlib import Path
from typing import Any

from screening.models import checkpoint
from screening.models.header import Card, read_card
from screening.models.model import CrystalModel
from screening.training.assess import Assessment
from screening.training.lessons.lesson import Lesson, Work
from screening.training.loop import Keep


def card_of(lesson: Lesson[Any], work: Work) -> Card:
    """What the model of a run will say of itself, but for its metrics."""
    graphs, rows = work.graphs, work.split.train
    known = Card(
        elements=tuple(graphs.elements(rows)),
        fingerprint=graphs.fingerprint(rows),
        references=lesson.references(work),
    )
    return known.model_copy(update=_words(lesson))


def keeping(path: Path, card: Card) -> Keep:
    """Save a model that is the best so far, with what was measured of it."""

    def keep(best: CrystalModel, epoch: int, found: Assessment | None) -> None:
        metrics = {} if found is None else {"validation": found.metrics}
        checkpoint.save(best, path, card.model_copy(update={"metrics": metrics}))

    return keep


def reword(path: Path, lesson: Lesson[Any]) -> bool:
    """Give a finished model, where it is still there, the words of its configuration; whether it had others."""
    if not path.exists():
        return False
    _, _, card = read_card(path)
    current = card.model_copy(update=_words(lesson))
    if current == card:
        return False
    model, _ = checkpoint.load(path, encoder=True)
    checkpoint.save(model, path, current)
    return True


def _words(lesson: Lesson[Any]) -> dict[str, str]:
    given = lesson.config.card
    of = ", ".join(target.name for target in lesson.targets) or "atoms in crystals"
    return {
        "title": given.title or f"{lesson.config.model.architecture} for {of}",
        "description": given.description,
        "licence": given.licence,
        "limits": " ".join(filter(None, (given.limits, lesson.limits))),
    }
