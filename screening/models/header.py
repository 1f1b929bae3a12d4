"""What a model file says of its model without its weights: architecture, targets, neighbours, card. No torch needed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import safetensors
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from screening.errors import FileFormatError, InputError, permitted
from screening.predictions import Scale, Target, TargetKind

METADATA_KEY = "screening_model"
FORMAT_VERSION = 1


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Metric = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A number, or None where a metric is not defined."""


class Record(BaseModel):
    """A table of the header: immutable, finite numbers only, no key that is not declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Card(Record):
    """Where a model comes from and how far to trust it.

    `elements` are the atomic numbers seen in training, None when unknown; `fingerprint` identifies the training set;
    `metrics` are by data set, then target, then metric; `references` are energies of atoms (eV) by source of labels and
    symbol, which energies are above; `created` is the UTC time of saving.
    """

    title: str = ""
    description: str = ""
    licence: str = ""
    limits: str = ""
    elements: tuple[int, ...] | None = None
    fingerprint: str = ""
    metrics: Mapping[str, Mapping[str, Mapping[str, Metric]]] = {}
    references: Mapping[str, Mapping[str, float]] = {}
    code_version: str = ""
    created: str = ""


class TargetRecord(Record):
    """A target, and what is learned of it."""

    name: str
    unit: str
    kind: TargetKind
    scale: Scale
    mean: float
    std: float


class NeighborsRecord(Record):
    """The edges that a model was trained on."""

    cutoff: float
    max_neighbors: int | None
    exact: bool
    shell_tolerance: float


class _Version(BaseModel):
    format_version: int


class Header(Record):
    """All fields of a file but the weights; docs/conventions.md says what they mean."""

    format_version: int
    architecture: str
    settings: Mapping[str, Any]
    neighbors: NeighborsRecord
    targets: tuple[TargetRecord, ...]
    card: Card
    sha256: str


def read_card(path: Path | str) -> tuple[str, tuple[Target, ...], Card]:
    """Read what a file says of its model without loading it: architecture, targets, card."""
    file = Path(path)
    with opened(file) as content:
        header = header_in(file, content.metadata())
    return header.architecture, targets_in(header), header.card


def opened(file: Path, *, framework: str = "np") -> Any:
    """Open a model file; its tensors come as those of `framework`."""
    with permitted(file):
        is_there = file.is_file()
    if not is_there:
        raise InputError(f"{file}: there is no such file; expected a model saved by `screening train`")
    try:
        with permitted(file):
            return safetensors.safe_open(file, framework=framework)
    except (safetensors.SafetensorError, OSError) as error:
        raise FileFormatError(
            f"{file}: is no model, or a truncated one ({error}); expected a whole safetensors file. "
            "Copy it again, or convert a published CGCNN file with screening.models.published"
        ) from error


def header_in(file: Path, metadata: Mapping[str, str] | None) -> Header:
    """Check what a safetensors file has as metadata."""
    if not metadata or METADATA_KEY not in metadata:
        raise FileFormatError(
            f"{file}: is a safetensors file of another program; expected a model saved by `screening train`"
        )
    text = metadata[METADATA_KEY]
    try:
        # The version first: another one may have other fields.
        version = _Version.model_validate_json(text).format_version
        if version == FORMAT_VERSION:
            return Header.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "JSON"
        raise FileFormatError(f"{file}: its header is damaged at {place} ({first['msg']}); copy it again") from error
    raise FileFormatError(
        f"{file}: has model format {version}, and this version of screening reads {FORMAT_VERSION}; "
        "update screening, or save the model anew"
    )


def require_targets(file: Path, targets: Sequence[object]) -> None:
    """Refuse a model that can only describe atoms."""
    if not targets:
        raise InputError(
            f"{file}: is a pre-trained encoder, which predicts nothing; give it heads with `screening train --init`"
        )


def targets_in(header: Header) -> tuple[Target, ...]:
    """The targets that a header names."""
    return tuple(Target(t.name, t.unit, t.kind, t.scale) for t in header.targets)
