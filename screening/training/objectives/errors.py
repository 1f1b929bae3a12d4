"""Errors of what a model gives for crystals, atoms and components alike: sums of losses, and metrics by source."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from screening.training.forces_config import ForcesSettings
from screening.training.metrics import Metrics
from screening.training.ranks import Ranks


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """Of one term, by crystal (crystals,): sums of losses, of |error| and error^2, and how many numbers they are of."""

    loss: Tensor
    absolute: Tensor
    square: Tensor
    count: Tensor

    @classmethod
    def of(cls, found: Tensor, wanted: Tensor, crystal: Tensor, crystals: int, settings: ForcesSettings) -> "ErrorSums":
        """Compare rows of numbers, (rows, columns), of which row r belongs to `crystal[r]`; NaN is what is missing."""
        present = ~torch.isnan(wanted)
        # Missing numbers are replaced on both sides, so that no NaN enters a gradient.
        off = torch.where(present, found, 0.0) - torch.where(present, wanted.to(found.dtype), 0.0)
        loss = _loss(off, settings)

        def summed(values: Tensor) -> Tensor:
            rows = values.double().sum(dim=1)
            return torch.zeros(crystals, dtype=rows.dtype, device=rows.device).index_add(0, crystal, rows)

        with torch.no_grad():
            absolute, square, count = summed(off.abs()), summed(off.square()), summed(present)
        return cls(summed(loss), absolute, square, count)


def _loss(off: Tensor, settings: ForcesSettings) -> Tensor:
    match settings.loss:
        case "l1":
            return off.abs()
        case "mse":
            return off.square()
        case "huber":
            return F.huber_loss(off, torch.zeros_like(off), reduction="none", delta=settings.delta)


class Tally:
    """Errors of many crystals, by term and by source."""

    def __init__(self, terms: Sequence[str], sources: Sequence[str]) -> None:
        self._terms, self._sources = tuple(terms), tuple(sources)
        self._sums = torch.zeros(len(sources), len(terms), 4, dtype=torch.float64)

    def add(self, errors: Sequence[ErrorSums], source: Tensor) -> None:
        """Count crystals of these sources, (crystals,)."""
        for t, error in enumerate(errors):
            columns = (error.loss, error.absolute, error.square, error.count)
            rows = torch.stack([column.detach().double().cpu() for column in columns], dim=1)
            self._sums[:, t].index_add_(0, source.cpu(), rows)

    def of_all(self, ranks: Ranks) -> None:
        """Add up what all ranks counted."""
        self._sums = ranks.total(self._sums)

    def losses(self) -> dict[str, tuple[float, int]]:
        """By term, the sum of losses and the count."""
        sums = self._sums.sum(0)
        return {term: (float(sums[t, 0]), round(float(sums[t, 3]))) for t, term in enumerate(self._terms)}

    def metrics(self) -> Mapping[str, Metrics]:
        """By term, and where there are several sources by term and source; NaN where there is nothing to measure."""
        found = {term: _measured(self._sums[:, t].sum(0)) for t, term in enumerate(self._terms)}
        if len(self._sources) > 1:
            for s, source in enumerate(self._sources):
                found |= {f"{term} of {source}": _measured(self._sums[s, t]) for t, term in enumerate(self._terms)}
        return found


def _measured(sums: Tensor) -> Metrics:
    _, absolute, square, count = sums.tolist()
    if not count:
        return {"count": 0, "mae": math.nan, "rmse": math.nan}
    return {"count": round(count), "mae": absolute / count, "rmse": math.sqrt(square / count)}
