"""The command line around all commands: which signals it heeds."""

import subprocess
import sys

import pytest

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
