"""The command line itself: its options before any command, errors as one line and an exit code, signals."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Annotated

import typer

from screening.errors import ScreeningError
from screening.signals import MAY_BE_IGNORED, STOPPING

app = typer.Typer(
    name="screening",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Stopped(SystemExit):
    """Raised by a signal, to leave through every `with` on the way, so that half-written files and processes go."""


class Stop:
    """What to do about signals: raise at once, and again at the next safe place.

    Python swallows what is raised while it cleans up after an object, so that the first may be lost.
    """

    def __init__(self) -> None:
        self.number = 0
        self._polite = False
        for number in STOPPING:
            if number not in MAY_BE_IGNORED or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._received)
        sys.unraisablehook = self._told

    def check(self) -> None:
        """Raise when a signal came."""
        if self.number:
            raise Stopped(128 + self.number)

    @contextlib.contextmanager
    def asked(self) -> Iterator[Callable[[], bool]]:
        """Let the first signal be a question, answered by whoever asks the function given; the next one raises."""
        self._polite = True
        try:
            yield lambda: self.number != 0
        finally:
            self._polite = False

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self._polite:
            self._polite, self.number = False, number
            return
        for other in STOPPING:
            signal.signal(other, signal.SIG_IGN)
        self.number = number
        self.check()

    def _told(self, swallowed: "sys.UnraisableHookArgs") -> None:
        if not issubclass(swallowed.exc_type, Stopped):
            sys.__unraisablehook__(swallowed)


def main() -> None:
    """Run the command line; an error of ours is one line and its exit code, a signal 128 and its number."""
    stop = Stop()
    try:
        app(prog_name="screening", obj=stop)
    except ScreeningError as error:
        print(f"screening: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Stopped:
        print(f"screening: stopped by {signal.Signals(stop.number).name}", file=sys.stderr)
        raise


def _print_version(wanted: bool) -> None:
    if wanted:
        from screening.version import code_version

        print(f"screening {code_version()}")
        raise typer.Exit


@app.callback()
def screening(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Screen a million candidate crystals: read, graph, predict, store, query."""
