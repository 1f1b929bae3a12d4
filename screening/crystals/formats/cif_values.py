"""Values in CIF text: numbers with and without uncertainty, and why a block is refused."""

import re

from screening.crystals.crystal import Reason

# 1.23, 1.23(4), -.5e-3; what is not finite is a number here, so that it is refused as such.
_NUMBER = re.compile(
    r"([-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|nan|inf(?:inity)?))(?:\(\d+\))?", re.I | re.A
)


class Refused(Exception):
    """Why a block gives no crystal; becomes a rejection where id and source are known."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def unreadable(message: str) -> Refused:
    """The refusal of a block that does not say what it means."""
    return Refused(Reason.UNREADABLE, message)


def quoted(text: str | None) -> bool:
    """Whether a value stands in quotes."""
    return text is not None and text.startswith(("'", '"'))


def number_in(text: str) -> float | None:
    """The number in a CIF value, without its uncertainty; None when there is none."""
    match = _NUMBER.fullmatch(text.strip("'\""))
    return float(match[1]) if match else None
