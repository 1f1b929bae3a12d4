"""`screening doctor`: what this installation can do."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from screening.cli.app import INSTALLATION, app


@app.command(rich_help_panel=INSTALLATION)
def doctor(
    folder: Annotated[
        Path, typer.Option(help="A folder that results would go to: its disk and locks are tried.")
    ] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check what this installation can do, and say the cure for what is broken.

    Tells the native core's level, CUDA, devices, packages, HDF5 and file locks, Slurm, memory and disk. The exit code
    is not 0 when something is broken.
    """
    from screening import doctor as diagnosis

    found = diagnosis.checks(folder)
    diagnosis.report(found, sys.stdout, as_json=as_json)
    raise typer.Exit(diagnosis.exit_code(found))
