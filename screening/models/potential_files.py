"""Which model files are potentials: that is in their headers, so that it can be told without torch."""

from pathlib import Path

from screening.errors import InputError
from screening.models.header import header_in, opened, targets_in
from screening.predictions import Target

ENERGIES = (
    "referenced_energy_per_atom",
    "energy_per_atom",
    "formation_energy_per_atom",
    "formation_energy_per_atom_uncorrected",
    "cohesive_energy_per_atom",
)
"""Targets whose differences, times the atoms of a crystal, are those of its total energy."""

WITH_ENVELOPE = ("equivariant_transformer", "sieve")
"""Architectures whose edges fade out at the cutoff: smooth when they hear all of them."""


def required_energy(path: Path) -> Target:
    """The target of a model file whose slopes are forces; refuse a model that has no forces."""
    with opened(path) as content:
        header = header_in(path, content.metadata())
    targets = {target.name: target for target in targets_in(header)}
    found = [targets[name] for name in ENERGIES if name in targets]
    if not found:
        raise InputError(
            f"{path}: is no potential: it predicts {', '.join(targets) or 'nothing'}, none of which is an energy whose "
            f"slopes are forces; use a model that predicts {' or '.join(ENERGIES)}"
        )
    if header.architecture not in WITH_ENVELOPE or header.neighbors.max_neighbors is not None:
        raise InputError(
            f"{path}: is no potential: a {header.architecture} with these neighbours is not smooth, its energy jumps "
            'when a neighbour comes or goes; use one with max_neighbors = "all" and an envelope, such as '
            "`screening train-forces` makes"
        )
    return found[0]
