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
        possible = {
            "force": self.force > 0,
            "stress": self.stress > 0,
            "steps": self.steps >= 0,
            "swell": self.swell > 1,
        }
        wrong = [f"{name} {getattr(self, name)}" for name, is_so in possible.items() if not is_so]
        if wrong:
            raise InputError(
                "a relaxation needs a force and a stress above 0, steps of at least 0 and swell above 1, got "
                + ", ".join(wrong)
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation(RelaxationLimits):
    """How crystals are relaxed before they are predicted: by which model, known by its hash, and until when."""

    potential_hash: str
