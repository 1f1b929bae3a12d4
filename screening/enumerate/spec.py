"""What is enumerated: prototypes, the elements on their sites, what a combination must satisfy; from a TOML file.

max_crystals = 20000

[[prototype]]
name = "perovskite"
sites.A = ["alkali", "alkaline-earths", "lanthanides", "-Pm"]
sites.B = ["3d-metals", "Zr", "Sn"]
sites.X = ["O", "halogens"]
electronegativity = "A B < X"
tolerance_factor = [0.8, 1.06]
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, FiniteFloat, PositiveFloat, PositiveInt, model_validator

from screening.config import Settings
from screening.enumerate.chemistry import StateSet

State = Annotated[int, Field(ge=-9, le=9)]
# Files, directories and shells leave these as they are, and so do the programs that read ids.
LABEL = r"[A-Za-z0-9][A-Za-z0-9_.+]*(-[A-Za-z0-9_.+]+)*"


Names = Annotated[tuple[str, ...], Field(min_length=1)]


class PrototypeSettings(Settings):
    """One prototype and what goes on its sites.

    `name` is one that `screening enumerate --list` shows; `file` is a file with one crystal instead, whose sites are
    its elements, and whose sites that are not named keep theirs. `label` starts the ids. `sites` hold elements and
    groups; `-` before a name takes it out again. `states` gives the oxidation states of a site, whatever the element.
    `electronegativity`, such as "A B < X", asks that each element on a site before the sign is less electronegative
    than each on a site after it. `tolerance_factor` is Goldschmidt's, from and to. `charge_neutral` and
    `repeat_elements` are as in `Specification`, for this prototype alone.
    """

    name: str | None = None
    file: Path | None = None
    label: Annotated[str, Field(pattern=f"^{LABEL}$")] | None = None
    sites: dict[str, Names] = Field(default_factory=dict)
    parameters: dict[str, FiniteFloat] = Field(default_factory=dict)
    states: dict[str, Annotated[tuple[State, ...], Field(min_length=1)]] = Field(default_factory=dict)
    charge_neutral: bool | None = None
    repeat_elements: bool | None = None
    electronegativity: str | None = None
    tolerance_factor: tuple[PositiveFloat, PositiveFloat] | None = None
    max_crystals: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.name is None) == (self.file is None):
            raise ValueError("give either name = a prototype or file = a file with one crystal")
        if self.file is not None and self.parameters:
            raise ValueError("parameters are for prototypes by name; a file has its own coordinates")
        window = self.tolerance_factor
        if window is not None and window[0] >= window[1]:
            raise ValueError(f"tolerance_factor = [from, to] needs from below to, got {list(window)}")
        return self


class Specification(Settings):
    """All prototypes, and what holds for each of them.

    Of more than `max_crystals` (of all, or of a prototype), that many are drawn evenly, as `seed` says.
    `charge_neutral`: each site can have one oxidation state of its element so that the charges add up to nothing.
    `oxidation_states` is the set these are taken from, `states` replaces those of an element. `exclude` takes elements
    out of all sites, `groups` are further groups of elements by name. `repeat_elements` lets an element be on several
    sites of a crystal. `volume_scale` multiplies the predicted volumes.
    """

    prototype: Annotated[tuple[PrototypeSettings, ...], Field(min_length=1)]
    max_crystals: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    charge_neutral: bool = True
    repeat_elements: bool = False
    oxidation_states: StateSet = StateSet.ICSD
    states: dict[str, tuple[State, ...]] = Field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    groups: dict[str, Names] = Field(default_factory=dict)
    volume_scale: Annotated[float, Field(ge=0.5, le=2.0)] = 1.0
