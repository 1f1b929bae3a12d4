"""`screening submit`, `screening status`, `screening cancel`: a run as a job of Slurm."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from screening.cli.app import SCREENS, app
from screening.cli.tables import aligned
from screening.cli.telling import clock
from screening.errors import InputError, ResourceError

if TYPE_CHECKING:
    from screening.runs.status import RunStatus


@app.command(rich_help_panel=SCREENS)
def submit(
    file: Annotated[
        Path, typer.Argument(metavar="RUN.toml", help="What to screen: inputs, out, and settings of a screen.")
    ],
    profile: Annotated[Path, typer.Option("--profile", metavar="FILE.toml", help="What to ask Slurm for.")],
    nodes: Annotated[int | None, typer.Option(min=1, help="So many nodes, not those of the profile.")] = None,
    parts: Annotated[
        int | None, typer.Option(min=1, help="An array of so many jobs instead, a node each; merge them at the end.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting of RUN.toml; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script, and submit nothing.")] = False,
) -> None:
    """Submit a run to Slurm as one job that goes on by itself after its walltime, and after nodes are lost.

    The script depends on the two files and the options alone; files in slurm/ are examples of it.

    - `screening submit slurm/screen.toml --profile slurm/profiles/gpu.toml --nodes 4 --dry-run`

    - `screening submit run.toml --profile cpu.toml --parts 100`
    """
    from screening import config
    from screening.runs.slurm.batch import BatchRun, batch_script
    from screening.runs.slurm.profile import load_profile

    if nodes is not None and parts is not None:
        raise InputError("--nodes and --parts: each part has a node of its own; give one of them")
    run, asked = config.load(BatchRun, file, overrides=overrides or ()), load_profile(profile)
    if dry_run:
        print(batch_script(run, asked, nodes=nodes, parts=parts), end="")
        return
    from screening.runs.slurm.submit import submit as submitted

    done = submitted(run, asked, nodes=nodes, parts=parts)
    if done.warning:
        print(f"screening: {done.warning}", file=sys.stderr)
    print(f"job {done.job} ({done.tag})")
    folder = shlex.quote(str(run.out))
    print(f"next: screening status {folder}")
    if parts is not None:
        print(f"      screening merge {folder}, when all parts are done")


@app.command(rich_help_panel=SCREENS)
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Tell how far a run is, who works on it, and what its jobs of Slurm are at.

    Reads the folder and asks Slurm's controller; needs no scheduler of Dask and no accounting of Slurm.
    """
    from screening.runs.status import status_of

    found = status_of(run)
    print(json.dumps(found.facts(), indent=2) if as_json else "\n".join(_lines(found)))


@app.command(rich_help_panel=SCREENS)
def cancel(run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]) -> None:
    """Cancel the jobs of a run, and stop a driver of it on this machine. What is done is kept."""
    from screening.runs.status import cancelled

    done = cancelled(run)
    if done.lines or not done.silence:
        print("\n".join(done.lines) or f"nothing of {run} is queued, and nobody works there")
    if done.silence:
        raise ResourceError(f"{done.silence}; give the same command again where Slurm answers")


def _lines(found: "RunStatus") -> Iterator[str]:
    yield f"{found.folder}: {found.word}"
    if found.rows is not None:
        share = f" ({found.done / found.rows:.1%})" if found.rows else ""
        yield f"  crystals  {found.done:,} of {found.rows:,}{share}, in {found.shards:,} shards"
    for word, count in found.statuses.items():
        of = "" if found.looked_at == found.done else f" of {found.looked_at:,} looked at"
        yield f"  {word:8}  {count:,}{of}"
    for driver in found.drivers:
        yield "  driver    " + driver.words
    if found.rate:
        left = "" if found.seconds_left is None else f", {clock(found.seconds_left)} left"
        yield f"  rate      {found.rate:,.1f} crystals/s{left}"
    if found.jobs:
        heads = ["job", "state", "nodes", "elapsed", "left", "why"]
        rows = [
            [
                job.shown,
                job.state.lower(),
                job.node_list or job.nodes,
                job.elapsed,
                job.left,
                job.hopeless or job.reason,
            ]
            for job in found.jobs
        ]
        yield from ("  " + line for line in aligned([heads, *rows]).splitlines())
    if found.silence:
        yield f"  {found.silence}"
