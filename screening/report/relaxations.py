"""What relaxing did to the crystals: how it ended, in how many steps, what it gained, how far it went; and by what."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from screening.relaxation_limits import Relaxation
from screening.report.distribution import Distribution
from screening.report.facts import Facts
from screening.report.markup import Content, element
from screening.report.table import plain_table
from screening.report.wording import measured, share, unit_words, whole
from screening.store.read import Results
from screening.store.schema import RELAXATION, RELAXATION_COLUMNS, Ending

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MEANINGS = {
    Ending.CONVERGED: "no force and no stress above the tolerance is left",
    Ending.TIMED_OUT: "predicted where it was after the last step",
    Ending.DIVERGED: "has no predictions",
    Ending.NONE: "refused by packing, or harmed the potential",
}
_SHOWN = ("relaxation_steps", "volume_change", "remaining_force", "remaining_stress")
GAIN = "energy gained"


@dataclass
class Relaxations:
    """Rows by how they ended; and numbers of those that have a relaxed crystal, by column."""

    endings: dict[Ending, int]
    numbers: dict[str, Distribution] = field(default_factory=dict)


def relaxations_of(results: Results) -> Relaxations | None:
    """Count them, in one pass; None of a run that relaxes nothing."""
    if results.stamp.relaxation is None:
        return None
    counts = np.zeros(len(Ending), np.int64)
    numbers = {name: Distribution() for name in (*_SHOWN, GAIN)}
    for _, block in results.blocks([column.name for column in RELAXATION_COLUMNS]):
        counts += np.bincount(block[RELAXATION], minlength=len(Ending))
        there = np.isin(block[RELAXATION], [ending for ending in Ending if ending.has_atoms])
        block[GAIN] = block["unrelaxed_energy_per_atom"] - block["relaxed_energy_per_atom"]
        for name, distribution in numbers.items():
            values = block[name][there].astype(np.float32)
            distribution.add(values[np.isfinite(values)])
    return Relaxations({ending: int(counts[ending]) for ending in Ending}, numbers)


def relaxation_part(found: Relaxations, facts: Facts) -> list[Content]:
    """The section of the page."""
    total = sum(found.endings.values())
    ends: list[list[Content]] = [
        [ending.word.replace("_", " "), whole(count), share(count, total), _MEANINGS[ending]]
        for ending, count in found.endings.items()
        if count
    ]
    how = facts.record.stamp.relaxation
    words = [f"By {facts.potential_title}", *([] if how is None else _settings(how))]
    heads: list[Content] = ["", *(f"{100 * quantile:g} %" for quantile in QUANTILES), ""]
    units = {column.name: column.unit for column in RELAXATION_COLUMNS} | {GAIN: "eV/atom"}
    names = {name: name.replace("_", " ") for name in units} | {"relaxation_steps": "steps"}
    spread = [
        [names[name], *(measured(one.quantile(quantile), 3) for quantile in QUANTILES), unit_words(units[name])]
        for name, one in found.numbers.items()
        if one.count
    ]
    return [
        element("p", f"{'; '.join(words)}.", class_="note"),
        plain_table(["", "crystals", "of all read", ""], ends),
        element("h3", "How far it went: this share of relaxed crystals has no more") if spread else None,
        plain_table(heads, spread) if spread else None,
    ]


def _settings(how: Relaxation) -> Sequence[str]:
    cells = "cells move" if how.cells else "cells stay"
    return (
        cells,
        f"until no force is above {how.force:g} eV/Å"
        + (f" and no component of stress above {how.stress:g} eV/Å³" if how.cells else ""),
        f"at most {how.steps:,} steps",
    )
