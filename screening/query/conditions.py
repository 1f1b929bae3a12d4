"""Conditions on rows as trees that are worked out block by block, with SQL's three answers: yes, no and unknown.

What is missing (NaN, an empty text, the elements of a crystal that was refused) makes a comparison unknown, and so does
a number that is not finite; rows are kept where the answer is yes. A target is float32: compared with a number alone it
is compared as such, so that what prints as 0.1 equals 0.1. Arithmetic is float64.
"""

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from screening.arrays import Bool
from screening.query.fields import ELEMENTS, ENDING, STATUS, Field, Kind
from screening.store.rows import element_masks
from screening.store.schema import Array, Ending, Status

COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType(
    {
        "=": operator.eq,
        "<>": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }
)
ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType(
    {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": np.divide, "%": np.mod}
)
FUNCTIONS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {"abs": np.abs, "sqrt": np.sqrt, "exp": np.exp, "ln": np.log, "log10": np.log10}
)
# Who was not relaxed has no such word.
_WORDS: Mapping[Field, Array] = MappingProxyType(
    {
        STATUS: np.array([status.word.encode() for status in Status]),
        ENDING: np.array([b"" if ending is Ending.NONE else ending.word.encode() for ending in Ending]),
    }
)


@dataclass(frozen=True)
class Block:
    """Some consecutive rows: how many, and the columns that were read of them."""

    rows: int
    columns: Mapping[str, Array]


@dataclass(frozen=True)
class Truth:
    """For each row whether the answer is yes, and whether it is known at all; yes implies known."""

    yes: Bool
    known: Bool


class Value(ABC):
    """A number or a text for each row, or one for all."""

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """Which of the two."""

    @abstractmethod
    def of(self, block: Block) -> Any:
        """Work it out; what is missing is NaN, or empty."""


class Condition(ABC):
    """A question with a yes or no for each row."""

    @abstractmethod
    def of(self, block: Block) -> Truth:
        """Answer it."""


# --- values ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Literal(Value):
    """A number or a text of the question."""

    value: float | bytes

    @property
    def kind(self) -> Kind:
        return Kind.TEXT if isinstance(self.value, bytes) else Kind.NUMBER

    def of(self, block: Block) -> Any:
        return self.value


@dataclass(frozen=True)
class FieldValue(Value):
    """A column of the store."""

    field: Field

    @property
    def kind(self) -> Kind:
        return self.field.kind

    def of(self, block: Block) -> Array:
        column = self.field.of(block.columns)
        return np.asarray(_WORDS[self.field][column]) if self.field in _WORDS else column


@dataclass(frozen=True)
class Arithmetic(Value):
    """Two numbers joined by a sign, or one under a function."""

    work: Callable[..., Any]
    values: tuple[Value, ...]

    @property
    def kind(self) -> Kind:
        return Kind.NUMBER

    def of(self, block: Block) -> Any:
        with np.errstate(all="ignore"):
            found = np.asarray(self.work(*(np.asarray(value.of(block), np.float64) for value in self.values)))
        return np.where(np.isfinite(found), found, np.nan)


# --- conditions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison(Condition):
    """Two values of one kind compared."""

    sign: str
    left: Value
    right: Value

    def of(self, block: Block) -> Truth:
        left, right = self.left.of(block), self.right.of(block)
        known = ~(_missing(left) | _missing(right))
        with np.errstate(all="ignore"):
            yes = COMPARISONS[self.sign](left, right)
        return Truth(_spread(np.logical_and(yes, known), block), _spread(known, block))


@dataclass(frozen=True)
class OneOf(Condition):
    """Whether a value is one of some, of which there may be thousands."""

    value: Value
    choices: tuple[float | bytes, ...]

    def of(self, block: Block) -> Truth:
        values = np.asarray(self.value.of(block))
        known = _spread(np.logical_not(_missing(values)), block)
        with np.errstate(all="ignore"):
            choices = np.array(self.choices, np.float32 if values.dtype == np.float32 else None)
        return Truth(_spread(np.isin(values, choices), block) & known, known)


