"""Going on from a checkpoint: what of it a model takes over, what of the model stays as it is, what learns how fast."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from screening.crystals.labels import canonical
from screening.errors import InputError
from screening.models import checkpoint
from screening.models.model import CrystalModel, Scaling
from screening.models.potential_files import REFERENCED
from screening.models.registry import build
from screening.predictions import Target
from screening.pretrained.shipped import model_file
from screening.training.config import InitSettings

INIT = "init"


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the stages of an encoder learn: the first `frozen` not at all (None: none of them does).

    The last at `rate` times the rate of the readout, each at `decay` times that of the one after it.
    """

    frozen: int | None = 0
    rate: float = 1.0
    decay: float = 1.0

    @classmethod
    def of(cls, settings: InitSettings | None) -> "Tuning":
        """As a configuration says."""
        if settings is None:
            return WHOLE
        return cls(None if settings.frozen == "all" else settings.frozen, settings.rate, settings.decay)

    def freeze(self, model: CrystalModel) -> None:
        """Keep gradients from what stays as it is."""
        if self.frozen is not None and self.frozen > len(model.stages):
            raise InputError(
                f"init.frozen is {self.frozen}, and the encoder of {model.architecture} has {len(model.stages)} "
                "stages; give at most so many, or all"
            )
        for stage in self._resting(model):
            for name in stage:
                for parameter in _part(model, name):
                    parameter.requires_grad_(False)

    def rest(self, model: CrystalModel) -> None:
        """Let what stays as it is normalise by its running moments, which then stay too."""
        for stage in self._resting(model):
            for name in stage:
                module = _named(model, name)
                if isinstance(module, nn.Module):
                    module.eval()

    def factors(self, model: CrystalModel) -> dict[nn.Parameter, float]:
        """What the rate of each parameter of the encoder is multiplied by."""
        last = len(model.stages) - 1
        return {
            parameter: self.rate * self.decay ** (last - depth)
            for depth, stage in enumerate(model.stages)
            for name in stage
            for parameter in _part(model, name)
        }

    def _resting(self, model: CrystalModel) -> Sequence[tuple[str, ...]]:
        return model.stages[: self.frozen]


WHOLE = Tuning()


def located(settings: InitSettings | None) -> dict[str, str]:
    """Find the file of a checkpoint: its full name, as `INIT`; nothing without one."""
    return {} if settings is None else {INIT: str(model_file(settings.checkpoint).resolve())}


