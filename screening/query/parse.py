"""Conditions as text: what SQL and OPTIMADE have in common, on columns that are there.

    band_gap > 1.5 AND formation_energy_per_atom < -0.5 AND elements HAS ALL 'Li','O'
    abs(band_gap - 0.8) < 0.1 AND NOT elements HAS ANY 'Pb','Cd' AND nelements BETWEEN 2 AND 4
    formula IN ('SrTiO3', 'BaTiO3') OR id LIKE 'mp-%' OR bulk_modulus IS NULL

Texts stand in single quotes. Double quotes hold the name of a column, or a text if no column is called so.
"""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn, TypeVar

from screening.crystals.crystal import Reason
from screening.crystals.elements import NUMBER_OF
from screening.crystals.formulas import conventional_formula
from screening.crystals.text import SURROGATES
from screening.errors import InputError
from screening.predictions import FailureReason
from screening.query.conditions import (
    ARITHMETIC,
    COMPARISONS,
    FUNCTIONS,
    All,
    Arithmetic,
    Comparison,
    Condition,
    FieldValue,
    Has,
    Literal,
    Matches,
    Missing,
    Not,
    OneOf,
    Value,
    any_of,
)
from screening.query.fields import ELEMENTS, ENDING, REASON, STATUS, Field, Kind, known_field, required_field
from screening.query.tokens import Token, tokens_of
from screening.store.ids import stored_id
from screening.store.schema import Ending, Status

Part = Condition | Value
T = TypeVar("T")

# Terms are worked out one inside the other, two calls each, and Python nests about a thousand calls.
MOST_TERMS = 300
# A sum of so many, and what may be around it.
DEEPEST = 350

# What the columns of few words can hold. Of those who were not relaxed, `relaxation` is missing.
WORDS: Mapping[Field, tuple[str, ...]] = MappingProxyType(
    {
        STATUS: tuple(status.word for status in Status),
        ENDING: tuple(ending.word for ending in Ending if ending is not Ending.NONE),
        REASON: (*Reason, *FailureReason),
    }
)

