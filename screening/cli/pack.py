"""`screening pack`: check crystals and write them into one file."""

import contextlib
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from screening.cli.app import CRYSTALS, app
from screening.cli.progress import Moment, shown
from screening.errors import InputError

if TYPE_CHECKING:
    from screening.crystals.pack import Tally

SpaceGroups = Annotated[
    bool, typer.Option("--space-groups", help="Work out each crystal's space group, as the label spacegroup_number.")
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        min=1e-6,
        max=1.0,
        help="With --space-groups: how far atoms may be from symmetric (angstrom); 0.01 by default.",
    ),
]


class Output(StrEnum):
    """What `pack` can write."""

    H5 = "h5"
    EXTXYZ = "extxyz"
    CIF = "cif"
    POSCAR = "poscar"
    JSONL = "jsonl"


@app.command(rich_help_panel=CRYSTALS)
def pack(
    context: typer.Context,
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Files, folders and .zip or .tar archives, read in this order."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The file to write (with --to cif or poscar a new folder); an older one is replaced."
        ),
    ],
    to: Annotated[
        Output | None,
        typer.Option(help="Write this instead of what the output's name says (.h5, .extxyz, .jsonl)."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that parse; by default as many as the machine allows, up to 8, and 1 for small files.",
        ),
    ] = None,
    max_atoms: Annotated[int | None, typer.Option(min=1, help="Refuse crystals with more atoms.")] = None,
    min_distance: Annotated[
        float, typer.Option(min=0.0, max=10.0, help="Refuse crystals with atoms closer than this (angstrom).")
    ] = 0.5,
    min_volume_per_atom: Annotated[
        float, typer.Option(min=0.0, help="Refuse crystals with less volume per atom (cubic angstrom).")
    ] = 0.5,
    space_groups: SpaceGroups = False,
    symmetry_tolerance: Tolerance = None,
    rejections: Annotated[
        Path | None, typer.Option(help="List what was refused in this CSV file: id, source, reason, message.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless it fails.")] = False,
) -> None:
    """Check crystals and pack them into one file.

    Reads CIF, POSCAR, extended XYZ, JSON (pymatgen, ASE, JARVIS, OPTIMADE), CSV and Parquet tables, CGCNN folders,
    ASE databases and packed files, alone, gzipped, in folders or in archives. Every entry is either accepted or
    refused with a reason; both are counted, and a packed file holds both. Refusals are no failure.

    The output is there when it is whole: interrupted, or on a full disk, the older file stays or there is none.

    - `screening pack candidates/ more.zip -o crystals.h5`

    - `screening pack crystals.h5 -o small.extxyz --max-atoms 50`

    - `screening pack crystals.h5 -o symmetric.h5 --space-groups --symmetry-tolerance 0.1`
    """
    from screening.crystals.pack import known_bytes, readers
    from screening.crystals.pack import pack as packed
    from screening.crystals.validate import CrystalLimits

    start, tolerance = time.monotonic(), _tolerance(space_groups, symmetry_tolerance)
    total = known_bytes(inputs)
    with packing_progress(total, quiet=quiet) as show:

        def progress(tally: "Tally") -> None:
            context.obj.check()
            show(tally)

        tally = packed(
            inputs,
            output,
            to=None if to is None else str(to),
            limits=CrystalLimits(min_distance, min_volume_per_atom, max_atoms),
            workers=workers or readers(inputs, dear=space_groups),
            rejections=rejections,
            space_group_tolerance=tolerance,
            progress=progress,
        )
    if not quiet:
        print("\n".join(_summary(tally, output, time.monotonic() - start)))


def _tolerance(wanted: bool, given: float | None) -> float | None:
    """With what tolerance space groups are worked out, if they are."""
    from screening.crystals.symmetry import TOLERANCE

    if given is not None and not wanted:
        raise InputError("--symmetry-tolerance is for --space-groups; give both")
    return (given or TOLERANCE) if wanted else None


@contextlib.contextmanager
def packing_progress(total: int | None, *, quiet: bool) -> Iterator[Callable[["Tally"], None]]:
    """Show how far packing is. `total` is what the weights of all batches add up to, where that is known."""
    start = time.monotonic()
    with shown(quiet=quiet) as show:

        def update(tally: "Tally") -> None:
            rate = tally.read / max(time.monotonic() - start, 1e-9)
            words = f"{tally.read:,} crystals, {rate:,.0f}/s, {tally.rejected.total():,} refused"
            show(Moment(words, tally.weight, total))

        yield update


def _summary(tally: "Tally", output: Path, seconds: float) -> Iterator[str]:
    rate = tally.read / max(seconds, 1e-9)
    width = len(f"{tally.read:,}")
    yield f"read     {tally.read:{width},} crystals in {seconds:.1f} s ({rate:,.0f}/s)"
    size = f", {output.stat().st_size / 1e6:,.1f} MB" if output.is_file() else ""
    yield f"accepted {tally.accepted:{width},} with {tally.atoms:,} atoms, in {output}{size}"
    yield f"refused  {tally.rejected.total():{width},}"
    for reason, count in tally.rejected.most_common():
        first = tally.first[reason]
        yield f"  {reason} {count:,}, the first in {first.source}: {first.message}"
    if tally.missing:
        yield tally.missing
    if tally.passed_over:
        yield tally.passed_over
