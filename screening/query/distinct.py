"""Which crystals of a ranked list have the structure of one before them: most pairs differ in composition at once."""

from collections import defaultdict
from math import gcd
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from screening.crystals.crystal import Crystal

if TYPE_CHECKING:
    from pymatgen.core import IStructure


class Structures:
    """The structures that were met so far.

    Two crystals have one structure if pymatgen's StructureMatcher says so with its usual tolerances: in primitive
    cells, scaled to one volume, within 20 % of lengths, 5 degrees of angles and 0.3 of the spacing of atoms. Crystals
    that are not periodic in three directions have no cell to compare: each is taken for a structure of its own.
    """

    def __init__(self) -> None:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        # Of a module without annotations.
        self._matcher: Any = StructureMatcher()
        self._met: defaultdict[bytes, list[IStructure]] = defaultdict(list)

    def is_new(self, crystal: Crystal) -> bool:
        """Tell whether no crystal before had this one's structure, and remember it if so."""
        from screening.crystals.convert import crystal_to_pymatgen

        if not all(crystal.pbc):
            return True
        structure = cast("IStructure", crystal_to_pymatgen(crystal))
        alike = self._met[_composition(crystal)]
        if any(self._matcher.fit(other, structure) for other in alike):
            return False
        alike.append(structure)
        return True


def _composition(crystal: Crystal) -> bytes:
    """A key of what a crystal is made of, whatever the size of its cell."""
    numbers, counts = np.unique(crystal.numbers, return_counts=True)
    return np.stack([numbers, counts // gcd(*counts.tolist())]).tobytes()
