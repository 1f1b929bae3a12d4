"""`screening screen`: predict every crystal of the inputs, whatever happens in between."""

import shlex
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.cli.app import SCREENS, app
from screening.cli.event_log import EventLog
from screening.cli.screen_progress import Display
from screening.cli.telling import announce
from screening.errors import UnfinishedError

if TYPE_CHECKING:
    from screening.runs.config import ScreenConfig
    from screening.runs.listener import Progress
    from screening.runs.screen import Screened

LOG_INTERVAL_S = 10.0


@app.command(rich_help_panel=SCREENS)
def screen(
    context: typer.Context,
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="A packed file, or anything that `screening pack` reads."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the run.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="A model file, the folder of a run, a shipped model, or default."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE.toml", help="Settings; docs/screen.md lists them.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting, such as shards.most=50000; repeatable."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that predict; by default fits.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each of them; by default fits.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, or cuda: a process for each GPU.")] = None,
    relax: Annotated[
        str | None,
        typer.Option(
            metavar="POTENTIAL",
            help="Relax each crystal first, with this model of energies and forces; "
            "--set relax.force, .stress, .steps, .cells say how far.",
        ),
    ] = None,
    embeddings: Annotated[
        bool | None, typer.Option("--embeddings", help="Keep what the model made of each crystal, a vector a row.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="local:N|slurm|ADDRESS|FILE.json",
            help="Use so many workers of this machine, worker jobs of Slurm, or those of a Dask scheduler.",
        ),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="What to ask Slurm for, with --cluster slurm.")
    ] = None,
    part: Annotated[
        str | None, typer.Option(metavar="K/N", help="Predict only the K-th of N parts; `screening merge` joins them.")
    ] = None,
    requeue: Annotated[
        bool, typer.Option("--requeue", help="Stopped by SIGUSR1, put the Slurm job that this is into the queue again.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless it fails.")] = False,
    log: Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="Append each event as a line.")] = None,
) -> None:
    """Predict every crystal of the inputs with a model, on this machine or on the workers that --cluster names.

    The folder gets a file for each range of crystals that is done, and at the end `results.h5`. Whatever ends a run,
    the same command goes on where it stopped; a folder of another model or input is refused. A crystal that cannot be
    predicted, or kills its worker, is a row with a reason. Ctrl-C or SIGTERM lets what is at work finish and exits with
    code 75; a second one stops at once.

    - `screening screen candidates/ --out runs/first`

    With --relax, a crystal is predicted where a potential moves it, and `relaxed.h5` has it as it is there. One whose
    relaxation diverges is a row with a reason; one that did not get there in relax.steps steps is predicted as it is
    then, and its row says so.

    - `screening screen crystals.h5 --out runs/second --device cuda --log second.jsonl --quiet`

    - `screening screen crystals.h5 --out runs/relaxed --relax sieve-forces --set relax.steps=200`

    - `screening screen crystals.h5 --out runs/third --cluster slurm --profile slurm/profiles/cpu.toml`
    """
    from screening import config
    from screening.runs.config import ScreenConfig

    given = {"model": model, "workers": workers, "threads": threads, "device": device, "embeddings": embeddings}
    given |= {"relax.potential": relax}
    options = [config.setting(key, value) for key, value in given.items() if value is not None]
    settings = config.load(ScreenConfig, file, overrides=[*(overrides or ()), *options])
    last: deque[Progress] = deque(maxlen=1)
    with EventLog(log) as events, context.obj.asked() as stopping:
        screened = partial(_screened, inputs, out, settings, events, quiet=quiet, watch=last.append, stopping=stopping)
        try:
            done = screened(cluster, profile, part)
        except UnfinishedError:
            if requeue and context.obj.number == signal.SIGUSR1:
                from screening.runs.slurm.requeue import go_on_later

                go_on_later(last[0] if last else None, announce)
            raise
    if not quiet:
        print("\n".join(_summary(done)))


def _screened(
    inputs: Sequence[Path],
    out: Path,
    settings: "ScreenConfig",
    events: EventLog,
    cluster: str | None,
    profile: Path | None,
    part: str | None,
    *,
    quiet: bool,
    watch: Callable[["Progress"], object],
    stopping: Callable[[], bool],
) -> "Screened":
    from screening.crystals.pack import known_bytes
    from screening.runs.listener import Listener
    from screening.runs.part import Part
    from screening.runs.screen import screen as screened
    from screening.runs.slurm.profile import load_profile

    with Display(quiet=quiet, total_bytes=known_bytes(inputs)) as display:
        listener = Listener(
            show=_all(watch, display.show, _every(LOG_INTERVAL_S, partial(_tell_progress, events))),
            tell=events.tell,
            say=display.say,
            packed=display.packed,
            merged=display.merged,
            stopping=stopping,
        )
        ignore = [] if events.path is None else [events.path]
        return screened(
            inputs,
            out,
            settings,
            cluster=cluster,
            profile=None if profile is None else load_profile(profile),
            part=None if part is None else Part.of(part),
            listener=listener,
            ignore=ignore,
        )


def _all(*watches: Callable[["Progress"], object]) -> Callable[["Progress"], None]:
    def watch(progress: "Progress") -> None:
        for each in watches:
            each(progress)

    return watch


def _every(seconds: float, watch: Callable[["Progress"], object]) -> Callable[["Progress"], None]:
    told = time.monotonic()

    def seldom(progress: "Progress") -> None:
        nonlocal told
        if time.monotonic() - told >= seconds:
            told = time.monotonic()
            watch(progress)

    return seldom


def _tell_progress(events: EventLog, progress: "Progress") -> None:
    facts: dict[str, Any] = {
        "done": progress.done,
        "total": progress.total,
        "before": progress.before,
        "refused": progress.refused,
        "statuses": dict(progress.statuses),
        "rate": round(progress.rate, 1),
        "workers": progress.workers,
        "lost_workers": progress.lost_workers,
        "seconds_left": progress.seconds_left,
        "dashboard": progress.dashboard,
    }
    events.tell("progress", facts)


def _summary(done: "Screened") -> Iterator[str]:
    from screening.query.doubts import doubts_of
    from screening.store.read import Results

    progress, total = done.progress, sum(done.counts.values())
    if progress.rows:
        yield f"predicted {progress.rows:,} crystals in {progress.elapsed:.1f} s ({progress.rate:,.0f}/s)"
    else:
        yield "nothing was left to predict"
    width = len(f"{total:,}")
    for status, count in done.counts.items():
        yield f"  {status.word:9} {count:{width},}"
    yield f"  {'read':9} {total:{width},}"
    folder = shlex.quote(str(done.folder))
    if done.results is None:
        yield f"when all parts are done: screening merge {folder}"
        return
    if done.passed_over:
        yield done.passed_over
    refused = [status for status, count in done.counts.items() if count and status.word != "ok"]
    if refused:
        words = ",".join(status.word for status in refused)
        yield f"the reasons: screening query {folder} --status {words} --columns id,source,reason,message"
    with Results(done.results) as results:
        yield from doubts_of(results)
    yield f"results in {done.results}"
    if done.relaxed is not None:
        yield f"relaxed crystals in {done.relaxed}"
    yield f"next: screening query {folder} --top 10 --by {shlex.quote(done.targets[0].name)}"
    yield f"      screening report {folder} -o report.html"
