"""One bad crystal costs one row: a batch that fails is halved until the culprits are alone; a NaN stays where it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from screening.crystals.batch import Crystals
from screening.errors import NativeError, ResourceError
from screening.predictions import FailureReason

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Predict = Callable[[Crystals], Float64]

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
    """Predictions of a batch, (crystals, columns), a row of NaN where there is none; and where and why, in order."""

    values: Float32
    troubles: list[Trouble]


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
    values = np.full((len(crystals), len(columns)), np.nan, np.float32)
    troubles: list[Trouble] = []
    _fill(predict, crystals, 0, values, troubles, shrink)
    _take_out(values, troubles, columns)
    return Outcome(values, sorted(troubles, key=lambda trouble: trouble.place))


def _fill(
    predict: Predict,
    crystals: Crystals,
    start: int,
    values: Float32,
    troubles: list[Trouble],
    shrink: Callable[[int], object],
) -> bool:
    """Predict into `values` from place `start` on; halve what fails. Tell whether every part fitted the memory."""
    try:
        found = predict(crystals)
        if found.shape != (len(crystals), values.shape[1]):
            raise ValueError(f"the model gave values of shape {found.shape} for {len(crystals)} crystals")
        # What float32 cannot hold becomes infinite, and is told as that.
        with np.errstate(over="ignore"):
            values[start : start + len(crystals)] = found
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
    first = _fill(predict, crystals[:half], start, values, troubles, shrink)
    second = _fill(predict, crystals[half:], start + half, values, troubles, shrink)
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
