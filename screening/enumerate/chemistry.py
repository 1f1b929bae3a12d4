"""What is known of elements and ions: electronegativities, oxidation states, radii, groups by name.

The tables beside this file are written by experiments/enumerate_tables.py.
"""

import csv
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import numpy as np

from screening.arrays import Float64
from screening.crystals.elements import NUMBER_OF, SYMBOLS

FOLDER = Path(__file__).parent


class StateSet(StrEnum):
    """Which oxidation states an element may have.

    Of 1,158 crystals of the Materials Project in 36 ionic prototypes, 72 % are neutral with one of the `common` states
    on each site, 89 % with one of `icsd`, 97 % with one of `all` (experiments/enumerate_states.py).
    """

    COMMON = "common"
    ICSD = "icsd"
    ALL = "all"


@lru_cache(maxsize=1)
def _rows() -> list[dict[str, str]]:
    with (FOLDER / "elements.csv").open(encoding="ascii", newline="") as file:
        return list(csv.DictReader(file))


@lru_cache(maxsize=1)
def electronegativities() -> Float64:
    """Pauling's, by atomic number; NaN where there is none."""
    values = np.full(len(SYMBOLS), np.nan)
    for row in _rows():
        values[NUMBER_OF[row["symbol"]]] = float(row["electronegativity"] or "nan")
    values.flags.writeable = False
    return values


@lru_cache(maxsize=3)
def oxidation_states(kind: StateSet) -> Mapping[int, tuple[int, ...]]:
    """The states of each element, ascending, without zero.

    `common` are the usual ones, `icsd` those that at least 1 % of its entries in the ICSD have, `all` every one known.
    Of negative states the first two have the lowest alone: the others are those of atoms bonded to their like.
    """
    return {NUMBER_OF[row["symbol"]]: tuple(map(int, row[kind].split())) for row in _rows()}


@lru_cache(maxsize=1)
def _radii() -> Mapping[tuple[int, int], Mapping[int, float]]:
    """Shannon's effective ionic radii: by element and charge, by coordination number."""
    found: dict[tuple[int, int], dict[int, float]] = {}
    with (FOLDER / "radii.csv").open(encoding="ascii", newline="") as file:
        for row in csv.DictReader(file):
            ion = NUMBER_OF[row["symbol"]], int(row["charge"])
            found.setdefault(ion, {})[int(row["coordination"])] = float(row["radius"])
    return found


def ionic_radius(number: int, charge: int, coordination: int) -> float:
    """Shannon's radius (angstrom) for the listed coordination number that is nearest; NaN if none is."""
    places = _radii().get((number, charge))
    if not places:
        return float("nan")
    return places[min(places, key=lambda place: (abs(place - coordination), -place))]


def _symbols(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_LANTHANIDES = _symbols("La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu")
_3D = _symbols("Sc Ti V Cr Mn Fe Co Ni Cu Zn")
_4D = _symbols("Y Zr Nb Mo Tc Ru Rh Pd Ag Cd")
_5D = _symbols("Hf Ta W Re Os Ir Pt Au Hg")
_ALKALI = _symbols("Li Na K Rb Cs")
_ALKALINE_EARTHS = _symbols("Be Mg Ca Sr Ba")
_POST_TRANSITION = _symbols("Al Ga In Tl Sn Pb Bi")
_ACTINIDES = _symbols("Ac Th Pa U Np Pu")

# Groups hold elements that a volume is known for.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "alkali": _ALKALI,
    "alkaline-earths": _ALKALINE_EARTHS,
    "transition-metals": (*_3D, *_4D, *_5D),
    "3d-metals": _3D,
    "4d-metals": _4D,
    "5d-metals": _5D,
    "lanthanides": _LANTHANIDES,
    "rare-earths": ("Sc", "Y", *_LANTHANIDES),
    "actinides": _ACTINIDES,
    "post-transition-metals": _POST_TRANSITION,
    "metals": (
        *(_ALKALI + _ALKALINE_EARTHS),
        *(_3D + _4D + _LANTHANIDES + _5D),
        *(_POST_TRANSITION + _ACTINIDES),
    ),
    "metalloids": _symbols("B Si Ge As Sb Te"),
    "boron-group": _symbols("B Al Ga In Tl"),
    "carbon-group": _symbols("C Si Ge Sn Pb"),
    "pnictogens": _symbols("N P As Sb Bi"),
    "chalcogens": _symbols("O S Se Te"),
    "halogens": _symbols("F Cl Br I"),
    "radioactive": ("Tc", "Pm", *_ACTINIDES),
}
