"""A trained model in one file: safetensors, with a JSON header in its metadata. Nothing in it is ever unpickled.

The header holds all that the weights do not: architecture, settings, neighbours, targets with units, scaling, the card,
and a hash of the tensors, because safetensors itself does not notice a damaged byte in them.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from screening.errors import FileFormatError, InputError
from screening.files.whole import require_place, write_whole
from screening.graphs import Neighbors
from screening.models.header import (
    FORMAT_VERSION,
    METADATA_KEY,
    Card,
    Header,
    NeighborsRecord,
    TargetRecord,
    header_in,
    opened,
    require_targets,
    targets_in,
)
from screening.models.model import CrystalModel
from screening.models.registry import ARCHITECTURES, build
from screening.version import code_version

SUFFIX = ".safetensors"


def save(model: CrystalModel, path: Path | str, card: Card) -> Card:
    """Write a model so that the file is either whole or not there; give the card as written, with time and version."""
    file = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(f"{file}: not saved, because {_listed(broken)} of the model is not finite; train it anew")
    stamp = {"code_version": card.code_version or code_version(), "created": card.created or _now()}
    written = Card.model_validate(card.model_dump() | stamp)
    header = _header_of(model, written, hash_of(tensors))
    require_place(file)
    # One key only: safetensors writes several in an order that changes from run to run.
    write_whole(file, [safetensors.torch.save(tensors, {METADATA_KEY: header.model_dump_json()})])
    return written


def load(path: Path | str, *, device: torch.device | str = "cpu", encoder: bool = False) -> tuple[CrystalModel, Card]:
    """Read a model, ready to predict: on a device, in evaluation mode, in the precision it was saved in.

    One without targets, which can only describe atoms, is an error unless an `encoder` is enough.
    """
    file = Path(path)
    header, tensors = _read(file)
    if not encoder:
        require_targets(file, header.targets)
    model = _built(file, header)
    _fill(file, model, tensors)
    return model.to(device).eval(), header.card


def _header_of(model: CrystalModel, card: Card, sha256: str) -> Header:
    near = model.neighbors
    return Header(
        format_version=FORMAT_VERSION,
        architecture=model.architecture,
        settings=model.settings.model_dump(mode="json"),
        neighbors=NeighborsRecord(
            cutoff=near.cutoff,
            max_neighbors=near.max_neighbors,
            exact=near.exact,
            shell_tolerance=near.shell_tolerance,
        ),
        targets=tuple(
            TargetRecord(name=t.name, unit=t.unit, kind=t.kind, scale=t.scale, mean=scaling.mean, std=scaling.std)
            for t, scaling in zip(model.targets, model.scaling, strict=True)
        ),
        card=card,
        sha256=sha256,
    )


def _read(file: Path) -> tuple[Header, dict[str, Tensor]]:
    with opened(file, framework="pt") as content:
        header = header_in(file, content.metadata())
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
    if hash_of(tensors) != header.sha256:
        raise FileFormatError(f"{file}: is damaged: its weights are not those that were saved; copy it again")
    return header, tensors


def _built(file: Path, header: Header) -> CrystalModel:
    if header.architecture not in ARCHITECTURES:
        raise FileFormatError(
            f"{file}: its architecture {header.architecture!r} is not in this version of screening, which has "
            f"{', '.join(sorted(ARCHITECTURES))}; update screening"
        )
    try:
        # The weights drawn here are overwritten; the caller's random numbers must not depend on loading.
        with torch.random.fork_rng(devices=[]):
            model = build(header.architecture, header.settings, targets_in(header))
        model.set_scaling([t.mean for t in header.targets], [t.std for t in header.targets])
    except InputError as error:
        raise FileFormatError(f"{file}: does not fit this version of screening: {error}") from error
    stored = Neighbors(**header.neighbors.model_dump())
    if model.neighbors != stored:
        raise FileFormatError(
            f"{file}: was trained on edges with {stored.words}, but its settings mean {model.neighbors.words} in this "
            "version"
        )
    return model


def _fill(file: Path, model: CrystalModel, tensors: Mapping[str, Tensor]) -> None:
    expected = model.state_dict()
    missing, foreign = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or foreign:
        raise FileFormatError(
            f"{file}: its weights are not those of {model.architecture}: "
            f"missing {_listed(missing)}, unexpected {_listed(foreign)}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise FileFormatError(
                f"{file}: weight {name} has shape {tuple(tensor.shape)}, "
                f"expected {tuple(expected[name].shape)} by the settings in its header"
            )
    model.to(next(tensors[name] for name, _ in model.named_parameters()).dtype).load_state_dict(dict(tensors))


def hash_of(tensors: Mapping[str, Tensor]) -> str:
    """A hash of weights, with their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return shown or "nothing"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