_KEYWORDS = frozenset(
    {"AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "IS", "NULL", "KNOWN", "UNKNOWN", "HAS", "ALL", "ANY", "ONLY"}
)


@dataclass(frozen=True, slots=True)
class ParsedCondition:
    """A condition, and the fields that it reads."""

    condition: Condition
    fields: frozenset[Field]


@dataclass(frozen=True, slots=True)
class ParsedNumber:
    """A number for each row, and the fields that it reads."""

    value: Value
    fields: frozenset[Field]


def parsed_condition(
    text: str,
    fields: Mapping[str, Field],
    *,
    where: str = "where",
    reasons: Callable[[], Collection[str]] = frozenset,
) -> ParsedCondition:
    """Understand a condition; an error says what is wrong with it, and begins with `where`.

    `reasons` gives those that the results hold; it is called if the condition names one that this version does not
    give, as a later one may have.
    """
    parser = _Parser(text, fields, where, reasons)
    found = parser.condition(parser.whole(parser.alternatives))
    return ParsedCondition(found, frozenset(parser.used))


def parsed_number(text: str, fields: Mapping[str, Field], *, where: str = "by") -> ParsedNumber:
    """Understand a number to rank by: a column, or arithmetic on columns."""
    parser = _Parser(text, fields, where)
    found = parser.number(parser.whole(parser.sum))
    return ParsedNumber(found, frozenset(parser.used))


def numbers_of(symbols: Iterable[str], where: str) -> tuple[int, ...]:
    """Turn symbols of elements into atomic numbers."""
    numbers = []
    for symbol in symbols:
        if symbol not in NUMBER_OF:
            near = difflib.get_close_matches(symbol.capitalize(), NUMBER_OF, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else "expected symbols such as Li and O"
            raise InputError(f"{where}: {symbol!r} is no element; {advice}")
        numbers.append(NUMBER_OF[symbol])
    return tuple(numbers)


class _Parser:
    """Descends once through the tokens; each method reads one level of the grammar and leaves what follows."""

    def __init__(
        self, text: str, fields: Mapping[str, Field], where: str, reasons: Callable[[], Collection[str]] = frozenset
    ) -> None:
        self.used: set[Field] = set()
        self._reasons = reasons
        self._text, self._fields, self._where = text, fields, where
        self._tokens = tokens_of(text, where)
        self._next = 0

    def whole(self, level: Callable[[], Part]) -> Part:
        try:
            found = level()
        except RecursionError:
            found = None
        if found is None or _depth(found) > DEEPEST:
            self._fail("is nested too deeply; use fewer brackets, signs and NOT")
        if self._token.kind != "end":
            self._expected("AND, OR or the end")
        return found

    # --- yes or no --------------------------------------------------------------------------------------------

    def alternatives(self) -> Part:
        return self._joined("OR", self._requirements, any_of)

    def _requirements(self) -> Part:
        return self._joined("AND", self._negation, All)

    def _joined(self, word: str, level: Callable[[], Part], join: Callable[[Sequence[Condition]], Condition]) -> Part:
        parts = [level()]
        while self._accept(word):
            parts.append(level())
        return parts[0] if len(parts) == 1 else join([self.condition(part) for part in parts])

    def _negation(self) -> Part:
        return Not(self.condition(self._negation())) if self._accept("NOT") else self._predicate()

    def _predicate(self) -> Part:
        left = self.sum()
        if self._token.kind == "sign" and self._token.text in COMPARISONS:
            sign = self._token.text
            self._next += 1
            return self._compared(sign, left, self.sum())
        if self._accept("IS"):
            return self._presence(self._value(left))
        if self._accept("HAS"):
            return self._elements(left)
        if self._accept("NOT"):
            return Not(self._membership(left) or self._expected("IN, BETWEEN or LIKE after NOT"))
        return self._membership(left) or left

    def _membership(self, left: Part) -> Condition | None:
        if self._accept("IN"):
            self._expect("(")
            choices = self._list(self.sum)
            self._expect(")")
            return _one_of([self._compared("=", left, choice) for choice in choices])
        if self._accept("BETWEEN"):
            low = self.sum()
            self._expect("AND")
            return All([self._compared(">=", left, low), self._compared("<=", left, self.sum())])
        return self._form(self._value(left)) if self._accept("LIKE") else None

    def _form(self, left: Value) -> Condition:
        form = self.sum()
        if left.kind != Kind.TEXT or not isinstance(form, Literal) or not isinstance(form.value, bytes):
            self._fail("compares something else than a text with a form in quotes; write id LIKE 'mp-%'")
        return Matches(left, form.value)

    def _presence(self, value: Value) -> Condition:
        negated = self._accept("NOT")
        if self._accept("KNOWN"):
            return Missing(value) if negated else Not(Missing(value))
        if not self._accept("NULL") and not self._accept("UNKNOWN"):
            self._expected("NULL or NOT NULL after IS")
        return Not(Missing(value)) if negated else Missing(value)

    def _elements(self, left: Part) -> Condition:
        if not isinstance(left, FieldValue) or left.field != ELEMENTS:
            self._fail("uses HAS with something else than elements; write elements HAS ALL 'Li','O'")
        which = next((word for word in ("ALL", "ANY", "ONLY") if self._accept(word)), "")
        numbers = numbers_of(self._list(self._symbol), self._where)
        if not which and len(numbers) > 1:
            self._fail("has a list after HAS; write HAS ALL, HAS ANY or HAS ONLY")
        return Has(which.lower() or "all", numbers)

    def _compared(self, sign: str, left: Part, right: Part) -> Condition:
        one, other = self._value(left), self._value(right)
        for value, beside in ((one, other), (other, one)):
            if isinstance(beside, FieldValue) and beside.field == ELEMENTS:
                return self._just(sign, value)
        if one.kind != other.kind:
            self._fail(f"compares {one.kind} with {other.kind}; a text stands in single quotes, a number in none")
        for value, beside in ((one, other), (other, one)):
            if isinstance(beside, FieldValue) and beside.field in WORDS and isinstance(value, Literal):
                self._require_word(beside.field, _text(value))
        return Comparison(sign, self._as_stored(sign, one, other), self._as_stored(sign, other, one))

    def _as_stored(self, sign: str, value: Value, other: Value) -> Value:
        """A text as the store has it, which shortens ids without end and spells formulas in one way."""
        if not isinstance(other, FieldValue) or not isinstance(value, Literal):
            return value
        if other.field.name == "id":
            return Literal(stored_id(_text(value)))
        if other.field.name == "formula" and sign in ("=", "<>"):
            formula = conventional_formula(_text(value))
            if formula is None:
                self._fail(f"compares formula with {_text(value)!r}, which is no formula; write one such as 'SrTiO3'")
            return Literal(formula.encode())
        return value

    def _just(self, sign: str, value: Value) -> Condition:
        if sign not in ("=", "<>") or not isinstance(value, Literal) or not isinstance(value.value, bytes):
            self._fail("compares elements; write elements = 'Li-O' or elements HAS ALL 'Li','O'")
        just = Has("just", numbers_of(_text(value).split("-"), self._where))
        return just if sign == "=" else Not(just)

    def _require_word(self, field: Field, word: str) -> None:
        if word in WORDS[field] or (field == REASON and word in self._reasons()):
            return
        near = difflib.get_close_matches(word.lower(), WORDS[field], n=1, cutoff=0.6)
        advice = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(WORDS[field])}"
        self._fail(f"compares {field.name} with {word!r}; {advice}")

    # --- numbers and texts ------------------------------------------------------------------------------------

    def sum(self) -> Part:
        return self._chain("+-", self._product)

    def _product(self) -> Part:
        return self._chain("*/%", self._signed)

    def _chain(self, signs: str, level: Callable[[], Part]) -> Part:
        left = level()
        first = self._next
        while self._token.kind == "sign" and self._token.text in signs:
            if self._next - first > MOST_TERMS:
                self._fail("has too many terms to add up; use fewer")
            work = ARITHMETIC[self._token.text]
            self._next += 1
            left = Arithmetic(work, (self.number(left), self.number(level())))
        return left

    def _signed(self) -> Part:
        if self._accept("+"):
            return self.number(self._signed())
        if not self._accept("-"):
            return self._atom()
        inner = self.number(self._signed())
        if isinstance(inner, Literal) and isinstance(inner.value, float):
            return Literal(-inner.value)
        return Arithmetic(ARITHMETIC["-"], (Literal(0.0), inner))

    def _atom(self) -> Part:
        token = self._token
        self._next += token.kind != "end"
        if token.kind == "number":
            return Literal(float(token.text))
        if token.kind in ("text", "quoted"):
            field = known_field(self._fields, token.text) if token.kind == "quoted" else None
            return Literal(token.text.encode("utf-8", SURROGATES)) if field is None else self._field(field)
        if token.kind == "sign" and token.text == "(":
            inner = self.alternatives()
            self._expect(")")
            return inner
        if token.kind == "name" and token.text.upper() not in _KEYWORDS:
            if self._accept("("):
                return self._call(token.text)
            return self._field(required_field(self._fields, token.text, self._where))
        self._next -= token.kind != "end"
        return self._expected("a column, a number or a text in quotes")

    def _call(self, name: str) -> Value:
        work = FUNCTIONS.get(name.lower())
        if work is None:
            self._fail(f"calls {name}, but there are only {', '.join(FUNCTIONS)}")
        inner = self.number(self.sum())
        self._expect(")")
        return Arithmetic(work, (inner,))

    def _field(self, field: Field) -> Value:
        if field.kind == Kind.SHOWN:
            self._fail(f"asks for {field.name}, {field.kind}; `id` and `reason` can be searched")
        self.used.add(field)
        return FieldValue(field)

    def _symbol(self) -> str:
        token = self._token
        if token.kind not in ("text", "quoted"):
            self._expected("a symbol in quotes: elements HAS ALL 'Li','O'")
        self._next += 1
        return token.text

    # --- kinds ------------------------------------------------------------------------------------------------

    def condition(self, part: Part) -> Condition:
        if isinstance(part, Value):
            self._fail(f"has {part.kind} where a yes or no is expected; compare it with something")
        return part

    def number(self, part: Part) -> Value:
        value = self._value(part)
        if value.kind != Kind.NUMBER:
            self._fail(f"has {value.kind} where a number is expected")
        return value

    def _value(self, part: Part) -> Value:
        if isinstance(part, Condition):
            self._fail("compares a yes or no; for 1 < a < 2 write a > 1 AND a < 2")
        return part

    # --- tokens -----------------------------------------------------------------------------------------------

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _list(self, item: Callable[[], T]) -> list[T]:
        items = [item()]
        while self._accept(","):
            items.append(item())
        return items

    def _accept(self, word: str) -> bool:
        found = self._token.kind in ("name", "sign") and self._token.text.upper() == word
        self._next += found
        return found

    def _expect(self, word: str) -> None:
        if not self._accept(word):
            self._expected(word)

    def _expected(self, what: str) -> NoReturn:
        place = f" at letter {self._token.place + 1}" if self._token.kind != "end" else ""
        raise InputError(f"{self._where}: {self._text!r} has {self._token}{place} where {what} is expected")

    def _fail(self, problem: str) -> NoReturn:
        raise InputError(f"{self._where}: {self._text!r} {problem}")


def _one_of(comparisons: Sequence[Condition]) -> Condition:
    """Whether one value is equal to any of some: at once, if these are known beforehand."""
    first = comparisons[0]
    values = [c.right.value for c in comparisons if isinstance(c, Comparison) and isinstance(c.right, Literal)]
    if isinstance(first, Comparison) and len(values) == len(comparisons):
        return OneOf(first.left, tuple(values))
    return any_of(comparisons)


def _depth(part: Part) -> int:
    """How many of its parts lie one inside the other; counted without calls that do."""
    depth, level = 0, [part]
    while level:
        depth += 1
        held = [value for one in level for value in vars(one).values()]
        level = [one for value in held for one in (value if isinstance(value, tuple | list) else (value,))]
        level = [one for one in level if isinstance(one, Condition | Value)]
    return depth


def _text(literal: Literal) -> str:
    assert isinstance(literal.value, bytes)
    return literal.value.decode("utf-8", SURROGATES)
