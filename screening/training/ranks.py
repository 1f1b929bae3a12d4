"""Who computes a step: this process alone, or several, each with a part of every batch.

The loop asks these questions and does the same whoever answers, so an objective need not know either. All ranks know
which crystals make up a batch; each gathers its own part only. The first one alone writes.
"""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from screening.arrays import Int64
from screening.errors import InputError
from screening.training.labelled import LabelledGraphs

# These see the rank's part of a batch only: moments of that part, random numbers by its size.
UNSHARED = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


class Ranks(ABC):
    """The processes that make a step together; this one is number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @final
    @property
    def is_first(self) -> bool:
        """Whether this is the rank that speaks for all."""
        return self.rank == 0

    @abstractmethod
    def writes(self) -> bool:
        """Tell whether this process writes into the run's folder; raise when the run is another's by now."""

    @abstractmethod
    def places(self, graphs: LabelledGraphs, rows: Int64) -> Int64:
        """Tell which of a batch's crystals, by their places in it, this rank computes."""

    @abstractmethod
    def sharing(self, places: Int64, crystals: int, device: str) -> AbstractContextManager[None]:
        """Let models know that what they see are these places of a batch of so many crystals."""

    @abstractmethod
    def total(self, values: Tensor) -> Tensor:
        """Sum a tensor over all ranks; all get the same bits."""

    @abstractmethod
    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make every parameter's gradient the sum of those of all ranks."""

    @abstractmethod
    def told(self, content: bytes) -> bytes:
        """Give all ranks what the first one passes."""

    @abstractmethod
    def joined(self, found: list[Any]) -> list[Any]:
        """Lay lists of what JSON can hold end to end, in the order of the ranks."""


class Alone(Ranks):
    """One process."""

    def writes(self) -> bool:
        return True

    def places(self, graphs: LabelledGraphs, rows: Int64) -> Int64:
        del graphs
        return np.arange(len(rows))

    def sharing(self, places: Int64, crystals: int, device: str) -> AbstractContextManager[None]:
        del places, crystals, device
        return nullcontext()

    def total(self, values: Tensor) -> Tensor:
        return values

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        del parameters

    def told(self, content: bytes) -> bytes:
        return content

    def joined(self, found: list[Any]) -> list[Any]:
        return found


ALONE = Alone()


def balanced(atoms: Int64, edges: Int64, parts: int) -> list[Int64]:
    """Divide crystals so that all parts have about as much to do; the places of each part, ascending.

    A crystal weighs its part of all atoms plus its part of all edges. The heaviest first, each goes where least is.
    """
    weights = atoms / max(int(atoms.sum()), 1) + edges / max(int(edges.sum()), 1)
    loads = [(0.0, part) for part in range(parts)]
    found: list[list[int]] = [[] for _ in range(parts)]
    for place in np.argsort(-weights, kind="stable").tolist():
        load, part = loads[0]
        found[part].append(place)
        heapq.heapreplace(loads, (load + weights[place], part))
    return [np.array(sorted(part), np.int64) for part in found]


def require_shareable(learned: nn.Module, what: str) -> None:
    """Refuse modules, named `what` in the message, of which ranks would compute something else than one process."""
    for name, module in learned.named_modules():
        if isinstance(module, UNSHARED):
            raise InputError(
                f"{what}: {name} is a {type(module).__name__}, which would see one rank's part of a "
                "batch; train it without --cluster, or build it on Moments and models/across.py"
            )


def flattened(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Lay gradients end to end, after a 1 for each parameter that has one and a 0 for each that has none."""
    present = parameters[0].new_tensor([float(p.grad is not None) for p in parameters])
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return torch.cat([present, *(part.reshape(-1) for part in parts)])


def spread(flat: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Give parameters the gradients that `flattened` laid end to end; none to those that had none on any rank."""
    present, rest = flat[: len(parameters)].tolist(), flat[len(parameters) :]
    parts = torch.split(rest, [p.numel() for p in parameters])
    for parameter, count, part in zip(parameters, present, parts, strict=True):
        parameter.grad = part.view_as(parameter) if count else None
