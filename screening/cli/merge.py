"""`screening merge`: the shards of a run as one file."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from screening.cli.app import RESULTS, app
from screening.cli.progress import shown
from screening.cli.screen_progress import merging
from screening.cli.telling import announce


@app.command(rich_help_panel=RESULTS)
def merge(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, all of whose shards are done.")],
    packed: Annotated[
        Path | None, typer.Option("--input", metavar="FILE.h5", help="The packed input, if it was moved.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless it fails.")] = False,
) -> None:
    """Merge the shards of a run into RUN/results.h5; `screening screen` does it at its end.

    Every shard is verified by its hash, its ids against the packed input. The shards stay, and the file is there when
    it is whole: interrupted, or on a full disk, the older one stays or there is none. While somebody else works on the
    run, it is refused.
    """
    from screening.files.sink import sweep_parts_of
    from screening.runs.claim import Claim
    from screening.store.merge import merge as merged
    from screening.store.read import Results
    from screening.store.record import RELAXED, RESULTS, read_record

    start = time.monotonic()
    # What is no run gets no claim.
    read_record(run)
    with Claim(run, say=announce) as claim, shown(quiet=quiet) as show:
        for name in (RELAXED, RESULTS):
            sweep_parts_of(run / name)

        def progress(rows: int, total: int) -> None:
            context.obj.check()
            claim.check()
            show(merging(rows, total))

        path = merged(run, packed, progress=progress)
    if quiet:
        return
    with Results(path) as results:
        counts = results.counts()
    seconds = time.monotonic() - start
    width = len(f"{sum(counts.values()):,}")
    print(f"read      {sum(counts.values()):{width},} crystals, merged in {seconds:.1f} s")
    for status, count in counts.items():
        print(f"{status.word:9} {count:{width},}")
    print(f"{path}, {path.stat().st_size / 1e6:,.1f} MB; go on with `screening query {shlex.quote(str(run))}`")
