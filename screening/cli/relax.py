"""`screening relax`: move crystals to where a model says that no force is left."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from screening.cli.app import CRYSTALS, app
from screening.cli.progress import Moment, Show, shown
from screening.cli.telling import say, silent
from screening.crystals.elements import SYMBOLS
from screening.errors import InputError
from screening.pretrained.shipped import POTENTIAL, load_model, model_file
from screening.relaxation_limits import AT_ONCE, RelaxationLimits

if TYPE_CHECKING:
    from screening.crystals.batch import Crystals
    from screening.crystals.crystal import Crystal, Rejection
    from screening.crystals.read import ReadBatch
    from screening.files.listing import Take
    from screening.relaxation.relax import Relaxed

LIMITS = RelaxationLimits()
UNSEEN = "unseen_elements"
COLUMNS = ("id", "outcome", "steps", "energy", "energy_before", "force", "stress", UNSEEN, "reason", "message")
REJECTED = "rejected"


@app.command(rich_help_panel=CRYSTALS)
def relax(
    context: typer.Context,
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="A packed file, or anything that `screening pack` reads."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write: .extxyz or .jsonl, or one of these with .gz.")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="A model with forces: a file, the folder of a run, a shipped name."
        ),
    ] = POTENTIAL,
    force: Annotated[float, typer.Option(help="Relaxed is what has no force above this (eV/angstrom).")] = LIMITS.force,
    stress: Annotated[
        float, typer.Option(help="and no component of stress above this (eV/angstrom^3).")
    ] = LIMITS.stress,
    steps: Annotated[int, typer.Option(min=0, help="After so many steps a crystal has timed out.")] = LIMITS.steps,
    fixed_cells: Annotated[bool, typer.Option("--fixed-cells", help="Move atoms alone.")] = False,
    table: Annotated[
        Path | None, typer.Option("--table", metavar="FILE.csv", help="List how each crystal ended.")
    ] = None,
    atoms_at_once: Annotated[int, typer.Option(min=1, help="Relax crystals of so many atoms at once.")] = AT_ONCE,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that compute; by default all.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless it fails.")] = False,
) -> None:
    """Relax positions and cells of crystals with a model's forces and stress.

    Many crystals move at once, and each ends on its own: converged, timed out after so many steps, or diverged, which
    is when its energy or forces are no numbers, its volume is off by a factor of three, or an atom has left all its
    neighbours. All are written, in their order, with energy, forces and stress, but those that diverged without.
    What is refused when it is read is counted, and is a row of the table with the reason. Crystals with elements that
    the model was not trained on are counted too, and the table says how many each has. Crystals that are not
    periodic in all directions keep their cells. Models have forces that `screening train-forces` made. One is
    shipped, for bringing crystals near their minimum: `screening models sieve-forces` says what it is good for, and
    docs/forces.md how to train another.

    - `screening relax candidates.h5 -o relaxed.extxyz --table relaxed.csv`
    - `screening relax candidates.h5 -m runs/potential -o relaxed.extxyz`
    """
    from screening.crystals.write import write
    from screening.files.listing import listing
    from screening.models.potential_files import required_energy

    # Before torch, which takes seconds to load.
    kind = _required_format(output)
    limits = RelaxationLimits(force=force, stress=stress, steps=steps, cells=not fixed_cells)
    found = model_file(model)
    required_energy(found)
    _require_places([output, *([] if table is None else [table])], inputs)
    from screening.crystals.read import read_batches
    from screening.inference import usable_device
    from screening.relaxation.potential import Potential
    from screening.relaxation.relax import relax as relaxed

    loaded, card = load_model(found, device=str(usable_device(device)))
    started, outcomes = time.monotonic(), Counter[str]()
    tell = silent if quiet else say
    if card.limits:
        tell(f"{model}: {card.limits}")
    given, unseen = _Given(), _Unseen(card.elements)
    with (
        Potential(loaded, device=device, threads=threads) as potential,
        listing(table, COLUMNS) as take,
        shown(quiet=quiet) as show,
    ):
        moving = relaxed(potential, given.crystals(read_batches(inputs, workers=workers)), limits, atoms=atoms_at_once)
        told = _told(moving, given, unseen, outcomes, take, tell, show, context.obj.check)
        write((one.crystal for one in told), output, format=kind)
    if unseen.crystals:
        tell(unseen.words)
    if not quiet:
        seconds = time.monotonic() - started
        ends = ", ".join(f"{outcomes[name]:,} {name.replace('_', ' ')}" for name in sorted(outcomes))
        print(f"{outcomes.total():,} crystals in {seconds:.1f} s: {ends or 'none'}\n{output}")


def _required_format(output: Path) -> str:
    """What to write into a file of this name; refuse one that does not tell."""
    from screening.crystals.write import SUFFIXES, format_of_name

    kind = format_of_name(output.name)
    if kind is None:
        raise InputError(f"{output}: expected a name that ends in {', '.join(SUFFIXES)}, or one of these with .gz")
    return kind


def _require_places(written: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Refuse to write where nothing can be, or over what is read."""
    from screening.crystals.write import require_no_input
    from screening.files.whole import require_place

    for place in written:
        require_place(place)
        require_no_input(place, inputs, folders=True)


