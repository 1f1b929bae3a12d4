"""How crystals are relaxed, and until when: plain data, which the command line reads before it loads anything.

What moves crystals is in `screening.relaxation`, far above.
"""

from dataclasses import dataclass

from screening.errors import InputError

# Atoms of crystals that move at once, if nobody says otherwise.
AT_ONCE = 4_000


@dataclass(frozen=True, slots=True)
class RelaxationLimits:
    """When a crystal is relaxed, and when it is given up.

    Every force is below `force` (eV/angstrom) and, where `cells` move, every component of stress below `stress`
    (eV/angstrom^3). After `steps` steps a crystal has timed out; one whose volume has changed by more than a factor
    `swell`, an atom of which has left all its neighbours, or whose energy or forces are not finite, has diverged.
    """

    force: float = 0.05
    stress: float = 0.003
    steps: int = 500
    cells: bool = True
    swell: float = 3.0

    def __post_init__(self) -> None:
        if not (self.force > 0 and self.stress > 0 and self.steps >= 0 and self.swell > 1):
            raise InputError(
                f"a relaxation needs positive tolerances, steps of at least 0 and swell above 1, got {self}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation(RelaxationLimits):
    """How crystals are relaxed before they are predicted: by which model, known by its hash, and until when."""

    potential_hash: str
