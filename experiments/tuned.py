"""Studies in which some runs try values, and others take the best: how far a run is, and what has been done already.

A run may need the model of another, and take values that others try: it is blocked until both are there. A record holds
no models: a run of which there is only what it measured is done again when another needs its model, and only then. Nor
is one done before that whose model is all that is wanted of it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import record
from studies import FAILED_FILE, Named, State, repeat

from screening.pretrained.shipped import RUN_MODEL
from screening.training.config import RunSettings
from screening.training.loop import STATE_FILE
from screening.training.material import Listener


class Tunable(Named, Protocol):
    """A run of such a study."""

    @property
    def needs(self) -> Any:
        """The run whose model it starts or learns from, or None."""

    @property
    def tried(self) -> float | None:
        """The value that it is there to try, if any."""

    @property
    def is_reported(self) -> bool:
        """Whether what it measures is wanted, and not its model alone."""


R = TypeVar("R", bound=Tunable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned(Generic[R]):
    """The runs of a study in its folder.

    The study says of a run which files it has when it is measured (`outcomes`), by what errors it is compared with
    others that try (`errors`, whose product counts), for each value that it takes the runs that try it
    (`tried_for`), and its configuration, once these values are known (`config_of`). `ends` are all files that say of
    any run that it has ended, but those in folders of folds.
    """

    out: Path
    plan: Callable[[], Sequence[R]]
    outcomes: Callable[[R], Sequence[str]]
    errors: Callable[[R], Mapping[str, float]]
    tried_for: Callable[[R], Sequence[Sequence[R]]]
    config_of: Callable[[R], RunSettings]
    ends: Sequence[str]

    def state(self, run: R) -> State:
        """How far a run is; blocked while the model or a value that it needs is not there."""
        if self.is_whole(run):
            return "finished"
        if (self.is_measured(run) or not run.is_reported) and not self._is_missed(run):
            return "finished"
        if (self.out / run.name / FAILED_FILE).exists():
            return "failed"
        if not self._may_begin(run):
            return "blocked"
        return "begun" if self._has_begun(run) else "waiting"

    def is_measured(self, run: R) -> bool:
        """Whether all is there that it is done for."""
        return all((self.out / run.name / name).exists() for name in self.outcomes(run))

    def is_whole(self, run: R) -> bool:
        """Whether its model is there too."""
        return self.is_measured(run) and (self.out / run.name / RUN_MODEL).exists()

    def has_failed(self, run: R) -> bool:
        """Whether it has diverged."""
        return (self.out / run.name / FAILED_FILE).exists() and not self.is_measured(run)

    def best(self, trials: Sequence[R]) -> float | None:
        """The value that is best of those that are tried; None before all have ended, or if all have failed."""
        errors = [self._error(run) for run in trials]
        if any(map(math.isnan, errors)) or min(errors) == math.inf:
            return None
        return trials[errors.index(min(errors))].tried

    def knows_values(self, run: R) -> bool:
        """Whether each value that it takes has been found."""
        return all(self.best(trials) is not None for trials in self.tried_for(run))

    def do(self, run: R, learn: Callable[[RunSettings, Path], object], listener: Listener) -> None:
        """Let a run learn in its folder, or go on; one that has been tried already is taken from there."""
        folder = self.out / run.name
        record.forget(folder, self.ends, without=RUN_MODEL)
        config = self.config_of(run)
        same = self._tried_already(run, config)
        if same is None:
            learn(config, folder)
        else:
            repeat(self.out / same.name, folder, listener)

    def _error(self, run: R) -> float:
        """The product of all errors: infinite for a run that failed, NaN for one that has not ended."""
        if self.has_failed(run):
            return math.inf
        return math.prod(self.errors(run).values()) if self.is_measured(run) else math.nan

    def _tried_already(self, run: R, config: RunSettings) -> R | None:
        """The run that tried what this one takes, if nothing else tells them apart."""
        tried = (one for trials in self.tried_for(run) for one in trials if self.is_measured(one))
        return next((one for one in tried if self.config_of(one) == config), None)

    def _may_begin(self, run: R) -> bool:
        needed: R | None = run.needs
        return (needed is None or self.is_whole(needed)) and self.knows_values(run)

    def _is_missed(self, run: R) -> bool:
        """Whether some run that needs its model has not ended."""
        needing = (one for one in self.plan() if one.needs == run)
        return not all(self.is_measured(one) or self.has_failed(one) for one in needing)

    def _has_begun(self, run: R) -> bool:
        folder = self.out / run.name
        some = any((folder / name).exists() for name in self.outcomes(run))
        return (some and not self.is_measured(run)) or any(folder.glob(f"**/{STATE_FILE}"))
