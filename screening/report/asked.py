"""What the reader asked for: which of the predicted crystals are wanted, and in what order they rank."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from screening.errors import InputError
from screening.predictions import Target
from screening.query.conditions import All, Block, Condition, Not
from screening.query.fields import Field, target_name
from screening.query.parse import parsed_condition, parsed_number
from screening.query.query import Query
from screening.report.wording import whole
from screening.store.read import Results
from screening.store.schema import Array, Status

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

# Without a condition, this share of the predicted crystals is wanted, but no more than so many.
BEST_SHARE = 0.01
BEST_MOST = 100_000
USUAL_BY = "formation_energy_per_atom"
NOTHING = Not(All([]))


@dataclass(frozen=True)
class Wish:
    """Conditions as they were given, a number to rank by (None: the usual), and how many crystals to show."""

    where: Sequence[str] = ()
    by: str | None = None
    descending: bool = False
    top: int = 12


@dataclass(frozen=True)
class Asked:
    """A wish as it applies to one store: `where` holds for the wanted rows, and `words` say so.

    `best` are the places of those to show, in their order.
    """

    where: tuple[str, ...]
    by: str
    descending: bool
    words: str
    condition: Condition
    fields: frozenset[Field]
    best: Int64

    def wanted(self, columns: Mapping[str, Array]) -> Bool:
        """Which rows are predicted and wanted; `columns` are the status and those of the fields."""
        block = Block(len(columns["status"]), columns)
        wanted: Bool = self.condition.of(block).yes & (columns["status"] == Status.OK)
        return wanted

    @property
    def datasets(self) -> set[str]:
        """The columns that `wanted` needs."""
        return {"status"} | {field.dataset for field in self.fields if field.dataset}


def asked_of(results: Results, wish: Wish, predicted: int) -> Asked:
    """Find out what a wish means for these results, of which so many rows are predicted."""
    query = Query(results).status(Status.OK.word)
    by = wish.by or usual_by(results.stamp.targets)
    where = tuple(wish.where)
    words = where[0] if len(where) == 1 else " AND ".join(f"({one})" for one in where)
    if not by:
        raise InputError("--by: these results have no targets; name a number to rank by, such as volume_per_atom")
    if not where:
        where, words = _best_share(query, by, wish.descending, predicted)
    parsed = [parsed_condition(one, query.fields, where="--where") for one in where]
    for one in where:
        query = query.where(one)
    return Asked(
        where=where,
        by=by,
        descending=wish.descending,
        words=words,
        # Without any condition, nothing could be ranked.
        condition=All([one.condition for one in parsed]) if parsed else NOTHING,
        fields=frozenset(field for one in parsed for field in one.fields),
        best=query.top(wish.top, by=by, descending=wish.descending).places(),
    )


def usual_by(targets: Sequence[Target]) -> str:
    """What crystals rank by if nothing else is said: the formation energy, else the first quantity, else anything."""
    ordered = sorted(targets, key=lambda target: (target.name != USUAL_BY, target.kind != "regression"))
    if not ordered:
        return ""
    name = target_name(ordered[0])
    quoted = name.replace('"', '""')
    return name if name.isidentifier() else f'"{quoted}"'


def _best_share(query: Query, by: str, descending: bool, predicted: int) -> tuple[tuple[str, ...], str]:
    """A condition that the best rows fulfil and no others, ties apart; and in words."""
    share = math.ceil(BEST_SHARE * predicted)
    count = max(1, min(share, BEST_MOST))
    places = query.top(count, by=by, descending=descending).places()
    words = f"the best {100 * BEST_SHARE:g} % by {by}" if count >= share else f"the best {whole(count)} by {by}"
    if not len(places):
        return (), words
    worst = _number_at(query, by, int(places[-1]))
    return (f"{by} {'>=' if descending else '<='} {worst}",), words


def _number_at(query: Query, by: str, place: int) -> str:
    """The number of a row as text that reads back to the same bits."""
    parsed = parsed_number(by, query.fields, where="--by")
    here = np.array([place])
    columns = {f.dataset: query.results.take(f.dataset, here) for f in parsed.fields if f.dataset}
    return str(np.broadcast_to(parsed.value.of(Block(1, columns)), (1,))[0])
