"""One bad crystal costs one row: a batch that fails is halved until the culprits are alone; a NaN stays where it is.

A crystal that fails alone may be innocent, where another program has filled the GPU. So one that is known to be good
is tried next. If that fails too, the machine is at fault; else the crystal is tried once more, and that counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from screening.arrays import Float32, Float64
from screening.crystals.batch import Crystals
from screening.errors import NativeError, ResourceError
from screening.predictions import FailureReason
from screening.store.relaxed import RelaxedRows

Predict = Callable[[Crystals], Float64]
Found = TypeVar("Found")

LONGEST_MESSAGE = 1000


class BrokenWorkerError(Exception):
    """This process can predict nothing any more, whatever the crystal; it must be replaced."""


class UnwellMachineError(BrokenWorkerError):
    """Not even a crystal that is known to be good can be predicted here, so that no other is to blame."""


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


@dataclass(slots=True)
class Proof:
    """Crystals that are known to be good, and how to work on some; `fitted` atoms were worked on at once here."""

    work: Callable[[Crystals], object]
    good: Crystals
    fitted: int = 0

    def noted(self, crystals: Crystals) -> None:
        """Note that a batch fitted the memory."""
        self.fitted = max(self.fitted, len(crystals.numbers))

    def require(self, atoms: int, why: str) -> None:
        """Work on as many atoms as failed, but no more than have fitted here; raise if that fails too."""
        count = -(-min(atoms, self.fitted) // len(self.good.numbers))
        try:
            self.work(self.good.take(np.zeros(max(1, count), np.int64)))
        except FATAL:
            raise
        except Exception as error:
            raise UnwellMachineError(f"{why}; so does what is known to be good: {said(error)}") from error


def isolated(
    predict: Predict,
    crystals: Crystals,
    columns: Sequence[str],
    *,
    shrink: Callable[[int], object] = lambda atoms: None,
    proof: Proof | None = None,
) -> Outcome:
    """Predict a batch so that a crystal which raises an error or gives no number costs its own row only.

    `shrink` is told of so many atoms that fit where twice as many did not; not when one crystal alone is too large.
    With a `proof`, raises UnwellMachineError where the machine is at fault.
    """

    def checked(part: Crystals) -> Float64:
        found = predict(part)
        if found.shape != (len(part), len(columns)):
            raise ValueError(f"the model gave values of shape {found.shape} for {len(part)} crystals")
        return found

    values = np.full((len(crystals), len(columns)), np.nan, np.float32)
    parts, troubles = halved(checked, crystals, shrink=shrink, proof=proof)
    for start, found in parts:
        # What float32 cannot hold becomes infinite, and is told as that.
        with np.errstate(over="ignore"):
            values[start : start + len(found)] = found
    _take_out(values, troubles, columns)
    return Outcome(values, sorted(troubles, key=lambda trouble: trouble.place))


def halved(
    work: Callable[[Crystals], Found],
    crystals: Crystals,
    *,
    shrink: Callable[[int], object],
    proof: Proof | None = None,
) -> tuple[list[tuple[int, Found]], list[Trouble]]:
    """Do work on a batch, halving what fails until the culprits are alone.

    Gives what was found, each with the place of its first crystal, and the culprits, both in order.
    """
    halving = _Halving(work, shrink, proof)
    if len(crystals):
        halving.work_on(crystals, 0)
    return halving.parts, halving.troubles


@dataclass(slots=True)
class _Halving(Generic[Found]):
    """What is done to crystals, and what came of it so far."""

    work: Callable[[Crystals], Found]
    shrink: Callable[[int], object]
    proof: Proof | None
    parts: list[tuple[int, Found]] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    def work_on(self, crystals: Crystals, start: int) -> bool:
        """Work on crystals whose first has this place; halve what fails. Tell whether every part fitted the memory."""
        trouble, full = self._tried(crystals, start)
        if trouble is None:
            return True
        # Not while the error is handled: it holds on to what the batch had in memory.
        if len(crystals) == 1:
            self._judge(crystals, trouble, full)
            return not full
        half = len(crystals) // 2
        first = self.work_on(crystals[:half], start)
        second = self.work_on(crystals[half:], start + half)
        if full and first and second:
            atoms = int(crystals.atom_offsets[half] - crystals.atom_offsets[0])
            self.shrink(max(atoms, len(crystals.numbers) - atoms))
        return first and second

    def _tried(self, crystals: Crystals, start: int) -> tuple[Trouble | None, bool]:
        """Work on crystals; say what went wrong, if anything did, and whether it was for lack of memory."""
        try:
            self.parts.append((start, self.work(crystals)))
        except FATAL:
            raise
        except Exception as error:
            return Trouble(start, _reason(error), said(error)), is_out_of_memory(error)
        if self.proof is not None:
            self.proof.noted(crystals)
        return None, False

    def _judge(self, crystal: Crystals, trouble: Trouble, full: bool) -> None:
        """Decide whether a crystal that failed alone is to blame."""
        if self.proof is not None:
            self.proof.require(len(crystal.numbers) if full else 0, trouble.message)
            again, _ = self._tried(crystal, trouble.place)
            if again is None:
                return
            trouble = again
        self.troubles.append(trouble)


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
