"""A trained model in one file: safetensors, with a JSON header in its metadata. Nothing in it is ever unpickled.

The header holds all that the weights do not: architecture, settings, neighbours, targets with units, scaling, the card,
and a hash of the tensors, because safetensors itself does not notice a damaged byte in them.
"""

import hashlib
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from torch import Tensor

from screening.crystals.version import code_version
from screening.errors import FileFormatError, InputError, ResourceError
from screening.graphs import Neighbors
from screening.models.model import CrystalModel
from screening.models.registry import ARCHITECTURES, build
from screening.predictions import Scale, Target, TargetKind

METADATA_KEY = "screening_model"
FORMAT_VERSION = 1
SUFFIX = ".safetensors"


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Metric = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A number, or None where a metric is not defined."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Card(_Record):
    """Where a model comes from and how far to trust it.

    `elements` are the atomic numbers seen in training, None when unknown; `fingerprint` identifies the training set;
    `metrics` are by data set, then target, then metric; `created` is the UTC time of saving.
    """

    title: str = ""
    description: str = ""
    licence: str = ""
    limits: str = ""
    elements: tuple[int, ...] | None = None
    fingerprint: str = ""
    metrics: Mapping[str, Mapping[str, Mapping[str, Metric]]] = {}
    code_version: str = ""
    created: str = ""


class _TargetRecord(_Record):
    name: str
    unit: str
    kind: TargetKind
    scale: Scale
    mean: float
    std: float


class _NeighborsRecord(_Record):
    cutoff: float
    max_neighbors: int | None
    exact: bool
    shell_tolerance: float


class _Version(BaseModel):
    format_version: int


class _Header(_Record):
    format_version: int
    architecture: str
    settings: Mapping[str, Any]
    neighbors: _NeighborsRecord
    targets: tuple[_TargetRecord, ...]
    card: Card
    sha256: str


def save(model: CrystalModel, path: Path | str, card: Card) -> Card:
    """Write a model so that the file is either whole or not there; give the card as written, with time and version."""
    file = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(f"{file}: not saved, because {_listed(broken)} of the model is not finite; train it anew")
    stamp = {"code_version": card.code_version or code_version(), "created": card.created or _now()}
    written = Card.model_validate(card.model_dump() | stamp)
    header = _header_of(model, written, _hash(tensors))
    # One key only: safetensors writes several in an order that changes from run to run.
    _write_whole(file, safetensors.torch.save(tensors, {METADATA_KEY: header.model_dump_json()}))
    return written


def load(path: Path | str, *, device: torch.device | str = "cpu") -> tuple[CrystalModel, Card]:
    """Read a model, ready to predict: on a device, in evaluation mode, in the precision it was saved in."""
    file = Path(path)
    header, tensors = _read(file)
    model = _built(file, header)
    _fill(file, model, tensors)
    return model.to(device).eval(), header.card


def read_card(path: Path | str) -> tuple[str, tuple[Target, ...], Card]:
    """Read what a file says of its model without loading it: architecture, targets, card."""
    file = Path(path)
    with _opened(file) as content:
        header = _header(file, content.metadata())
    return header.architecture, _targets(header), header.card


def _header_of(model: CrystalModel, card: Card, sha256: str) -> _Header:
    near = model.neighbors
    return _Header(
        format_version=FORMAT_VERSION,
        architecture=model.architecture,
        settings=model.settings.model_dump(mode="json"),
        neighbors=_NeighborsRecord(
            cutoff=near.cutoff,
            max_neighbors=near.max_neighbors,
            exact=near.exact,
            shell_tolerance=near.shell_tolerance,
        ),
        targets=tuple(
            _TargetRecord(name=t.name, unit=t.unit, kind=t.kind, scale=t.scale, mean=scaling.mean, std=scaling.std)
            for t, scaling in zip(model.targets, model.scaling, strict=True)
        ),
        card=card,
        sha256=sha256,
    )


def _write_whole(file: Path, content: bytes) -> None:
    part = file.with_name(file.name + ".part")
    try:
        with part.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileNotFoundError as error:
        raise InputError(f"{file}: there is no folder {file.parent}; make it first") from error
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ResourceError(
            f"{file}: cannot be written ({error.strerror or error}); check space and permissions of {file.parent}"
        ) from error


def _opened(file: Path) -> Any:
    if not file.is_file():
        raise InputError(f"{file}: there is no such file; expected a model saved by `screening train`")
    try:
        return safetensors.safe_open(file, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise FileFormatError(
            f"{file}: is no model, or a truncated one ({error}); expected a whole safetensors file. "
            "Copy it again, or convert a published CGCNN file with screening.models.published"
        ) from error


def _read(file: Path) -> tuple[_Header, dict[str, Tensor]]:
    with _opened(file) as content:
        header = _header(file, content.metadata())
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
    if _hash(tensors) != header.sha256:
        raise FileFormatError(f"{file}: is damaged: its weights are not those that were saved; copy it again")
    return header, tensors


def _header(file: Path, metadata: Mapping[str, str] | None) -> _Header:
    if not metadata or METADATA_KEY not in metadata:
        raise FileFormatError(
            f"{file}: is a safetensors file of another program; expected a model saved by `screening train`"
        )
    text = metadata[METADATA_KEY]
    try:
        # The version first: another one may have other fields.
        version = _Version.model_validate_json(text).format_version
        if version == FORMAT_VERSION:
            return _Header.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "JSON"
        raise FileFormatError(f"{file}: its header is damaged at {place} ({first['msg']}); copy it again") from error
    raise FileFormatError(
        f"{file}: has model format {version}, and this version of screening reads {FORMAT_VERSION}; "
        "update screening, or save the model anew"
    )


def _built(file: Path, header: _Header) -> CrystalModel:
    if header.architecture not in ARCHITECTURES:
        raise FileFormatError(
            f"{file}: its architecture {header.architecture!r} is not in this version of screening, which has "
            f"{', '.join(sorted(ARCHITECTURES))}; update screening"
        )
    try:
        # The weights drawn here are overwritten; the caller's random numbers must not depend on loading.
        with torch.random.fork_rng(devices=[]):
            model = build(header.architecture, header.settings, _targets(header))
        model.set_scaling([t.mean for t in header.targets], [t.std for t in header.targets])
    except InputError as error:
        raise FileFormatError(f"{file}: does not fit this version of screening: {error}") from error
    stored = Neighbors(**header.neighbors.model_dump())
    if model.neighbors != stored:
        raise FileFormatError(
            f"{file}: was trained on edges with {stored}, but its settings mean {model.neighbors} in this version"
        )
    return model


def _targets(header: _Header) -> tuple[Target, ...]:
    return tuple(Target(t.name, t.unit, t.kind, t.scale) for t in header.targets)


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


def _hash(tensors: Mapping[str, Tensor]) -> str:
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
