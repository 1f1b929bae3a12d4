"""A batch of a lease: relaxed if the run does so, then predicted; what goes wrong costs the row where it does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from screening.crystals.batch import Crystals
from screening.crystals.validate import CrystalLimits, validate
from screening.predictions import FailureReason
from screening.relaxation_limits import Relaxation
from screening.runs.isolate import Outcome, Predict, Proof, Trouble, halved, isolated
from screening.runs.stages import Stages
from screening.store.relaxed import RelaxedRows
from screening.store.schema import Ending


class Relaxer(Protocol):
    """What a worker needs of a potential; called in any thread of the predictor's pool."""

    @property
    def max_atoms(self) -> int:
        """How many atoms to give it at once; fewer after it ran out of memory."""

    def __call__(self, crystals: Crystals, stages: Stages, sign: Callable[[], object]) -> RelaxedRows:
        """Relax crystals, each of them, with a sign of life for each step."""

    def try_out(self, crystals: Crystals) -> None:
        """See that it works here."""

    def shrink(self, atoms: int) -> None:
        """Be given at most so many atoms at once from now on."""

    def close(self) -> None:
        """Give up what it holds."""


@dataclass(frozen=True, slots=True)
class Relaxing:
    """How the batches of a run are relaxed. What a relaxation ends in must keep to the limits of its input."""

    relaxer: Relaxer
    relaxation: Relaxation
    limits: CrystalLimits
    proof: Proof | None = None

    def predicted(
        self,
        predict: Predict,
        crystals: Crystals,
        columns: Sequence[str],
        *,
        stages: Stages,
        sign: Callable[[], object],
        shrink: Callable[[int], object],
        proof: Proof | None = None,
    ) -> Outcome:
        """Relax a batch and predict what it ends in; what diverged, or harmed the potential, has no values."""
        rows, troubles = self._relaxed(crystals, stages, sign)
        places = np.flatnonzero(rows.has_atoms)
        found = isolated(predict, rows.of(crystals), columns, shrink=shrink, proof=proof)
        values = np.full((len(crystals), len(columns)), np.nan, np.float32)
        values[places] = found.values
        troubles += [replace(trouble, place=int(places[trouble.place])) for trouble in found.troubles]
        return Outcome(values, sorted(troubles, key=lambda trouble: trouble.place), rows)

    def _relaxed(
        self, crystals: Crystals, stages: Stages, sign: Callable[[], object]
    ) -> tuple[RelaxedRows, list[Trouble]]:
        def relax(some: Crystals) -> RelaxedRows:
            return self.relaxer(some, stages, sign)

        parts, harmed = halved(relax, crystals, shrink=self.relaxer.shrink, proof=self.proof)
        pieces = dict(parts) | {trouble.place: RelaxedRows.nothing(1) for trouble in harmed}
        rows = RelaxedRows.joined([pieces[place] for place in sorted(pieces)])
        troubles = [replace(trouble, message=f"while it was relaxed: {trouble.message}") for trouble in harmed]
        said = {place: self._why(rows, place) for place in np.flatnonzero(rows.ending == Ending.DIVERGED).tolist()}
        kept = np.flatnonzero(rows.has_atoms)
        refused = validate(rows.of(crystals), self.limits)
        for row, rejection in zip(kept[refused.rejected_rows].tolist(), refused.rejections, strict=True):
            what = rejection.message.removeprefix(f"{rejection.id}: ").partition(";")[0]
            said[row] = f"its relaxation ended, after {rows.steps[row]} steps, in what is no crystal: {what}"
        troubles += [Trouble(place, FailureReason.RELAXATION_DIVERGED, text) for place, text in said.items()]
        return rows.without(kept[refused.rejected_rows]), troubles

    def _why(self, rows: RelaxedRows, place: int) -> str:
        steps, change = int(rows.steps[place]), float(rows.volume_change[place])
        swell, known = self.relaxation.swell, [rows.energy[place], rows.force[place]]
        # What is not periodic in all directions has neither a volume nor stress.
        periodic = not np.isnan(change)
        if not np.isfinite([*known, rows.stress[place]] if periodic else known).all():
            return f"after {steps} steps of relaxation its energy or its forces were no finite numbers"
        if periodic and not 1 / swell < 1 + change < swell:
            ratio = f"{1 + change:.3g} fold"
            return f"its volume changed {ratio} within {steps} steps of relaxation (at most {swell:g} fold)"
        inverted = " or its cell turned inside out" if periodic else ""
        return f"an atom left all its neighbours{inverted} within {steps} steps of relaxation"
