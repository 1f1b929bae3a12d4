"""What the reader asked for: which of the predicted crystals are wanted, and in what order they rank."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from screening.arrays import Bool, Float64, Int64
from screening.errors import InputError
from screening.predictions import Target
from screening.query.conditions import All, Block, Condition, FieldValue, Not
from screening.query.fields import Field, target_name
from screening.query.parse import ParsedNumber, parsed_condition, parsed_number
from screening.query.query import Query
from screening.report.wording import whole
from screening.store.read import Results
from screening.store.schema import Array, Status

# Without a condition, this share of the predicted crystals is wanted; no more than so many, no fewer than are shown.
BEST_SHARE = 0.01
BEST_MOST = 100_000
SHOWN = 12
USUAL_BY = "formation_energy_per_atom"
NOTHING = Not(All([]))


@dataclass(frozen=True)
class Wish:
    """Conditions as they were given, a number to rank by (None: the usual), and how many crystals to show."""

    where: Sequence[str] = ()
    by: str | None = None
    descending: bool = False
    top: int = SHOWN


@dataclass(frozen=True)
class Asked:
    """A wish as it applies to one store: `where` holds for the wanted rows, and `words` say so.

    `best` are the places of those to show, in their order, and `numbers` what they rank by: the column `ranked`, or ""
    if that is worked out of several.
    """

    where: tuple[str, ...]
    by: str
    descending: bool
    words: str
    condition: Condition
    fields: frozenset[Field]
    best: Int64
    numbers: Float64
    ranked: str

    def wanted(self, columns: Mapping[str, Array]) -> Bool:
        """Which rows are predicted and wanted; `columns` are the status and those of the fields."""
        block = Block(len(columns["status"]), columns)
        wanted: Bool = self.condition.of(block).yes & (columns["status"] == Status.OK)
        return wanted

    @property
    def datasets(self) -> set[str]:
        """The columns that `wanted` needs."""
        return {"status"} | {name for field in self.fields for name in field.datasets}


def asked_of(results: Results, wish: Wish, predicted: int) -> Asked:
    """Find out what a wish means for these results, of which so many rows are predicted."""
    query = Query(results).status(Status.OK.word)
    by = wish.by or usual_by(results.stamp.targets)
    where = tuple(wish.where)
    words = where[0] if len(where) == 1 else " AND ".join(f"({one})" for one in where)
    if not by:
        raise InputError("--by: these results have no targets; name a number to rank by, such as volume_per_atom")
    if not where:
        where, words = _best_share(query, by, wish, predicted)
    parsed = [parsed_condition(one, query.fields, where="--where", reasons=query.results.reasons) for one in where]
    for one in where:
        query = query.where(one)
    best = query.top(wish.top, by=by, descending=wish.descending).places()
    rank = parsed_number(by, query.fields, where="--by")
    return Asked(
        where=where,
        by=by,
        descending=wish.descending,
        words=words,
        # Without any condition, nothing could be ranked.
        condition=All([one.condition for one in parsed]) if parsed else NOTHING,
        fields=frozenset(field for one in parsed for field in one.fields),
        best=best,
        numbers=_numbers_at(results, rank, best).astype(np.float64),
        ranked=rank.value.field.dataset if isinstance(rank.value, FieldValue) else "",
    )


def usual_by(targets: Sequence[Target]) -> str:
    """What crystals rank by if nothing else is said: the formation energy, else the first quantity, else anything."""
    ordered = sorted(targets, key=lambda target: (target.name != USUAL_BY, target.kind != "regression"))
    if not ordered:
        return ""
    name = target_name(ordered[0])
    quoted = name.replace('"', '""')
    return name if name.isidentifier() else f'"{quoted}"'


def _best_share(query: Query, by: str, wish: Wish, predicted: int) -> tuple[tuple[str, ...], str]:
    """A condition that the best rows fulfil and no others, ties apart; and in words."""
    descending, share = wish.descending, math.ceil(BEST_SHARE * predicted)
    # In a small store, all that are shown.
    count = max(min(share, BEST_MOST), wish.top)
    places = query.top(count, by=by, descending=descending).places()
    words = f"the best {100 * BEST_SHARE:g} % by {by}" if count == share else f"the best {whole(count)} by {by}"
    if not len(places):
        return (), words
    # As text, a float32 reads back to the same bits.
    worst = str(_numbers_at(query.results, parsed_number(by, query.fields, where="--by"), places[-1:])[0])
    return (f"{by} {'>=' if descending else '<='} {worst}",), words


def _numbers_at(results: Results, rank: ParsedNumber, places: Int64) -> Array:
    """The numbers that rows rank by, at places in any order."""
    columns = {name: column_at(results, name, places) for field in rank.fields for name in field.datasets}
    found: Array = np.broadcast_to(rank.value.of(Block(len(places), columns)), (len(places),))
    return found


def column_at(results: Results, name: str, places: Int64) -> Array:
    """A column at places in any order."""
    order = np.argsort(places, kind="stable")
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return results.take(name, places[order])[back]
