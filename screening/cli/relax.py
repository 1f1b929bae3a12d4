"""`screening relax`: move crystals to where a model says that no force is left."""

import csv
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from screening.cli.app import app
from screening.errors import InputError

if TYPE_CHECKING:
    from screening.relaxation.relax import Relaxed

PLAIN_INTERVAL_S = 10.0
FORMATS = {".extxyz": "extxyz", ".xyz": "extxyz", ".jsonl": "jsonl"}
COLUMNS = ("id", "outcome", "steps", "energy", "energy_before", "force", "stress")


@app.command()
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
        typer.Option("--model", "-m", metavar="MODEL", help="A model with forces: a file, or the folder of a run."),
    ],
    force: Annotated[float, typer.Option(help="Relaxed is what has no force above this (eV/angstrom).")] = 0.05,
    stress: Annotated[float, typer.Option(help="and no component of stress above this (eV/angstrom^3).")] = 0.003,
    steps: Annotated[int, typer.Option(min=0, help="After so many steps a crystal has timed out.")] = 500,
    fixed_cells: Annotated[bool, typer.Option("--fixed-cells", help="Move atoms alone.")] = False,
    table: Annotated[
        Path | None, typer.Option("--table", metavar="FILE.csv", help="List how each crystal ended.")
    ] = None,
    max_atoms: Annotated[int, typer.Option(min=1, help="Relax crystals of so many atoms at once.")] = 4_000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that compute; by default all.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless it fails.")] = False,
) -> None:
    """Relax positions and cells of crystals with a model's forces and stress.

    Many crystals move at once, and each ends on its own: converged, timed out after so many steps, or diverged, which
    is when its energy or forces are no numbers, its volume is off by a factor of three, or an atom has left all its
    neighbours. All are written, in their order, with energy, forces and stress, but those that diverged without.
    Crystals that are not periodic in all directions keep their cells. A model has forces when it takes all neighbours
    under an envelope and predicts an energy; docs/forces.md says how to train one.

    - `screening relax candidates.h5 -m runs/potential -o relaxed.extxyz --table relaxed.csv`
    """
    kind = FORMATS.get(Path(output.name.removesuffix(".gz")).suffix)
    if kind is None:
        raise InputError(f"{output}: expected a name that ends in {', '.join(FORMATS)}, or one of these with .gz")
    from screening.pretrained.shipped import load_model, model_file

    # Before torch, which takes seconds to load.
    found = model_file(model)
    from screening.crystals.write import write
    from screening.inference import usable_device
    from screening.relaxation.potential import Potential
    from screening.relaxation.relax import RelaxSettings
    from screening.relaxation.relax import relax as relaxed
    from screening.training.judge import read_crystals

    settings = RelaxSettings(force=force, stress=stress, steps=steps, cells=not fixed_cells, atoms=max_atoms)
    loaded, _ = load_model(found, device=str(usable_device(device)))
    started, outcomes = time.monotonic(), Counter[str]()
    say = _silent if quiet else _say
    rows: list[tuple[object, ...]] = []
    with Potential(loaded, device=device, threads=threads) as potential:
        stream = read_crystals(inputs, workers=workers, name="read", say=say)
        moving = _told(relaxed(potential, stream, settings), outcomes, rows, say, context.obj.check)
        count = write((one.crystal for one in moving), output, format=kind)
    if table is not None:
        _write_table(table, rows)
    if not quiet:
        seconds = time.monotonic() - started
        ends = ", ".join(f"{outcomes[name]:,} {name.replace('_', ' ')}" for name in sorted(outcomes))
        print(f"{count:,} crystals in {seconds:.1f} s: {ends or 'none'}\n{output}")


def _told(
    found: "Iterable[Relaxed]",
    outcomes: Counter[str],
    rows: list[tuple[object, ...]],
    say: Callable[[str], None],
    check: Callable[[], None],
) -> "Iterator[Relaxed]":
    """Count and list what passes, and now and then say how far it is."""
    told = time.monotonic()
    for one in found:
        check()
        outcomes[one.outcome.value] += 1
        numbers = one.energy, one.energy_before, one.force, one.stress
        rows.append((one.crystal.id, one.outcome.value, one.steps, *map(repr, numbers)))
        if time.monotonic() - told > PLAIN_INTERVAL_S:
            told = time.monotonic()
            say(f"{len(rows):,} crystals: " + ", ".join(f"{count:,} {name}" for name, count in outcomes.items()))
        yield one


def _write_table(path: Path, rows: list[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    pass
