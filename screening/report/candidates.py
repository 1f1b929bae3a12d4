"""The top candidates: what results and the packed input know of them, ready to be shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from screening.arrays import Int64
from screening.crystals import symmetry
from screening.crystals.crystal import Crystal
from screening.crystals.elements import SYMBOLS
from screening.query.pick import picked_crystals
from screening.report.asked import Asked, column_at
from screening.store.ids import text_of
from screening.store.read import Results
from screening.store.schema import RELAXATION, Array, Ending, target_column

COLUMNS = ("id", "formula", "nsites", "elements", "volume_per_atom")


@dataclass(frozen=True, eq=False)
class Candidate:
    """One crystal of the shortlist: the number that it ranks by, all its predictions.

    `unseen` are elements that the model, or the potential, does not know; `force` is what a relaxation that timed out
    left, eV/angstrom. `crystal`, relaxed if the run did so, is None when its file is not there.
    """

    rank: int
    id: str
    formula: str
    sites: int
    volume_per_atom: float
    number: float
    values: dict[str, float]
    unseen: tuple[str, ...]
    crystal: Crystal | None
    force: float | None = None

    @property
    def anchor(self) -> str:
        """The name of its card in the page."""
        return f"candidate-{self.rank}"


def candidates_of(results: Results, asked: Asked, known: Sequence[int] | None, *, drawn: bool) -> list[Candidate]:
    """Read the shortlist, best first; crystals too if they are to be drawn."""
    places = asked.best
    columns = {
        name: column_at(results, name, places) for name in ("id", "formula", "nsites", "elements", "volume_per_atom")
    }
    targets = {t.name: column_at(results, target_column(t.name), places) for t in results.stamp.targets}
    crystals: Sequence[Crystal | None] = _crystals(results, places, targets) if drawn else [None] * len(places)
    forces = _forces_left(results, places)
    ids, formulas = text_of(columns["id"]), text_of(columns["formula"])
    return [
        Candidate(
            rank=k + 1,
            id=ids[k],
            formula=formulas[k],
            sites=int(columns["nsites"][k]),
            volume_per_atom=float(columns["volume_per_atom"][k]),
            number=float(asked.numbers[k]),
            values={name: float(values[k]) for name, values in targets.items()},
            unseen=_unseen(columns["elements"][k], known),
            crystal=crystals[k],
            force=forces[k],
        )
        for k in range(len(places))
    ]


def _crystals(results: Results, places: Int64, targets: Mapping[str, Array]) -> list[Crystal]:
    # Through text, so that 0.1 stays 0.1 and does not become 0.10000000149.
    labels = {name: [float(str(value)) for value in values] for name, values in targets.items()}
    return list(picked_crystals(results, places, labels))


def _forces_left(results: Results, places: Int64) -> list[float | None]:
    """The largest force on each crystal whose relaxation timed out."""
    if results.stamp.relaxation is None:
        return [None] * len(places)
    endings, forces = (column_at(results, name, places).tolist() for name in (RELAXATION, "remaining_force"))
    return [f if ending == Ending.TIMED_OUT else None for ending, f in zip(endings, forces, strict=True)]


def _unseen(mask: Array, known: Sequence[int] | None) -> tuple[str, ...]:
    if known is None:
        return ()
    bits = int(mask[0]) | int(mask[1]) << 64
    return tuple(SYMBOLS[z] for z in range(1, len(SYMBOLS)) if bits >> (z - 1) & 1 and z not in set(known))


def space_group(crystal: Crystal) -> tuple[str, int] | None:
    """The space group of a crystal, its symbol and number; None where there is none, or the cell is too odd to tell."""
    number = symmetry.space_group(crystal)
    if number == symmetry.NO_GROUP:
        return None
    import moyopy

    return moyopy.SpaceGroupType(number).hm_short, number
