"""The architectures there are, by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from screening.config import validated
from screening.errors import InputError
from screening.models.alignn import ALIGNN
from screening.models.cgcnn import CGCNN
from screening.models.crysxpp import CrysXPP
from screening.models.equivariant_transformer import EquivariantTransformer
from screening.models.gatgnn import GATGNN
from screening.models.model import CrystalModel
from screening.models.sieve import Sieve
from screening.predictions import Target

ARCHITECTURES: Mapping[str, type[CrystalModel]] = {
    kind.architecture: kind for kind in (ALIGNN, CGCNN, CrysXPP, EquivariantTransformer, GATGNN, Sieve)
}


def build(name: str, settings: Mapping[str, Any], targets: Sequence[Target]) -> CrystalModel:
    """Make a new model, its weights drawn from torch's generator.

    >>> model = build("cgcnn", {"width": 64}, [Target("band_gap", "eV")])
    """
    kind = architecture(name)
    return kind(validated(kind.settings_type, settings, origin=f"settings of model {name}"), targets)


def architecture(name: str) -> type[CrystalModel]:
    """Find an architecture by its name."""
    if name not in ARCHITECTURES:
        raise InputError(f"there is no architecture {name!r}; choose one of {', '.join(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name]
