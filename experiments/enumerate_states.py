"""How many known ionic crystals are neutral in the oxidation states that `screening enumerate` takes from its sets?

    .venv/bin/python experiments/enumerate_states.py CRYSTALS...

Of the crystals that are of a prototype with an anion site X, those are counted that have a chalcogen or a halogen
there; a crystal is neutral when each site can have one state of its element so that the charges add up to nothing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from enumerate_volumes import members

from screening.crystals.batch import Crystals
from screening.crystals.elements import NUMBER_OF
from screening.crystals.read import read_batches
from screening.enumerate.charges import balance
from screening.enumerate.chemistry import GROUPS, StateSet, oxidation_states
from screening.enumerate.named import named

ANIONS = {NUMBER_OF[symbol] for symbol in (*GROUPS["chalcogens"], *GROUPS["halogens"])}
FEWEST = 5


def neutral(name: str, elements: list[list[int]], kind: StateSet) -> int:
    """How many assignments to a prototype are neutral."""
    table = oxidation_states(kind)
    prototype = named(name)
    states = [{z: table[z] for z in column} for column in zip(*elements, strict=True)]
    possible = balance(prototype.units, states, states).possible(np.array(elements, np.uint8))
    return int(possible.any(axis=1).sum())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the shares by prototype and in all."""
    parser = argparse.ArgumentParser(description="Count crystals that are neutral, by prototype.")
    parser.add_argument("crystals", nargs="+", type=Path, metavar="CRYSTALS", help="files of known crystals")
    chosen = parser.parse_args(arguments)
    crystals = Crystals.joined([batch.crystals for batch in read_batches(chosen.crystals)])
    kinds = list(StateSet)
    print(f"{'prototype':36} crystals", *(f"{kind:>8}" for kind in kinds))
    total, count = np.zeros(len(kinds)), 0
    for name, found in members(crystals).items():
        prototype = named(name)
        elements = [each for _, each in found if each[-1] in ANIONS]
        if prototype.sites[-1] != "X" or len(elements) < FEWEST:
            continue
        passing = np.array([neutral(name, elements, kind) for kind in kinds])
        print(f"{name:36} {len(elements):8}", *(f"{share:8.0%}" for share in passing / len(elements)))
        total, count = total + passing, count + len(elements)
    print(f"{'all':36} {count:8}", *(f"{share:8.1%}" for share in total / max(count, 1)))


if __name__ == "__main__":
    main()