def origins_of(files: Mapping[str, str]) -> tuple[str, ...]:
    """A hash of the checkpoint that was located, if one was."""
    if INIT not in files:
        return ()
    with Path(files[INIT]).open("rb") as file:
        return (hashlib.file_digest(file, "sha256").hexdigest(),)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a model has taken over.

    `scaling` is that of each target whose head it took, which gives values on the scale on which it learned. `calm`
    names the tensors of its weights that are of a model whose moments stood still while it learned.
    """

    scaling: Mapping[str, Scaling]
    calm: frozenset[str] = frozenset()


NOTHING = Taken({})


def started(model: CrystalModel, settings: InitSettings, file: str | None = None) -> Taken:
    """Give a new model what it takes over of a checkpoint, and tell what that was; `file` is where it was located."""
    source, _ = checkpoint.load(file or model_file(settings.checkpoint), encoder=True)
    _require_alike(model, source, settings.checkpoint)
    kept = _kept(model, source, settings)
    shared = settings.readout and bool(source.targets)
    own, theirs, along = model.state_dict(), source.state_dict(), target_dimensions(model)
    encoder = _encoder(model).keys()
    rows = [[t.name for t in each.targets] for each in (model, source)]
    copied = encoder | (own.keys() - along.keys() if shared else set())
    with torch.no_grad():
        for name, tensor in own.items():
            if name in along:
                places = [(rows[0].index(target), rows[1].index(target)) for target in kept]
                _copy_rows(name, tensor, theirs.get(name), along[name], places)
            elif name in copied:
                _copy(name, tensor, theirs.get(name), settings)
    # Its target is what learning derivatives leaves, in which moments stand still.
    calm = frozenset(copied if REFERENCED in rows[1] else ())
    return Taken({name: source.scaling[rows[1].index(name)] for name in kept}, calm)


def require_startable(model: CrystalModel, settings: InitSettings | None) -> None:
    """Refuse a checkpoint that is not there or does not fit a new model, which is of no use afterwards."""
    if settings is not None:
        started(model, settings)
        Tuning.of(settings).freeze(model)


def target_dimensions(model: CrystalModel) -> dict[str, int]:
    """Along which dimension a tensor of the weights has a place for each target, for those that have."""
    other = Target("another target", "")
    with torch.random.fork_rng(devices=[]):
        more = build(model.architecture, model.settings.model_dump(mode="json"), [*model.targets, other])
    shapes = {name: tensor.shape for name, tensor in more.state_dict().items()}
    found: dict[str, int] = {}
    for name, tensor in model.state_dict().items():
        grown = [d for d, (a, b) in enumerate(zip(tensor.shape, shapes[name], strict=True)) if a != b]
        found |= {name: grown[0]} if grown else {}
    return found


def _kept(model: CrystalModel, source: CrystalModel, settings: InitSettings) -> list[str]:
    """The targets whose heads are taken over."""
    if not settings.readout:
        return []
    theirs = {target.name: target for target in source.targets}
    anew = set(map(canonical, settings.new_heads))
    found = []
    for target in model.targets:
        if target.name in anew or target.name not in theirs:
            continue
        if theirs[target.name] != target:
            raise InputError(
                f"{settings.checkpoint}: its {target.name} is {_told(theirs[target.name])}, here it is "
                f"{_told(target)}; make them alike, or name it in init.new_heads"
            )
        found.append(target.name)
    return found


def _require_alike(model: CrystalModel, source: CrystalModel, origin: str) -> None:
    if source.architecture != model.architecture:
        raise InputError(
            f"{origin}: is a {source.architecture}, and this run trains a {model.architecture}; set "
            f"model.architecture = {source.architecture!r}, or take what it knows over by `screening distil`"
        )
    if not model.stages:
        raise InputError(f"{model.architecture} does not say what its encoder is made of, so it cannot start from one")
    if source.neighbors != model.neighbors:
        raise InputError(
            f"{origin}: learned on neighbours of {source.neighbors.words}, and this run has {model.neighbors.words}; "
            "give model.settings those of the model"
        )
    _require_same_encoder(model, source, origin)


def _require_same_encoder(model: CrystalModel, source: CrystalModel, origin: str) -> None:
    """Refuse an encoder of other sizes, a deeper one too, whose last layers would be left out."""
    own, theirs = _encoder(model), _encoder(source)
    for name in [*own, *(theirs.keys() - own.keys())]:
        here, there = (_shape(encoder.get(name)) for encoder in (own, theirs))
        if here != there:
            raise InputError(
                f"{origin}: its {name} is {there}, here it is {here}; give model.settings the sizes of its encoder"
                f"{_differing(model, source)}"
            )


def _encoder(model: CrystalModel) -> dict[str, Tensor]:
    """The tensors that encode, by name."""
    parts = [part for stage in model.stages for part in stage]
    return {name: own for name, own in model.state_dict().items() if any(_lies_in(name, part) for part in parts)}


def _differing(model: CrystalModel, source: CrystalModel) -> str:
    """Say which settings two models of one architecture differ in."""
    own, theirs = (each.settings.model_dump(mode="json") for each in (model, source))
    found = [f"{key} (there {theirs[key]!r}, here {own[key]!r})" for key in own if own[key] != theirs[key]]
    return f". What differs: {', '.join(found)}" if found else ""


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"of shape {tuple(tensor.shape)}"


def _copy(name: str, own: Tensor, theirs: Tensor | None, settings: InitSettings) -> None:
    if theirs is not None and theirs.shape == own.shape:
        own.copy_(theirs)
        return
    raise InputError(
        f"{settings.checkpoint}: its {name} is {_shape(theirs)}, here it is {_shape(own)}; give its sizes, or set "
        "init.readout=false"
    )


def _copy_rows(
    name: str, own: Tensor, theirs: Tensor | None, dimension: int, places: Sequence[tuple[int, int]]
) -> None:
    for here, there in places:
        taken = None if theirs is None else theirs.select(dimension, there)
        place = own.select(dimension, here)
        if taken is None or taken.shape != place.shape:
            raise InputError(
                f"{name}: in the checkpoint a target's part of it is {_shape(taken)}, here it is {_shape(place)}; give "
                "the sizes of its heads, or set init.readout=false"
            )
        place.copy_(taken)


def _told(target: Target) -> str:
    return f"a {target.kind} on the scale {target.scale} in {target.unit or 'no unit'}"


def _lies_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _named(model: nn.Module, name: str) -> object:
    found: object = model
    for step in name.split("."):
        found = getattr(found, step)
    return found


def _part(model: CrystalModel, name: str) -> Iterator[nn.Parameter]:
    found = _named(model, name)
    if isinstance(found, nn.Module):
        yield from found.parameters()
    elif isinstance(found, nn.Parameter):
        yield found
