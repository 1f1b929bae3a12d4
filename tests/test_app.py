"""The command line around all commands: which signals it heeds, and errors of the system as one line."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import screens
from made import made_batch
from shards import write_run

from screening.cli.app import PANELS
from screening.store.record import RESULTS

HEEDED = f"""
import signal, sys
sys.path[:0] = {sys.path!r}
for name in sys.argv[1:]:
    signal.signal(signal.Signals[name], signal.SIG_IGN)
from screening.cli.app import Stop
from screening.signals import STOPPING
stop = Stop()
print(*(number.name for number in STOPPING if signal.getsignal(number) == stop._received))
"""


@pytest.mark.parametrize(
    ("ignored", "heeded"),
    [
        ([], {"SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"}),
        (["SIGHUP"], {"SIGINT", "SIGTERM", "SIGUSR1"}),
        (["SIGINT"], {"SIGTERM", "SIGHUP", "SIGUSR1"}),
        (["SIGUSR1"], {"SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"}),
    ],
    ids=["in a terminal", "under nohup", "in the background of a script", "in a batch script"],
)
def test_what_is_ignored_when_a_command_starts_stays_so_but_for_the_warning_of_slurm(
    ignored: list[str], heeded: set[str]
) -> None:
    ran = subprocess.run([sys.executable, "-c", HEEDED, *ignored], capture_output=True, text=True, check=True)
    assert set(ran.stdout.split()) == heeded


# Stopped while a thread is at work that never ends, and again with an error about a lock on the way, as when a signal
# comes in the middle of a wait for a thread.
AT_WORK = f"""
import os, signal, sys, threading
sys.path[:0] = {sys.path!r}
from screening.cli.app import Stopped, app, main
@app.command()
def work(path: str, harm: bool = False) -> None:
    try:
        with open(path, "w") as file:
            file.write("half")
            threading.Thread(target=threading.Event().wait).start()
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait()
    except Stopped:
        if harm:
            raise RuntimeError("cannot release un-acquired lock") from None
        raise
main()
"""


@pytest.mark.parametrize("more", [[], ["--harm"]], ids=["a thread at work", "a lock in the way"])
def test_a_signal_ends_the_program_whatever_its_threads_do(tmp_path: Path, more: list[str]) -> None:
    words = [sys.executable, "-c", AT_WORK, "work", str(tmp_path / "file"), *more]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (143, "screening: stopped by SIGTERM\n")
    assert (tmp_path / "file").read_text() == "half"


# Gives each command in turn, and prints exit codes and errors.
BOUND = f"""
import io, json, sys
sys.path[:0] = {sys.path!r}
from contextlib import redirect_stderr
import screens
from screening.cli import main
screens.give_up_privilege()
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    with redirect_stderr(io.StringIO()) as errors:
        try:
            main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, errors.getvalue()]))
"""


def test_who_may_not_look_at_a_run_or_an_input_is_told_whose_it_is(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    run = write_run(private / "run", made_batch(6))
    packed, model = screens.packed_file(private / "c.h5", 6), screens.saved_model(tmp_path / "m.safetensors")
    open_file = screens.packed_file(tmp_path / "c.h5", 6)
    out = ["--out", str(tmp_path / "out"), "-m", str(model)]
    commands = [
        ["query", str(run)],
        ["query", str(run / RESULTS)],
        ["status", str(run)],
        ["cancel", str(run)],
        ["merge", str(run)],
        ["report", str(run)],
        ["screen", str(packed), *out],
        ["screen", str(open_file), "--out", str(run), "-m", str(model)],
        ["screen", str(open_file), "--out", str(tmp_path / "out"), "-m", str(private / "m.safetensors")],
        ["pack", str(packed), "-o", str(tmp_path / "x.h5")],
    ]
    private.chmod(0)
    try:
        ran = subprocess.run(
            [sys.executable, "-c", BOUND, json.dumps(commands)], capture_output=True, text=True, check=True
        )
    finally:
        private.chmod(0o700)
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    cure = f"can open it with `chmod g+rX {private}`, and all that is in it with -R"
    who = f"{private} belongs to {private.owner()}, who {cure}\n"
    for words, (code, errors) in zip(commands, found, strict=True):
        assert (code, errors.count("\n"), errors.endswith(who)) == (2, 1, True), f"{words}: {errors}"


def test_what_cannot_be_printed_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", made_batch(6))
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; from screening.cli import main; main()"]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run([*command, "query", str(run)], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (4, "screening: No space left on device\n")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "x.h5"), 2, "x.h5: No such file or directory"),
        (OSError(5, "Input/output error", "x.h5"), 4, "x.h5: Input/output error"),
        (OSError("odd"), 4, "odd"),
    ],
    ids=str,
)
def test_errors_of_the_system_that_nobody_foresaw_are_one_line(
    error: OSError, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**options: object) -> None:
        raise error

    # The package has something else of this name.
    module = import_module("screening.cli.app")
    monkeypatch.setattr(module, "Stop", lambda: SimpleNamespace(raised=False))
    monkeypatch.setattr(module, "app", fail)
    with pytest.raises(SystemExit) as end:
        module.main()
    assert (end.value.code, capsys.readouterr().err) == (code, f"screening: {said}\n")


def test_help_lists_commands_by_what_they_are_about() -> None:
    shown = subprocess.run([sys.executable, "-m", "screening", "--help"], capture_output=True, text=True, check=True)
    places = [shown.stdout.find(f"─ {panel} ─") for panel in PANELS]
    assert -1 not in places
    assert places == sorted(places)
    assert shown.stdout.find("│ pack ") < shown.stdout.find("│ train ") < shown.stdout.find("│ query ")
    assert "distill" not in shown.stdout
