"""`screening query`: the rows of a run that are wanted, as a table or as crystals."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from screening.cli.app import RESULTS, app
from screening.cli.tables import aligned
from screening.errors import InputError

if TYPE_CHECKING:
    from screening.query.query import Query

# Without --top, so many rows are printed; a file gets all.
PRINTED = 20


class Output(StrEnum):
    """What `query` can write."""

    CSV = "csv"
    PARQUET = "parquet"
    JSONL = "jsonl"
    EXTXYZ = "extxyz"
    CIF = "cif"
    POSCAR = "poscar"


@app.command(rich_help_panel=RESULTS)
def query(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, done or not, or a results.h5.")],
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="Keep rows for which this holds; may be repeated, then all must hold."),
    ] = None,
    elements_all: Annotated[str, typer.Option(metavar="Li,O", help="Keep crystals with all of these elements.")] = "",
    elements_any: Annotated[str, typer.Option(metavar="F,Cl", help="With at least one of these.")] = "",
    elements_none: Annotated[str, typer.Option(metavar="Pb,Cd", help="With none of these.")] = "",
    elements_only: Annotated[str, typer.Option(metavar="Li,O,P", help="With no other elements than these.")] = "",
    nelements: Annotated[str, typer.Option(metavar="2:4", help="With so many different elements; 3, 2:4 or 2:.")] = "",
    status: Annotated[
        str, typer.Option(metavar="WORDS", help="Of these statuses: ok (the usual), rejected, duplicate, failed, all.")
    ] = "",
    top: Annotated[int | None, typer.Option(min=1, help="Keep so many rows, the best by --by.")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Put the lowest of this first: a column, or arithmetic on some.")
    ] = None,
    descending: Annotated[bool, typer.Option("--descending", help="Put the highest first.")] = False,
    distinct: Annotated[
        bool, typer.Option("--distinct", help="Of crystals with one structure keep the best; needs --top.")
    ] = False,
    columns: Annotated[str, typer.Option(metavar="A,B", help="Show these columns.")] = "",
    unrelaxed: Annotated[
        bool, typer.Option("--unrelaxed", help="Write crystals as they came, where the run relaxed them.")
    ] = False,
    packed: Annotated[
        Path | None, typer.Option("--input", metavar="FILE.h5", help="The packed input, if it was moved.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to FILE.csv, .parquet, .jsonl or .extxyz, or to a new folder DIR/ of CIF files.",
        ),
    ] = None,
    to: Annotated[
        Output | None,
        typer.Option(help="Write this instead of what the output's name says; poscar: a folder of ID/POSCAR files."),
    ] = None,
) -> None:
    """Find crystals by their predictions, elements and status; rank them, and write them out.

    Conditions are those of SQL and OPTIMADE: = <> < <= > >=, AND, OR, NOT, IN, BETWEEN, LIKE, IS NULL, arithmetic, abs,
    sqrt, exp, ln, log10, `elements HAS ALL 'Li','O'`. What is missing fulfils no comparison. A run that is not done can
    be asked too; then the answer says how many rows are missing. A run that relaxed crystals gives relaxed ones.

    - `screening query RUN --where "band_gap > 1.5" --elements-all Li,O --top 100 --by formation_energy_per_atom`

    - `screening query RUN --top 50 --by "abs(band_gap - 0.8)" --elements-none Pb,Cd -o shortlist.extxyz`

    - `screening query RUN --top 50 --by formation_energy_per_atom --distinct -o for_dft/`

    - `screening query RUN --status failed,rejected --columns id,source,reason,message -o failures.csv`

    - `screening query RUN --top 50 --by formation_energy_per_atom --to poscar -o for_vasp`
    """
    from screening.query.export import export
    from screening.query.query import Query

    asked = Query(run, packed=packed)
    for condition in where or ():
        asked = asked.where(condition)
    asked = asked.elements(
        all=_listed(elements_all), any=_listed(elements_any), none=_listed(elements_none), only=_listed(elements_only)
    )
    asked = asked.nelements(*_range(nelements)) if nelements else asked
    asked = asked.status(*_listed(status)) if status else asked
    if descending and by is None:
        raise InputError("--descending: says how --by puts rows in order; name a column with --by")
    if to is not None and output is None:
        raise InputError("--to: says what to write; name a file or folder with --output")
    if distinct and top is None:
        raise InputError("--distinct: structures are compared one by one; say how many you want with --top")
    asked = asked.unrelaxed() if unrelaxed else asked
    asked = asked.distinct() if distinct else asked
    asked = asked.top(top, by=by, descending=descending).columns(*_listed(columns))
    if asked.results.missing:
        missing = f"{asked.results.missing:,} of {asked.results.expected:,} rows"
        print(f"screening: this run is not done, {missing} are missing", file=sys.stderr)
    if output is None:
        _print(asked, PRINTED if top is None else top)
    else:
        count = export(asked, output, to=None if to is None else str(to))
        print(f"{count:,} crystals in {output}")
    if asked.left_out():
        print(f"{asked.left_out():,} left out, which have the structure of a better one", file=sys.stderr)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _range(text: str) -> tuple[int, int]:
    """Read 3, 2:4, 2: or :4."""
    low, colon, high = text.partition(":")
    try:
        fewest = int(low) if low or not colon else 1
        return fewest, int(high) if high else 255 if colon else fewest
    except ValueError as error:
        raise InputError(f"--nelements: {text!r} is no range; expected a number, 2:4, 2: or :4") from error


def _print(asked: "Query", most: int) -> None:
    frame, count = asked.head(most)
    if count == 0:
        print("no crystal is like that", file=sys.stderr)
        return
    header = [f"{name}\n{_unit(asked, name)}".rstrip() for name in frame.columns]
    _print_table(header, [[_cell(value) for value in row] for row in frame.iter_rows()])
    if count > most:
        print(f"{most:,} of {count:,} crystals; --top N shows more, -o FILE writes all", file=sys.stderr)


def _unit(asked: "Query", name: str) -> str:
    unit = asked.fields[name].unit
    return "" if unit in ("1", "text") else unit


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    if not sys.stdout.isatty():
        # For pipes, every column in its full width.
        print(aligned([[name.replace("\n", " ") for name in header], *rows]))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    text = f"{value:.5g}" if isinstance(value, float) else " ".join(str(value).split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)
