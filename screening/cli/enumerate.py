"""`screening enumerate`: candidates without a database, by substitution into prototypes."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from screening.cli.app import CRYSTALS, app
from screening.cli.pack import Output, packing_progress
from screening.cli.progress import Moment, shown
from screening.cli.tables import aligned
from screening.errors import InputError

if TYPE_CHECKING:
    from screening.crystals.pack import Tally
    from screening.enumerate.enumeration import Enumeration, Funnel
    from screening.enumerate.prototype import Prototype

# Parameters of a prototype are worth a column when somebody looks for it.
FEW = 20


@app.command("enumerate", rich_help_panel=CRYSTALS)
def enumerate_(
    context: typer.Context,
    specification: Annotated[
        str | None,
        typer.Argument(metavar="[SPEC.toml]", help="Which prototypes and elements; with --list, a word to look for."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file to write (with --to cif or poscar a new folder); an older one is replaced."
        ),
    ] = None,
    to: Annotated[
        Output | None,
        typer.Option(help="Write this instead of what the output's name says (.h5, .extxyz, .jsonl)."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace a setting, such as max_crystals=1000; may be repeated."
        ),
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Only say how many crystals there are.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the prototypes and the groups of elements.")] = False,
    rejections: Annotated[
        Path | None, typer.Option(help="List what was refused in this CSV file: id, source, reason, message.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless it fails.")] = False,
) -> None:
    """Enumerate crystals: elements on the sites of prototypes.

    Keeps combinations with neutral charges, sets the volume from bond lengths fitted to known crystals, drops what is
    the same crystal twice, and writes one packed file, millions of crystals in constant memory. The same
    specification gives the same file.

    - `screening enumerate examples/perovskites.toml -o perovskites.h5`

    - `screening enumerate --list spinel`
    """
    if listing:
        print("\n".join(_listed(specification)))
        return
    if specification is None:
        raise InputError("name a specification such as examples/perovskites.toml, or give --list to see the prototypes")
    if (output is None) == (not count):
        raise InputError("name one output with -o, or give --count to only count")
    from screening import config
    from screening.crystals.pack import kind_of
    from screening.enumerate.enumeration import Enumeration, write_enumeration
    from screening.enumerate.spec import Specification

    if output is not None and to is None:
        kind_of(output)
    start = time.monotonic()
    settings = config.load(Specification, specification, overrides=overrides or ())
    enumeration = Enumeration(settings, specification)
    _count(enumeration, context.obj.check, quiet=quiet)
    if output is None:
        print("\n".join(funnel_table(enumeration.funnels)))
        return
    with packing_progress(enumeration.total, quiet=quiet) as show:

        def progress(tally: "Tally") -> None:
            context.obj.check()
            show(tally)

        tally = write_enumeration(
            enumeration, output, to=None if to is None else str(to), rejections=rejections, progress=progress
        )
    if not quiet:
        lines = [*funnel_table(enumeration.funnels), "", *_summary(tally, output, time.monotonic() - start)]
        print("\n".join(lines))


def _count(enumeration: "Enumeration", check: Callable[[], None], *, quiet: bool) -> None:
    size = sum(space.size for space in enumeration.spaces)
    with shown(quiet=quiet) as show:

        def progress(assignments: int) -> None:
            check()
            show(Moment(f"counted {assignments:,} of {size:,} assignments", assignments, size))

        enumeration.count(progress)


def funnel_table(funnels: Sequence["Funnel"]) -> Iterator[str]:
    """Lay out how many assignments were left after each test."""
    header = ("prototype", "assignments", "neutral", "in order", "tolerated", "distinct", "drawn")
    rows = [(f.label, f.assignments, f.neutral, f.ordered, f.tolerated, f.distinct, f.drawn) for f in funnels]
    if len(rows) > 1:
        rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    cells = [[row[0], *(f"{number:,}" for number in row[1:])] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for name, *numbers in [header, *cells]:
        yield "  ".join([name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))])


def _summary(tally: "Tally", output: Path, seconds: float) -> Iterator[str]:
    size = f", {output.stat().st_size / 1e6:,.1f} MB" if output.is_file() else ""
    crystals = "crystal" if tally.accepted == 1 else "crystals"
    yield f"wrote {tally.accepted:,} {crystals} with {tally.atoms:,} atoms to {output}{size}, in {seconds:.1f} s"
    for reason, number in tally.rejected.most_common():
        first = tally.first[reason]
        yield f"refused {number:,} as {reason}, the first: {first.message}"


def _listed(word: str | None) -> Iterator[str]:
    from screening.enumerate.catalogue import other_names, prototypes
    from screening.enumerate.chemistry import GROUPS

    found = [(p, other_names(p.name)) for p in prototypes()]
    wanted = (word or "").lower()
    found = [(p, also) for p, also in found if wanted in " ".join([p.name, p.title, p.formula, *also]).lower()]
    if not found:
        raise InputError(f"no prototype's name, title or example holds {word!r}; leave the word out to see all")
    detailed = len(found) <= FEW
    rows = [["prototype", "sites", "atoms", "group", "example", "what"]]
    rows += [[p.name, p.pattern, str(len(p)), str(p.group), p.formula, _what(p, also, detailed)] for p, also in found]
    yield aligned(rows)
    if word is None:
        yield ""
        yield aligned([["group", "elements"], *([name, " ".join(symbols)] for name, symbols in GROUPS.items())])


def _what(prototype: "Prototype", also: Sequence[str], detailed: bool) -> str:
    parts = [prototype.title, *([f"also {', '.join(also)}"] if also else [])]
    if detailed and prototype.parameters:
        parts.append("parameters " + ", ".join(f"{name} = {value:g}" for name, value in prototype.parameters.items()))
    return "; ".join(part for part in parts if part)
