"""Which model files are potentials: that is in their headers, so that it can be told without torch."""

from collections.abc import Sequence
from pathlib import Path

from screening.errors import InputError
from screening.models.header import header_in, opened, targets_in
from screening.predictions import Target
from screening.pretrained.shipped import POTENTIAL

REFERENCED = "referenced_energy_per_atom"
"""What `screening train-forces` learns, by its slopes: an energy above references; times the atoms it is a crystal's.

Formation energies are none of it, though they have the same slopes in theory: a model that has learned them of crystals
at rest was never told what becomes of an atom that moves, and crystals that follow it downhill end anywhere.
"""

WITH_ENVELOPE = ("equivariant_transformer", "sieve")
"""Architectures whose edges fade out at the cutoff: smooth when they hear all of them."""


def energy_among(targets: Sequence[Target]) -> Target | None:
    """The target whose slopes are forces, if there is one; a logarithm or a class of an energy is none."""
    linear = (target for target in targets if (target.kind, target.scale) == ("regression", "linear"))
    return next((target for target in linear if target.name == REFERENCED), None)


def without_forces(targets: Sequence[Target]) -> str:
    """What to say of a model that predicts these, none of which has learned slopes."""
    names = ", ".join(target.name for target in targets) or "nothing"
    return (
        f"predicts {names}, and has learned no forces, without which its slopes mean nothing; use one that `screening "
        f"train-forces` made, or the shipped {POTENTIAL}"
    )


def required_energy(path: Path) -> Target:
    """The target of a model file whose slopes are forces; refuse a model that has no forces."""
    with opened(path) as content:
        header = header_in(path, content.metadata())
    targets = targets_in(header)
    found = energy_among(targets)
    if found is None:
        raise InputError(f"{path}: is no potential: it {without_forces(targets)}")
    if header.architecture not in WITH_ENVELOPE or header.neighbors.max_neighbors is not None:
        raise InputError(
            f"{path}: is no potential: a {header.architecture} with these neighbours is not smooth, its energy jumps "
            'when a neighbour comes or goes; use one with max_neighbors = "all" and an envelope, such as '
            f"`screening train-forces` makes, or the shipped {POTENTIAL}"
        )
    return found
