"""What is told on standard error: what standard output, which holds results, is not for."""

import sys


def say(text: str) -> None:
    """Tell it at once."""
    print(text, file=sys.stderr, flush=True)


def announce(text: str) -> None:
    """Tell something in the name of this program, among what other programs may say."""
    say(f"screening: {text}")


def silent(text: str) -> None:
    """Tell nothing."""


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
