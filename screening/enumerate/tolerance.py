"""Goldschmidt's tolerance factor, t = (r_A + r_X) / (sqrt(2) (r_B + r_X)), for each combination of oxidation states.

Radii are Shannon's, for twelve neighbours of the large cation and six of the anion and of the small cations, of whose
radii the mean is taken. Where no radius is listed for that many neighbours, the one for the nearest number is taken.
An assignment passes when a neutral combination of states puts it into the window; an ion without any radius, such as
Sn+2, never does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from screening.arrays import Float64, UInt8, UInt64
from screening.crystals.elements import SYMBOLS
from screening.enumerate.charges import WORD, Balance
from screening.enumerate.chemistry import ionic_radius
from screening.enumerate.prototype import Prototype
from screening.errors import InputError

LARGE, SMALL = 12, 6


@dataclass(frozen=True, eq=False)
class ToleranceWindow:
    """A window of the tolerance factor. `radii` (combinations, sites, 119) holds NaN where there is no radius."""

    low: float
    high: float
    large: int
    small: tuple[int, ...]
    anion: int
    radii: Float64

    def factors(self, elements: UInt8, combination: int) -> Float64:
        """The factor of each row of elements, if its ions have the charges of this combination."""
        radius = self.radii[combination]
        anion = radius[self.anion][elements[:, self.anion]]
        small = sum(radius[s][elements[:, s]] for s in self.small) / len(self.small)
        large = radius[self.large][elements[:, self.large]]
        factor: Float64 = (large + anion) / (math.sqrt(2.0) * (small + anion))
        return factor

    def within(self, elements: UInt8, possible: UInt64) -> UInt64:
        """Take away the combinations that put a row outside the window."""
        kept = possible.copy()
        for c in range(len(self.radii)):
            word, bit = c // WORD, np.uint64(1) << np.uint64(c % WORD)
            rows = np.flatnonzero(kept[:, word] & bit)
            factor = self.factors(elements[rows], c)
            # False for NaN, which is what an unknown radius gives.
            outside = ~((factor >= self.low) & (factor <= self.high))
            kept[rows[outside], word] &= ~bit
        return kept


def tolerance_window(
    prototype: Prototype,
    window: tuple[float, float],
    balance: Balance,
    given: Mapping[tuple[int, int], float] | None = None,
) -> ToleranceWindow:
    """Prepare the radii of all combinations of a prototype that has a large and a small cation.

    `given` are radii by element and charge that go before Shannon's.
    """
    roles = prototype.roles
    if roles is None:
        raise InputError(
            f"prototype {prototype.name} has no tolerance factor, which is of perovskites and their kin; leave it out"
        )
    sites = prototype.sites
    own = given or {}
    place = {roles.large: LARGE} | dict.fromkeys((*roles.small, roles.anion), SMALL)
    radii = np.full((len(balance.combinations), len(sites), len(SYMBOLS)), np.nan)
    for s, site in enumerate(sites):
        for charge in np.unique(balance.combinations[:, s]).tolist():
            each = [own.get((z, charge)) or ionic_radius(z, charge, place[site]) for z in range(len(SYMBOLS))]
            radii[balance.combinations[:, s] == charge, s] = each
    return ToleranceWindow(
        *window,
        large=sites.index(roles.large),
        small=tuple(sites.index(site) for site in roles.small),
        anion=sites.index(roles.anion),
        radii=radii,
    )