@dataclass(frozen=True)
class Matches(Condition):
    """Whether a text has a form: `%` stands for any letters, `_` for one."""

    value: Value
    form: bytes

    def of(self, block: Block) -> Truth:
        texts = self.value.of(block)
        known = _spread(np.logical_not(_missing(texts)), block)
        start = self.form[:-1]
        if self.form.endswith(b"%") and not set(start) & set(b"%_"):
            yes = np.strings.startswith(texts, start)
        else:
            expression = re.compile(_expression(self.form), re.DOTALL)
            yes = np.array([expression.fullmatch(text) is not None for text in np.atleast_1d(texts).tolist()], bool)
        return Truth(_spread(yes, block) & known, known)


@dataclass(frozen=True)
class Missing(Condition):
    """Whether a value is missing, which is always known."""

    value: Value

    def of(self, block: Block) -> Truth:
        return Truth(_spread(_missing(self.value.of(block)), block), np.ones(block.rows, bool))


@dataclass(frozen=True)
class Has(Condition):
    """Whether a crystal has `all` or `any` of some elements, `only` such, or is `just` of them; else unknown."""

    which: str
    numbers: tuple[int, ...]

    def of(self, block: Block) -> Truth:
        masks = block.columns[ELEMENTS.dataset]
        asked = element_masks(np.zeros(len(self.numbers), np.int64), np.array(self.numbers, np.int64), 1)[0]
        # Word by word: reductions over an axis of two are ten times slower.
        known = (masks[:, 0] | masks[:, 1]) != 0
        yes = known
        if self.which in ("all", "just"):
            yes = yes & ((masks[:, 0] & asked[0]) == asked[0]) & ((masks[:, 1] & asked[1]) == asked[1])
        if self.which in ("only", "just"):
            yes = yes & ((masks[:, 0] & ~asked[0] | masks[:, 1] & ~asked[1]) == 0)
        if self.which == "any":
            yes = yes & ((masks[:, 0] & asked[0] | masks[:, 1] & asked[1]) != 0)
        return Truth(yes, known)


@dataclass(frozen=True)
class Not(Condition):
    """The opposite; what is unknown stays so."""

    inner: Condition

    def of(self, block: Block) -> Truth:
        truth = self.inner.of(block)
        return Truth(truth.known & ~truth.yes, truth.known)


@dataclass(frozen=True)
class All(Condition):
    """Whether all answers are yes; a no decides, whatever is unknown."""

    inner: Sequence[Condition]

    def of(self, block: Block) -> Truth:
        truth = Truth(np.ones(block.rows, bool), np.ones(block.rows, bool))
        for condition in self.inner:
            other = condition.of(block)
            no = (truth.known & ~truth.yes) | (other.known & ~other.yes)
            truth = Truth(truth.yes & other.yes, (truth.known & other.known) | no)
        return truth


def any_of(conditions: Sequence[Condition]) -> Condition:
    """Whether some answer is yes."""
    return conditions[0] if len(conditions) == 1 else Not(All([Not(condition) for condition in conditions]))


def _missing(value: Any) -> Any:
    if isinstance(value, bytes):
        return np.bool_(False)
    array = np.asarray(value)
    if array.dtype.kind == "S":
        return array == b""
    if array.dtype == np.uint64:
        return (array[:, 0] | array[:, 1]) == 0
    return np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, bool)


def _spread(answer: Any, block: Block) -> Bool:
    spread: Bool = np.broadcast_to(np.asarray(answer, bool), (block.rows,))
    return spread


def _expression(form: bytes) -> bytes:
    signs = {b"%": b".*", b"_": rb"(?:[\x00-\x7f]|[\xc0-\xff][\x80-\xbf]*)"}
    return b"".join(signs.get(letter, re.escape(letter)) for letter in (form[k : k + 1] for k in range(len(form))))
