"""The command line itself: its options before any command, errors as one line and an exit code, signals."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from screening.errors import InputError, ResourceError, ScreeningError, refusal
from screening.signals import MAY_BE_IGNORED, STOPPING

# What a user can mend by naming something else; other errors of the system are of the machine.
OF_NAMES = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)

# What commands are about, in the order in which people meet them.
PANELS = ("Crystals", "Models", "Screens", "Results", "This installation")
CRYSTALS, MODELS, SCREENS, RESULTS, INSTALLATION = PANELS


class _ByPanel(TyperGroup):
    """Lists commands by what they are about; modules are imported in another order."""

    def list_commands(self, ctx: Any) -> list[str]:
        def place(name: str) -> int:
            return PANELS.index(getattr(self.commands[name], "rich_help_panel", INSTALLATION))

        return sorted(super().list_commands(ctx), key=place)


app = typer.Typer(
    name="screening",
    cls=_ByPanel,
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
        self.raised = False
        self._polite = False
        for number in STOPPING:
            if number not in MAY_BE_IGNORED or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._received)
        sys.unraisablehook = self._told

    def check(self) -> None:
        """Raise when a signal came."""
        if self.number:
            self.raised = True
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
        _run(stop)
    except BaseException as error:
        if stop.raised:
            _leave(stop.number)
        if isinstance(error, ScreeningError):
            print(f"screening: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        if isinstance(error, OSError):
            print(f"screening: {_explained(error)}", file=sys.stderr)
            sys.exit(InputError.exit_code if isinstance(error, OF_NAMES) else ResourceError.exit_code)
        raise


def _leave(number: int) -> NoReturn:
    """End the process after a signal that was raised wherever the program was, without waiting for threads.

    It may have been in the middle of starting a thread, or of waiting for one. What was raised then comes out as an
    error about a lock, and Python takes the thread for ended and aborts the process, or waits for it for ever. What
    has to be done at the end is done by `with` in this program, not at exit.
    """
    with contextlib.suppress(OSError):
        print(f"screening: stopped by {signal.Signals(number).name}", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _run(stop: Stop) -> None:
    try:
        app(prog_name="screening", obj=stop)
    finally:
        try:
            sys.stdout.flush()
        except OSError as error:
            # Else Python would try once more, and tell of it in words of its own.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):
                raise ResourceError(f"what was found cannot be printed ({error.strerror or error})") from error


def _explained(error: OSError) -> str:
    """What no part of the program foresaw, in a line."""
    if not isinstance(error.filename, str):
        return error.strerror or str(error)
    if isinstance(error, PermissionError):
        return refusal(Path(error.filename))
    return f"{error.filename}: {error.strerror}"


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
