"""Update rules, and the learning rate as a pure function of the step, so that resuming needs no state of a schedule."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from screening.training.config import OptimiserSettings, ScheduleSettings

Rate = Callable[[int], float]


def optimiser_of(
    model: nn.Module, settings: OptimiserSettings, factors: Mapping[nn.Parameter, float] | None = None
) -> Optimizer:
    """Make the update rule; matrices decay, vectors (biases, scales) do not.

    A group's `factor` is what the rate of its parameters is multiplied by: 1, or what `factors` says.
    """
    known = factors or {}
    learned = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = []
    for factor in sorted({known.get(p, 1.0) for p in learned}, reverse=True):
        own = [p for p in learned if known.get(p, 1.0) == factor]
        matrices, vectors = [p for p in own if p.ndim > 1], [p for p in own if p.ndim <= 1]
        groups.append({"params": matrices, "weight_decay": settings.weight_decay, "factor": factor})
        groups.append({"params": vectors, "weight_decay": 0.0, "factor": factor})
    groups = [group for group in groups if group["params"]]
    betas = (settings.momentum, settings.beta2)
    # Fused: one pass over the weights, which for small batches is what the step would otherwise wait for.
    match settings.name:
        case "adamw":
            return AdamW(groups, lr=settings.rate, betas=betas, fused=True)
        case "adam":
            return Adam(groups, lr=settings.rate, betas=betas, fused=True)
        case "sgd":
            return SGD(groups, lr=settings.rate, momentum=settings.momentum, fused=True)


def rate_of(settings: ScheduleSettings, *, rate: float, steps: int) -> Rate:
    """The learning rate of each step, counted from 0, of a run of so many steps."""
    last = max(steps - 1, 1)
    rise = settings.warmup * last

    def one_cycle(step: int) -> float:
        if step < rise:
            return _cosine(1 / settings.start_div, 1.0, step / rise)
        return _cosine(1.0, 1 / settings.end_div, (step - rise) / max(last - rise, 1))

    def cosine(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return _cosine(1.0, 1 / settings.end_div, (step - rise) / max(last - rise, 1))

    def multistep(step: int) -> float:
        return settings.factor ** sum(step >= milestone * steps for milestone in settings.milestones)

    factors = {"constant": lambda step: 1.0, "one_cycle": one_cycle, "cosine": cosine, "multistep": multistep}
    factor = factors[settings.name]
    return lambda step: rate * factor(step)


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))


class MovingAverage:
    """An exponential moving average of everything a model stores as floating numbers, running statistics included.

    At step n it forgets 1 - min(decay, (1 + n) / (10 + n)), so that the random start is gone soon.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        # These share the model's memory: whatever changes a model changes it in place, loading a state too.
        self._present = {name: t.detach() for name, t in model.state_dict().items() if t.is_floating_point()}
        self.tensors = {name: t.clone() for name, t in self._present.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model's present values."""
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.tensors.values()), list(self._present.values()), 1 - keep)

    @torch.no_grad()
    def exchange(self) -> None:
        """Swap the averages with the model's values; a second call undoes the first."""
        for name, average in self.tensors.items():
            kept = self._present[name].clone()
            self._present[name].copy_(average)
            average.copy_(kept)
