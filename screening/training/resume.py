"""The state of an unfinished run in one file: a run that is killed and continued is bit for bit one that was not.

Safetensors for what is tensors (weights, the optimiser's moments, averages, random generators) and JSON in its header
for what is not. Written under another name, synchronised and renamed, so that the file is always whole; nothing in it
is unpickled.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from screening.errors import FileFormatError, InputError
from screening.files.whole import write_whole
from screening.training.optimise import MovingAverage
from screening.training.ranks import Ranks

FORMAT = "screening.training_state"
VERSION = 1


@dataclass(slots=True)
class Position:
    """How far a run is: `batch` batches of `epoch` are done, `step` in all; `sums` and `counts` are the epoch's losses.

    `best` is the lowest score so far and `stale` counts the epochs since; `lowest` is the lowest loss of an epoch since
    the run last lost what it had learned; `journal_bytes` of the journal are valid.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0
    lowest: float | None = None
    journal_bytes: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True)
class Learner:
    """Everything that a step changes."""

    model: nn.Module
    optimiser: Optimizer
    average: MovingAverage | None
    scaler: GradScaler
    device: str

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state by name."""
        found = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average is not None:
            found |= {f"average/{name}": tensor for name, tensor in self.average.tensors.items()}
        for name, parameter in self.model.named_parameters():
            moments = self.optimiser.state.get(parameter, {})
            found |= {f"optimiser/{name}/{key}": t for key, t in moments.items() if t is not None}
        found["random/cpu"] = torch.get_rng_state()
        if self.device != "cpu":
            found["random/device"] = torch.cuda.get_rng_state(self.device)
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a saved state of the same model and settings."""
        self.model.load_state_dict(_under("model/", tensors))
        if self.average is not None:
            for name, tensor in _under("average/", tensors).items():
                self.average.tensors[name].copy_(tensor)
        moments = _under("optimiser/", tensors)
        for name, parameter in self.model.named_parameters():
            own = _under(f"{name}/", moments)
            if own:
                self.optimiser.state[parameter] = {key: t.to(parameter.device) for key, t in own.items()}
        torch.set_rng_state(tensors["random/cpu"])
        if self.device != "cpu":
            torch.cuda.set_rng_state(tensors["random/device"], self.device)


@contextlib.contextmanager
def repeatable(device: str) -> Iterator[None]:
    """Let torch compute the same bits each time, where it would add up gradients in the order that threads arrive.

    On a GPU it warns of what it cannot repeat. New memory stays as it is: torch would fill it, and nobody reads it.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def save_state(path: Path, learner: Learner, position: Position, *, stamp: str) -> None:
    """Write the state; `stamp` says which run it belongs to."""
    facts = {"format": FORMAT, "version": VERSION, "stamp": stamp} | _facts(learner, position)
    write_whole(path, [save(_tensors(learner), {"state": json.dumps(facts)})])


def load_state(path: Path, learner: Learner, *, stamp: str) -> Position:
    """Read a state into the learner, and tell how far the run is."""
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("state", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FileFormatError(f"{path}: is damaged ({error}); delete it to start the run again") from error
    _require_ours(path, facts, stamp)
    try:
        learner.restore(tensors)
        learner.scaler.load_state_dict(facts["scaler"])
        return Position(**facts["position"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise FileFormatError(f"{path}: does not fit this model ({error}); delete it to start the run again") from error


def agreed(learner: Learner, position: Position, ranks: Ranks) -> Position:
    """Give all ranks the state of the first one, bit for bit.

    Ranks on equal processors have it anyway. On others the last bits of an update may differ, and would drift apart.
    """
    if ranks.size == 1:
        return position
    facts = json.loads(ranks.told(json.dumps(_facts(learner, position)).encode()))
    content = ranks.told(save(_tensors(learner)) if ranks.is_first else b"")
    if not ranks.is_first:
        learner.restore(load(content))
        learner.scaler.load_state_dict(facts["scaler"])
    return Position(**facts["position"])


def _facts(learner: Learner, position: Position) -> dict[str, Any]:
    return {"position": asdict(position), "scaler": learner.scaler.state_dict()}


def _tensors(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in learner.tensors().items()}


def _require_ours(path: Path, facts: Mapping[str, Any], stamp: str) -> None:
    if facts.get("format") != FORMAT:
        raise FileFormatError(f"{path}: is no state of a training run; delete it to start the run again")
    if facts.get("version") != VERSION:
        raise FileFormatError(
            f"{path}: has version {facts.get('version')} and this code reads {VERSION}; "
            "finish the run with the code it began with"
        )
    if facts.get("stamp") != stamp:
        raise InputError(
            f"{path}: is of a run with other settings or data, or from other models; choose another folder, or delete "
            "this one"
        )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
