"""One bad crystal costs one row: a batch that fails is halved until the culprits are alone; a NaN stays where it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from screening.crystals.batch import Crystals
from screening.errors import NativeError, ResourceError
from screening.predictions import FailureReason
from screening.store.relaxed import RelaxedRows

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Predict = Callable[[Crystals], Float64]
Found = TypeVar("Found")

LONGEST_MESSAGE = 1000


class BrokenWorkerError(Exception):
    """This process can predict nothing any more, whatever the crystal; it must be replaced."""


# What every other crystal would meet too.
FATAL = (BrokenWorkerError, NativeError)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Which crystal of a batch has no prediction, and why."""

    place: int
    reason: FailureReason
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Predictions of a batch, (crystals, columns), a row of NaN where there is none; and where and why, in order.

    `relaxed` is what became of its crystals before, if they were relaxed.
    """

    values: Float32
    troubles: list[Trouble]
    relaxed: RelaxedRows | None = None


def isolated(
    predict: Predict,
    crystals: Crystals,
    columns: Sequence[str],
    *,
    shrink: Callable[[int], object] = lambda atoms: None,
) -> Outcome:
    """Predict a batch so that a crystal which raises an error or gives no number costs its own row only.

    `shrink` is told of so many atoms that fit where twice as many did not; not when one crystal alone is too large.
    """

    def checked(part: Crystals) -> Float64:
        found = predict(part)
        if found.shape != (len(part), len(columns)):
            raise ValueError(f"the model gave values of shape {found.shape} for {len(part)} crystals")
        return found

    values = np.full((len(crystals), len(columns)), np.nan, np.float32)
    parts, troubles = halved(checked, crystals, shrink=shrink)
    for start, found in parts:
        # What float32 cannot hold becomes infinite, and is told as that.
        with np.errstate(over="ignore"):
            values[start : start + len(found)] = found
    _take_out(values, troubles, columns)
    return Outcome(values, sorted(troubles, key=lambda trouble: trouble.place))


def halved(
    work: Callable[[Crystals], Found], crystals: Crystals, *, shrink: Callable[[int], object]
) -> tuple[list[tuple[int, Found]], list[Trouble]]:
    """Do work on a batch, halving what fails until the culprits are alone.

    Gives what was found, each with the place of its first crystal, and the culprits, both in order.
    """
    parts: list[tuple[int, Found]] = []
    troubles: list[Trouble] = []
    if len(crystals):
        _work(work, crystals, 0, parts, troubles, shrink)
    return parts, troubles


def _work(
    work: Callable[[Crystals], Found],
    crystals: Crystals,
    start: int,
    parts: list[tuple[int, Found]],
    troubles: list[Trouble],
    shrink: Callable[[int], object],
) -> bool:
    """Work on crystals whose first has this place; halve what fails. Tell whether every part fitted the memory."""
    try:
        parts.append((start, work(crystals)))
        return True
    except FATAL:
        raise
    except Exception as error:
        full = is_out_of_memory(error)
        if len(crystals) == 1:
            troubles.append(Trouble(start, _reason(error), said(error)))
            return not full
    # Not while the error is handled: it holds on to what the batch had in memory.
    half = len(crystals) // 2
    first = _work(work, crystals[:half], start, parts, troubles, shrink)
    second = _work(work, crystals[half:], start + half, parts, troubles, shrink)
    if full and first and second:
        atoms = int(crystals.atom_offsets[half] - crystals.atom_offsets[0])
        shrink(max(atoms, len(crystals.numbers) - atoms))
    return first and second


def _take_out(values: Float32, troubles: list[Trouble], columns: Sequence[str]) -> None:
    """Make troubles of rows with a value that is no finite number, unless they are trouble already."""
    known = {trouble.place for trouble in troubles}
    for place in np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist():
        if place in known:
            continue
        broken = [
            f"{values[place, c]} for {name}" for c, name in enumerate(columns) if not np.isfinite(values[place, c])
        ]
        troubles.append(Trouble(place, FailureReason.NON_FINITE_PREDICTION, f"predicted {', '.join(broken)}"))
        values[place] = np.nan


def _reason(error: Exception) -> FailureReason:
    return FailureReason.OUT_OF_MEMORY if is_out_of_memory(error) else FailureReason.MODEL_ERROR


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory, here or on a device, was too small for a batch."""
    kind: Any = type(error)
    # torch.OutOfMemoryError, by name, so that torch need not be loaded to ask.
    return isinstance(error, MemoryError | ResourceError) or any(k.__name__ == "OutOfMemoryError" for k in kind.mro())


def said(error: BaseException) -> str:
    """An error as one line of a table."""
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 3] + "..."
