"""What runs learn from, and who is told how they go."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from screening.errors import InputError
from screening.graphs import Neighbors
from screening.predictions import Target
from screening.training.labelled import LabelledGraphs

if TYPE_CHECKING:
    from screening.training.loop import Progress

Files = tuple[tuple[Path, ...], ...]


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told how a run goes: `say` a sentence now and then, `watch` every step. `check` may raise, to end it."""

    say: Callable[[str], None]
    watch: "Callable[[Progress], None]"
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What runs learn from: graphs of the files of each part, end to end; of which files, and how many each."""

    graphs: LabelledGraphs
    files: Files
    sizes: tuple[int, ...]

    def fitted(self, files: Files, neighbors: Neighbors, labels: tuple[Target, ...]) -> "Material":
        """The same crystals with the labels that a run asks for, which must be of these files and neighbours."""
        if self.files != files:
            raise InputError("these graphs are of other files than the configuration names; prepare its own")
        if self.graphs.neighbors != neighbors:
            raise InputError(
                f"the model needs {neighbors.words}, these graphs have {self.graphs.neighbors.words}; prepare others"
            )
        return replace(self, graphs=self.graphs.for_targets(labels))
