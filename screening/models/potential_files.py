"""Which model files are potentials: that is in their headers, so that it can be told without torch."""

from collections.abc import Sequence
from pathlib import Path

from screening.errors import InputError
from screening.models.header import header_in, opened, targets_in
from screening.predictions import Target
from screening.pretrained.shipped import POTENTIAL

REFERENCED = "referenced_energy_per_atom"
"""What a potential learns from labels of energy: what they are above the references of their source."""

ENERGIES = (
    REFERENCED,
    "energy_per_atom",
    "formation_energy_per_atom",
    "formation_energy_per_atom_uncorrected",
)
"""Targets whose differences, times the atoms of a crystal, are those of its total energy.

A cohesive energy is none of them: it is what is gained by binding, so its sign is the opposite.
"""

WITH_ENVELOPE = ("equivariant_transformer", "sieve")
"""Architectures whose edges fade out at the cutoff: smooth when they hear all of them."""


def energy_among(targets: Sequence[Target]) -> Target | None:
    """The target whose slopes are forces, if there is one; a logarithm or a class of an energy is none."""
    linear = {target.name: target for target in targets if (target.kind, target.scale) == ("regression", "linear")}
    return next((linear[name] for name in ENERGIES if name in linear), None)


def required_energy(path: Path) -> Target:
    """The target of a model file whose slopes are forces; refuse a model that has no forces."""
    with opened(path) as content:
        header = header_in(path, content.metadata())
    targets = targets_in(header)
    found = energy_among(targets)
    if found is None:
        names = ", ".join(target.name for target in targets) or "nothing"
        raise InputError(
            f"{path}: is no potential: it predicts {names}, none of which is an energy whose slopes are forces; use a "
            f"model that predicts {' or '.join(ENERGIES)}, as a regression on the scale linear, or the shipped "
            f"{POTENTIAL}"
        )
    if header.architecture not in WITH_ENVELOPE or header.neighbors.max_neighbors is not None:
        raise InputError(
            f"{path}: is no potential: a {header.architecture} with these neighbours is not smooth, its energy jumps "
            'when a neighbour comes or goes; use one with max_neighbors = "all" and an envelope, such as '
            f"`screening train-forces` makes, or the shipped {POTENTIAL}"
        )
    return found
