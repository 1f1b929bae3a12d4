"""How training shows where it is."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from screening.cli.progress import Moment, shown

if TYPE_CHECKING:
    from screening.training.loop import Progress

Watch = Callable[["Progress"], None]


@contextlib.contextmanager
def training_progress(*, quiet: bool) -> Iterator[Watch]:
    """Give what training should call after each step: one run after another, such as folds, or one that goes back."""
    with shown(quiet=quiet, last_line=True) as show:
        yield lambda progress: show(Moment(described(progress), progress.step, progress.steps))


def described(progress: "Progress") -> str:
    """Say where a run is: epoch, loss, rate and how it did on the validation crystals last."""
    parts = [
        f"epoch {progress.epoch}/{progress.epochs}",
        f"loss {progress.loss:.4g}",
        f"{progress.rate:,.0f} crystals/s",
        progress.validation,
    ]
    return ", ".join(part for part in parts if part)