@dataclass(slots=True)
class _Given:
    """What is read: crystals, and the rejections between them, each with how many crystals came before it."""

    accepted: int = 0
    refused: "deque[tuple[int, Rejection]]" = field(default_factory=deque)

    def crystals(self, stream: "Iterable[ReadBatch]") -> "Iterator[Crystals]":
        for batch in stream:
            for k, (entry, one) in enumerate(zip(batch.rejected_entries, batch.rejections, strict=True)):
                self.refused.append((self.accepted + entry - k, one))
            self.accepted += len(batch.crystals)
            yield batch.crystals

    def refused_before(self, crystal: int) -> "Iterator[Rejection]":
        """Take the rejections that came before a crystal of this number, once."""
        while self.refused and self.refused[0][0] <= crystal:
            yield self.refused.popleft()[1]


class _Unseen:
    """Crystals with elements that a potential was not trained on: how many of all, and the first of them.

    Which elements are `known` is what its card says; where it does not, none are counted.
    """

    def __init__(self, known: Iterable[int] | None) -> None:
        self._known = None if known is None else frozenset(known)
        self._all, self._first = 0, ""
        self.crystals = 0

    def count(self, crystal: "Crystal") -> int | str:
        """Count such elements of one more crystal; nothing where the known ones are not."""
        if self._known is None:
            return ""
        foreign = sorted(set(crystal.numbers.tolist()) - self._known)
        self._all += 1
        if foreign:
            self._first = self._first or f"{crystal.id} ({', '.join(SYMBOLS[number] for number in foreign)})"
            self.crystals += 1
        return len(foreign)

    @property
    def words(self) -> str:
        """What there is to say of them."""
        return (
            f"{self.crystals:,} of {self._all:,} crystals have elements that the potential was not trained on, such as "
            f"{self._first}: forces there mean nothing"
        )


def _told(
    found: "Iterable[Relaxed]",
    given: _Given,
    unseen: "_Unseen",
    outcomes: Counter[str],
    take: "Take",
    tell: Callable[[str], None],
    show: Show,
    check: Callable[[], None],
) -> "Iterator[Relaxed]":
    """Count and list what passes, with what was refused in between, and show how far it is."""

    def refuse(before: int) -> None:
        for one in given.refused_before(before):
            if not outcomes[REJECTED]:
                tell(f"refused, the first: {one.message}")
            outcomes[REJECTED] += 1
            take((one.id, REJECTED, *[""] * 6, one.reason.value, one.message))

    for number, one in enumerate(found):
        check()
        refuse(number)
        outcomes[one.outcome.value] += 1
        numbers = one.energy, one.energy_before, one.force, one.stress
        take((one.crystal.id, one.outcome.value, one.steps, *map(repr, numbers), unseen.count(one.crystal), "", ""))
        ends = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(outcomes.items()))
        show(Moment(f"{outcomes.total():,} crystals: {ends}", outcomes.total(), None))
        yield one
    refuse(given.accepted)
