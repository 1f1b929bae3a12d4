"""`screening report`: a run as a page to look at and to pass on."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from screening.cli.app import RESULTS, app
from screening.errors import InputError, permitted

if TYPE_CHECKING:
    from screening.report.write import Told

MOST_CARDS = 50
NAME = "report.html"
SUFFIXES = (".html", ".htm")


@app.command(rich_help_panel=RESULTS)
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, done or not, or a results.h5.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.html", help=f"The page to write; by default RUN/{NAME}."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="What you look for, as in `screening query`; may be repeated, then all must hold. By default the best "
            "1 % by --by, no fewer than --top and at most 100,000.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=MOST_CARDS, help="Draw so many candidates, the best by --by.")] = 12,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Lowest first: a column, or arithmetic on some; by default the formation energy."
        ),
    ] = None,
    descending: Annotated[bool, typer.Option("--descending", help="Highest first.")] = False,
    title: Annotated[str | None, typer.Option(help="The heading; by default the name of the folder.")] = None,
    packed: Annotated[
        Path | None, typer.Option("--input", metavar="FILE.h5", help="The packed input, if it was moved.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless it fails.")] = False,
) -> None:
    """Write a page about a run: what was screened, what was found, what failed, how it ran, where it comes from.

    One HTML file that loads nothing from anywhere and opens in any browser. A run that is not done can be reported
    too; then the page says how many rows are missing. The same results give the same page.

    - `screening report runs/first -o first.html`

    - `screening report runs/first --where "band_gap > 1.5 AND NOT elements HAS ANY 'Pb','Cd'" --top 24`

    - `screening report runs/first --by bulk_modulus --descending`
    """
    from screening.report.write import write_report

    if descending and by is None:
        raise InputError("--descending: says how --by puts crystals in order; name a column with --by")
    with permitted(run):
        path = output or (run if run.is_dir() else run.parent) / NAME
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: a report is a page; give it a name that ends in .html")
    if packed is not None and not packed.exists():
        raise InputError(f"{packed}: there is no such file; --input names the packed input of the run")
    start = time.monotonic()
    told = write_report(run, path, where=where or (), by=by, descending=descending, top=top, title=title, packed=packed)
    if not quiet:
        _print(told, time.monotonic() - start)


def _print(told: "Told", seconds: float) -> None:
    if told.missing:
        print(f"screening: this run is not done, {told.missing:,} rows are missing", file=sys.stderr)
    if not told.drawn:
        cure = "say where it is with --input"
        print(f"screening: the packed input is not there, so no crystals are drawn; {cure}", file=sys.stderr)
    print(f"{told.predicted:,} predicted crystals, {told.wanted:,} asked for: {told.words}")
    print(f"{told.path}, {told.size / 1e6:,.1f} MB in {seconds:.1f} s; open it in a browser")
