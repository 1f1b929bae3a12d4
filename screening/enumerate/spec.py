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

import re
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, Field, FiniteFloat, PositiveFloat, PositiveInt, model_validator

from screening.config import Settings
from screening.enumerate.chemistry import StateSet

T = TypeVar("T")
State = Annotated[int, Field(ge=-9, le=9)]
# Ids become file names: these characters are safe in file systems, shells and the programs that read ids.
LABEL = re.compile(r"[A-Za-z0-9]+([_.+-][A-Za-z0-9]+)*")


def _not_empty(items: tuple[T, ...]) -> tuple[T, ...]:
    """A bound on the length would be missed too, as a second error, when an item is wrong."""
    if not items:
        raise ValueError("expected at least one item")
    return items


def _plain(label: str) -> str:
    if not LABEL.fullmatch(label):
        raise ValueError("expected letters, digits and _ . + - between them")
    return label


Names = Annotated[tuple[str, ...], AfterValidator(_not_empty)]
States = Annotated[tuple[State, ...], AfterValidator(_not_empty)]


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
    label: Annotated[str, AfterValidator(_plain)] | None = None
    sites: dict[str, Names] = Field(default_factory=dict)
    parameters: dict[str, FiniteFloat] = Field(default_factory=dict)
    states: dict[str, States] = Field(default_factory=dict)
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
    out of all sites, `groups` are further groups of elements by name. `radii` are those of ions, such as `Sn+2`, for
    tolerance factors. `repeat_elements` lets an element be on several
    sites of a crystal. `volume_scale` multiplies the predicted volumes.
    """

    prototype: Annotated[tuple[PrototypeSettings, ...], AfterValidator(_not_empty)]
    max_crystals: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    charge_neutral: bool = True
    repeat_elements: bool = False
    oxidation_states: StateSet = StateSet.ICSD
    states: dict[str, States] = Field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    radii: dict[str, PositiveFloat] = Field(default_factory=dict)
    groups: dict[str, Names] = Field(default_factory=dict)
    volume_scale: Annotated[float, Field(ge=0.5, le=2.0)] = 1.0
