"""What is learned: the one thing in which kinds of training differ. The loop, ranks and resuming know no more of it.

An objective has terms, each with a name and a weight:

    loss = sum_t w_t * (sum of term t over the batch) / (its count over the batch) / sum_t w_t

It gathers what it needs of a batch, which must follow from seed, epoch and rows alone, so that a run that is continued
and a run of several ranks see the same. It gives sums and counts of the part of a batch that is here; gradient.py makes
these the gradient of the whole batch. What a term needs of all crystals of a batch it asks of `models/across.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from screening.arrays import Int64
from screening.models.graph_tensors import GraphTensors
from screening.models.model import CrystalModel
from screening.training.assess import Assessment
from screening.training.config import LoopSettings
from screening.training.losses import LossSums
from screening.training.ranks import ALONE, Ranks


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A batch of an epoch: the `rows` of its crystals, and the `places` in it of those that this rank computes."""

    rows: Int64
    places: Int64
    epoch: int
    seed: int
    device: str

    @property
    def own(self) -> Int64:
        """The rows of the crystals that are computed here."""
        found: Int64 = self.rows[self.places]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What is computed here of a batch: the graph of its crystals, and whatever else the objective gathered, by name.

    Tensors are on the device of the batch. Gathered in a thread, while the batch before is computed.
    """

    batch: Batch
    graph: GraphTensors
    given: Mapping[str, Tensor]


class Objective(ABC):
    """Terms of a loss, what they are measured on, and what else learns beside the model.

    `modules` are heads, projections and the like that are trained with the model and are no part of it: they are in the
    state of a run, under the optimiser and the moving average, and not in the model that is kept. An objective whose
    loss holds derivatives with respect to its inputs says so with `differentiates_inputs`: it is then measured with
    gradients on, where others are without, and lets the tensors that it gathered require them itself.
    """

    modules: nn.Module | None = None
    differentiates_inputs: bool = False

    @property
    @abstractmethod
    def weights(self) -> Mapping[str, float]:
        """The weight of each term, by name, in the order of `sums`."""

    @property
    @abstractmethod
    def selectable(self) -> Mapping[str, Sequence[str]]:
        """The metrics of each name by which the best epoch may be chosen, as `name.metric`, besides `loss`."""

    @abstractmethod
    def gather(self, batch: Batch) -> Part:
        """Gather what is here of a batch; the same for the same seed, epoch and row, whatever else is in the batch."""

    @abstractmethod
    def sums(self, model: CrystalModel, part: Part) -> LossSums:
        """Give what each term sums to over this part of a batch, and over how many (by weight, if they have some)."""

    @abstractmethod
    def each(self, model: CrystalModel, part: Part) -> Tensor:
        """Give a loss of each crystal here, (crystals,), to tell which of them makes the whole infinite or large."""

    @abstractmethod
    def assess(self, model: CrystalModel, rows: Int64, settings: LoopSettings, ranks: Ranks = ALONE) -> Assessment:
        """Measure a model, in its evaluation mode, on crystals that are not learned from; all ranks get the same."""

    @final
    def learner(self, model: CrystalModel) -> nn.Module:
        """Everything that is trained: the model alone, or beside it what this objective adds."""
        if self.modules is None:
            return model
        return nn.ModuleDict({"model": model, "objective": self.modules})

    @final
    def mean(self, sums: Sequence[float], counts: Sequence[float]) -> float:
        """The loss of sums and counts over many batches."""
        factors = self.weights.values()
        terms = zip(factors, sums, counts, strict=True)
        return sum(weight * total / (count or 1) for weight, total, count in terms) / sum(factors)

    @final
    def means(self, sums: Sequence[float], counts: Sequence[float]) -> dict[str, float]:
        """The mean of each term that has something to be a mean of."""
        named = zip(self.weights, sums, counts, strict=True)
        return {name: total / count for name, total, count in named if count}
