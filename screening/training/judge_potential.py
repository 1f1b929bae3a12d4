"""How good a potential is on labelled crystals: errors of energy, forces and stress, by file and by element."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from screening.arrays import Bool, Float64
from screening.crystals.batch import Crystals
from screening.crystals.elements import NUMBER_OF, SYMBOLS
from screening.crystals.formulas import element_counts
from screening.errors import InputError
from screening.models.header import Card
from screening.models.model import CrystalModel
from screening.relaxation.potential import Potential, Surface
from screening.training.judge import read_crystals
from screening.training.mechanics import PLACES, STRESS, TERMS, forces_of, mechanical_label

Metrics = dict[str, dict[str, float | None]]


def evaluate_potential(
    model: CrystalModel,
    card: Card,
    inputs: Sequence[Path],
    *,
    source: str | None,
    workers: int,
    device: str,
    say: Callable[[str], None],
    check: Callable[[], None],
) -> dict[str, dict[str, Metrics]]:
    """Compare a potential with the energies, forces and stresses of files: `all`, by `file`, by `element`.

    Energies are above the references that the card has for `source`, or else for the file's name; where it has none
    they are compared with nothing. The error of a force counts for the element of its atom, those of energy and stress
    for every element of the crystal. `check` is called between batches of the input.
    """
    by_file, by_element = _Sums(len(inputs)), _Sums(len(SYMBOLS))
    with Potential(model, device=device) as potential:
        for f, path in enumerate(inputs):
            references = _references(card, path, source, say)
            for crystals in read_crystals([path], workers=workers, name=path.name, say=say):
                check()
                if len(crystals):
                    errors = _errors(crystals, potential(crystals), references)
                    by_file.add(errors, *_of_file(crystals, f, len(inputs)))
                    by_element.add(errors, *_of_elements(crystals))
    if not by_element.there.any():
        raise InputError("no crystal has an energy, forces or a stress to compare with")
    elements = np.flatnonzero(by_element.there).tolist()
    return {
        "all": {"all": by_file.metrics(list(range(len(inputs))))},
        "file": {str(path): by_file.metrics([f]) for f, path in enumerate(inputs)},
        "element": {SYMBOLS[z]: by_element.metrics([z]) for z in elements},
    }


class _Sums:
    """Sums of |error| and error^2, and how many numbers they are of, (3, groups, terms)."""

    def __init__(self, groups: int) -> None:
        self._sums = np.zeros((3, groups, len(TERMS)))

    def add(self, errors: Sequence[Float64], crystal_is_of: Bool, atom_is_of: Bool) -> None:
        """Count errors of crystals and atoms for the groups they are of, (groups, crystals) and (groups, atoms).

        Of each term a row a crystal, or of forces an atom; NaN where there is nothing to compare with.
        """
        for t, (term, rows) in enumerate(zip(TERMS, errors, strict=True)):
            ours = (atom_is_of if term == "force" else crystal_is_of).astype(np.float64)
            known = np.nan_to_num(rows)
            for kind, numbers in enumerate((np.abs(known), known**2, ~np.isnan(rows))):
                self._sums[kind, :, t] += ours @ numbers.sum(axis=1)

    @property
    def there(self) -> Bool:
        """Which groups have anything, (groups,)."""
        found: Bool = self._sums[2].any(axis=1)
        return found

    def metrics(self, groups: Sequence[int]) -> Metrics:
        """Of these groups together, by term; None where there is nothing to measure."""
        columns = zip(TERMS, self._sums[:, groups].sum(axis=1).T.tolist(), strict=True)
        return {
            term: {
                "count": round(count),
                "mae": absolute / count if count else None,
                "rmse": (square / count) ** 0.5 if count else None,
            }
            for term, (absolute, square, count) in columns
        }


def _errors(crystals: Crystals, surface: Surface, references: Float64) -> tuple[Float64, Float64, Float64]:
    """What the potential gives less the labels: energy (crystals, 1), forces (atoms, 3), stress (crystals, 6)."""
    counts = element_counts(crystals.numbers, crystals.atom_offsets)
    zero = np.where(counts > 0, counts * references, 0.0).sum(axis=1)
    labels = np.asarray(crystals.labels.get("energy", np.full(len(crystals), np.nan)), np.float64)
    energy = (surface.energy - (labels - zero)) / crystals.atom_counts
    wanted = np.stack([mechanical_label(crystals, target.name) for target in STRESS], axis=1)
    given = np.stack([surface.stress[:, i, j] for i, j in PLACES], axis=1)
    return energy[:, None], surface.forces - forces_of(crystals), given - wanted


def _of_file(crystals: Crystals, file: int, files: int) -> tuple[Bool, Bool]:
    mine = np.arange(files)[:, None] == file
    return np.repeat(mine, len(crystals), axis=1), np.repeat(mine, len(crystals.numbers), axis=1)


def _of_elements(crystals: Crystals) -> tuple[Bool, Bool]:
    counts = element_counts(crystals.numbers, crystals.atom_offsets)
    return counts.T > 0, np.arange(len(SYMBOLS))[:, None] == crystals.numbers


def _references(card: Card, path: Path, source: str | None, say: Callable[[str], None]) -> Float64:
    """Energies of atoms by number, eV; NaN of those that are not known."""
    sources = ", ".join(card.references) or "none"
    if source is not None and source not in card.references:
        raise InputError(f"{source}: the model has no references of this source; it has {sources}")
    known = card.references.get(path.name if source is None else source)
    if known is None:
        say(f"{path.name}: no source of the model, so its energies are compared with nothing; sources are {sources}")
    found = np.full(len(SYMBOLS), np.nan)
    for symbol, energy in (known or {}).items():
        found[NUMBER_OF[symbol]] = energy
    return found
