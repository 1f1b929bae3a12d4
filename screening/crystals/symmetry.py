"""The space group of a crystal, found by moyopy: a number from 1 to 230, or 0 where none is found."""

import numpy as np

from screening.arrays import Float64
from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal

# Atoms this far (angstrom) from where symmetry wants them count as there.
TOLERANCE = 0.01
NO_GROUP = 0
# The label of a crystal that holds its group, by its canonical name.
GROUP_LABEL = "spacegroup_number"
# A cell that is so many times as long as it is thin is not asked for its symmetry: the search may never end.
MOST_SHEARED = 1000.0


def space_group(crystal: Crystal, tolerance: float = TOLERANCE) -> int:
    """Find the space group of a crystal; 0 if it is not periodic in space, too odd a cell, or the search fails."""
    if not all(crystal.pbc):
        return NO_GROUP
    inverse = np.linalg.inv(crystal.lattice)
    longest, thinnest = np.linalg.norm(crystal.lattice, axis=1).max(), 1 / np.linalg.norm(inverse, axis=0).max()
    if longest > MOST_SHEARED * thinnest:
        return NO_GROUP
    import moyopy

    cell = moyopy.Cell(crystal.lattice.tolist(), (crystal.positions @ inverse).tolist(), crystal.numbers.tolist())
    try:
        return int(moyopy.MoyoDataset(cell, symprec=tolerance).number)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        # A panic of its Rust code is no Exception.
        return NO_GROUP


def space_groups(crystals: Crystals, tolerance: float = TOLERANCE) -> Float64:
    """Find the space group of each crystal, (crystals,), as a label holds it."""
    # One by one: the search has no form for batches. It takes 0.1 to 10 ms a crystal, so this loop is no cost.
    return np.array([space_group(crystal, tolerance) for crystal in crystals], np.float64)
