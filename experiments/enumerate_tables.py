"""Write what `screening enumerate` knows of elements and ions, from the tables in pymatgen.

    .venv/bin/python experiments/enumerate_tables.py

`elements.csv`: Pauling electronegativities and oxidation states, three sets of them; `radii.csv`: Shannon's effective
ionic radii, those of the high-spin state where there are two. pymatgen is under the MIT licence; the radii are those of
R. D. Shannon, Acta Cryst. A 32, 751 (1976). The tables are committed, so that another release of pymatgen does not
change what a specification means.
"""

import argparse
import csv
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from pymatgen.core import Element

FOLDER = Path(__file__).resolve().parent.parent / "screening" / "enumerate"
ROMAN = {
    "I": 1,
    "II": 2,
    "III": 3,
    "IV": 4,
    "V": 5,
    "VI": 6,
    "VII": 7,
    "VIII": 8,
    "IX": 9,
    "X": 10,
    "XI": 11,
    "XII": 12,
}
LAST = 103


def elements() -> Iterator[list[str]]:
    """Symbol, electronegativity, and the sets of oxidation states."""
    yield ["symbol", "electronegativity", "common", "icsd", "all"]
    for z in range(1, LAST + 1):
        element = Element.from_Z(z)
        chi = float(element.X)
        common, icsd = element.common_oxidation_states, element.icsd_oxidation_states
        every = sorted({*element.oxidation_states, *common, *icsd})
        # The counts behind the set from the ICSD leave some elements out; those have their common states there.
        sets = (_unbonded(common), _unbonded(icsd or common), every)
        yield [element.symbol, "" if math.isnan(chi) else f"{chi:g}", *map(_listed, sets)]


def radii() -> Iterator[list[str]]:
    """Symbol, charge, coordination number and radius in angstrom; square and pyramidal coordination is left out."""
    yield ["symbol", "charge", "coordination", "radius"]
    for z in range(1, LAST + 1):
        element = Element.from_Z(z)
        held = element.data.get("Shannon radii")
        for charge, places in (held if isinstance(held, dict) else {}).items():
            for place, spins in places.items():
                if charge and place in ROMAN:
                    radius = (spins.get("High Spin") or spins.get("") or spins["Low Spin"])["ionic_radius"]
                    yield [element.symbol, f"{int(charge):+d}", str(ROMAN[place]), f"{radius:g}"]


def _unbonded(states: Sequence[int]) -> list[int]:
    """States without the weaker negative ones, which are those of atoms bonded to their like: peroxides, azides."""
    lowest = min(states, default=0)
    return [state for state in states if state > 0 or state == lowest]


def _listed(states: Sequence[int]) -> str:
    return " ".join(f"{state:+d}" for state in sorted(states) if state)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write both tables."""
    argparse.ArgumentParser(description=f"Write elements.csv and radii.csv in {FOLDER}.").parse_args(arguments)
    # Noble gases have no electronegativity, which pymatgen warns of.
    warnings.simplefilter("ignore")
    for name, rows in (("elements.csv", elements()), ("radii.csv", radii())):
        with (FOLDER / name).open("w", newline="", encoding="ascii") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
