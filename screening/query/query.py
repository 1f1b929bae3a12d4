"""Questions to the results of a run: which rows, in which order, with which columns.

    good = Query("runs/first").where("band_gap > 1.5 AND formation_energy_per_atom < -0.5").elements(all=["Li", "O"])
    best = good.top(100, by="formation_energy_per_atom")
    best.frame()          # a polars DataFrame
    best.structures()     # pymatgen Structures, with the predictions in their properties

A question reads the columns that it needs, block by block, and the other columns of the rows that remain.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from screening.arrays import Int64
from screening.crystals.crystal import Crystal
from screening.errors import InputError
from screening.query.conditions import All, Block, Comparison, Condition, FieldValue, Has, Literal, Not
from screening.query.distinct import Structures
from screening.query.fields import ELEMENTS, REASON, STATUS, Field, fields_of, required_field
from screening.query.frames import Frames
from screening.query.parse import ParsedNumber, numbers_of, parsed_condition, parsed_number
from screening.query.pick import picked_crystals
from screening.query.ranking import Best
from screening.store.read import Results
from screening.store.schema import Array, Status

if TYPE_CHECKING:
    import polars
    from pymatgen.core import Molecule, Structure


FRAME_ROWS = 1 << 16


@dataclass(frozen=True)
class _Asked:
    """What was asked for so far."""

    conditions: tuple[Condition, ...] = ()
    fields: frozenset[Field] = frozenset()
    statuses: frozenset[Status] | None = None
    count: int | None = None
    by: ParsedNumber | None = None
    descending: bool = False
    columns: tuple[str, ...] = ()
    relaxed: bool = True
    distinct: bool = False


class Query:
    """A question to a run's results, merged or so far; each method gives a narrower question and changes nothing.

    `run` is a run folder or a `results.h5`; `packed` is the packed input, where it does not lie where the run says.
    Only crystals with status ok are found, unless `status` or a condition on `status` or `reason` says otherwise.
    """

    def __init__(self, run: Path | str | Results, *, packed: Path | None = None) -> None:
        self.results = run if isinstance(run, Results) else Results(run, packed=packed)
        stamp, known = self.results.stamp, self.results.record.known_elements
        self.fields = fields_of(stamp.targets, relaxing=stamp.relaxation is not None, known=known)
        self._asked = _Asked()
        self._found: Int64 | None = None
        self._left_out = 0

    # --- which rows -------------------------------------------------------------------------------------------

    def where(self, condition: str) -> "Query":
        """Keep rows for which a condition holds, such as `band_gap > 1.5 AND elements HAS ALL 'Li','O'`."""
        parsed = parsed_condition(condition, self.fields, reasons=self.results.reasons)
        return self._keeping(parsed.condition, parsed.fields)

    def elements(
        self, *, all: Iterable[str] = (), any: Iterable[str] = (), none: Iterable[str] = (), only: Iterable[str] = ()
    ) -> "Query":
        """Keep crystals that have all of some elements, any of others, none of a third kind, and only such."""
        asked = {"all": all, "any": any, "none": none, "only": only}
        numbers = {which: numbers_of(_symbols(which, symbols), which) for which, symbols in asked.items()}
        found: list[Condition] = [Has(which, numbers[which]) for which in ("all", "any", "only") if numbers[which]]
        if numbers["none"]:
            found.append(Not(Has("any", numbers["none"])))
        return self._keeping(All(found), {ELEMENTS}) if found else self

    def nelements(self, fewest: int, most: int | None = None) -> "Query":
        """Keep crystals of so many different elements; exactly so many without `most`."""
        most = fewest if most is None else most
        if not 0 <= fewest <= most:
            raise InputError(f"nelements: {fewest} to {most} holds no number; expected fewest <= most, such as 2, 4")
        field = self.fields["nelements"]
        bounds = (
            Comparison(">=", FieldValue(field), Literal(fewest)),
            Comparison("<=", FieldValue(field), Literal(most)),
        )
        return self._keeping(All(bounds), {field})

    def status(self, *words: str) -> "Query":
        """Look at rows of these statuses: ok, rejected, duplicate, failed, or all."""
        known = {status.word: status for status in Status}
        for word in words:
            if word not in known and word != "all":
                raise InputError(f"status: {word!r} is none; expected {', '.join(known)} or all")
        chosen = Status if "all" in words else [known[word] for word in words]
        return self._with(statuses=frozenset(chosen))

    def top(self, count: int | None, *, by: str | None = None, descending: bool = False) -> "Query":
        """Keep the first so many rows, by the lowest number (the highest if `descending`), ties by their place.

        `by` is a column or arithmetic on columns, such as `abs(band_gap - 0.8)`; rows without such a number are left
        out. Without `by`, rows stay in their order; without a count, all of them are put in order.
        """
        if count is not None and count < 1:
            raise InputError(f"top: expected at least 1 row, got {count}")
        return self._with(count=count, by=None if by is None else parsed_number(by, self.fields), descending=descending)

    def distinct(self) -> "Query":
        """Of crystals with one structure keep the first, so that `top` gives so many structures.

        They are compared as they are given, relaxed if the run did so, by pymatgen's StructureMatcher.
        """
        return self._with(distinct=True)

    def columns(self, *names: str) -> "Query":
        """Choose the columns of frames, and the labels of crystals, in this order."""
        chosen = tuple(required_field(self.fields, name, "columns").name for name in names)
        twice = next((name for k, name in enumerate(chosen) if name in chosen[:k]), None)
        if twice is not None:
            raise InputError(f"columns: {twice} is named twice; name each column once")
        return self._with(columns=chosen)

    def unrelaxed(self) -> "Query":
        """Give crystals as they came, where a run relaxed them."""
        return self._with(relaxed=False)

    # --- answers ----------------------------------------------------------------------------------------------

    def places(self) -> Int64:
        """The places of the rows in the results, best first; found once, however often they are asked for."""
        if self._found is None:
            self._found = self._distinct() if self._asked.distinct else self._first(None)[0]
        return self._found

    def count(self) -> int:
        """How many rows there are; without `distinct` their places are not kept."""
        known = self._found is not None or self._asked.distinct
        return len(self.places()) if known else self._first(0)[1]

    def left_out(self) -> int:
        """How many rows `distinct` left out, for they have the structure of one before them."""
        if self._asked.distinct:
            self.places()
        return self._left_out

    def head(self, rows: int) -> "tuple[polars.DataFrame, int]":
        """The first so many rows as a frame, and how many there are in all, of which no more are kept."""
        if self._asked.distinct:
            places, count = self.places()[:rows], self.count()
        else:
            places, count = self._first(rows)
        return next(self._frames().each(places, max(len(places), 1))), count

    def frames(self, rows: int = FRAME_ROWS) -> "Iterator[polars.DataFrame]":
        """The rows as polars frames of so many rows each, at least one."""
        yield from self._frames().each(self.places(), rows)

    def frame(self) -> "polars.DataFrame":
        """The rows as one polars DataFrame; what is missing is null."""
        places = self.places()
        return next(self._frames().each(places, max(len(places), 1)))

    def crystals(self) -> Iterator[Crystal]:
        """The rows as crystals of the packed input, relaxed if the run did so.

        The numbers of their columns are their labels, and there are no others.
        """
        places = self.places()
        return self._crystals_at(places, self._frames().labels(places))

    def structures(self) -> "list[Structure | Molecule]":
        """The rows as pymatgen structures, with the numbers of their columns in `properties`."""
        from screening.crystals.convert import crystal_to_pymatgen

        return [crystal_to_pymatgen(crystal) for crystal in self.crystals()]

    # --- how --------------------------------------------------------------------------------------------------

    def _distinct(self) -> Int64:
        """The places of the first so many structures, among the first rows, or twice as many as before."""
        wanted = self._asked.count
        if wanted is None:
            raise InputError("distinct: structures are compared one by one; say how many are wanted by `top`")
        met, kept, compared = Structures(), list[int](), 0
        every = self._with(count=None)
        while len(kept) < wanted:
            places, rows = every._first(max(wanted, 2 * compared))
            for place, crystal in zip(places[compared:], self._crystals_at(places[compared:], {}), strict=True):
                compared += 1
                if met.is_new(crystal):
                    kept.append(int(place))
                if len(kept) == wanted:
                    break
            if compared == rows:
                break
        self._left_out = compared - len(kept)
        return np.array(kept, np.int64)

    def _crystals_at(self, places: Int64, labels: Mapping[str, Sequence[float]]) -> Iterator[Crystal]:
        return picked_crystals(self.results, places, labels, relaxed=self._asked.relaxed)

    def _first(self, most: int | None) -> tuple[Int64, int]:
        """The places of the first so many rows, all of them without a number, and how many rows there are."""
        asked, total = self._asked, 0
        most = asked.count if most is None else most if asked.count is None else min(most, asked.count)
        best, in_order = Best(most, descending=asked.descending), [np.empty(0, np.int64)]
        for places, values in self._matches():
            if asked.by is not None:
                best.add(values, places)
                total += int(np.count_nonzero(~np.isnan(values)))
                continue
            in_order.append(places if most is None else places[: max(0, most - total)])
            total += len(places)
            if asked.count is not None and total >= asked.count:
                break
        found = np.concatenate(in_order) if asked.by is None else best.places()
        return found, total if asked.count is None else min(total, asked.count)

    def _matches(self) -> Iterator[tuple[Int64, Array]]:
        """Places of matching rows block by block, ascending, and the numbers to rank them by."""
        asked, statuses = self._asked, self._statuses()
        fields = asked.fields | (asked.by.fields if asked.by else set())
        names = {name for field in fields for name in field.datasets}
        condition = All(asked.conditions)
        for first, columns in self.results.blocks(sorted(names | {"status"})):
            rows = len(columns["status"])
            block = Block(rows, columns)
            yes = condition.of(block).yes
            if statuses:
                yes = yes & np.isin(columns["status"], sorted(statuses))
            inside = np.flatnonzero(yes)
            values = asked.by.value.of(block) if asked.by else np.nan
            yield inside + first, np.broadcast_to(values, (rows,))[inside]

    def _statuses(self) -> frozenset[Status]:
        """The statuses to look at; empty for all."""
        if self._asked.statuses is not None:
            return self._asked.statuses if len(self._asked.statuses) < len(Status) else frozenset()
        return frozenset() if {STATUS, REASON} & self._asked.fields else frozenset({Status.OK})

    def _frames(self) -> Frames:
        return Frames(self.results, [self.fields[name] for name in self._asked.columns or self._usual_columns()])

    def _usual_columns(self) -> list[str]:
        targets = [name for name, field in self.fields.items() if field.dataset.startswith("targets/")]
        why = [] if self._statuses() == {Status.OK} else ["status", "reason", "message"]
        relaxing = ["relaxation", "relaxed_energy_per_atom", "volume_change"] if "relaxation" in self.fields else []
        return ["id", "formula", "nsites", *targets, *relaxing, *why, "row"]

    def _keeping(self, condition: Condition, fields: Iterable[Field]) -> "Query":
        asked = self._asked
        return self._with(conditions=(*asked.conditions, condition), fields=asked.fields | frozenset(fields))

    def _with(self, **changes: object) -> "Query":
        narrower = Query(self.results)
        narrower._asked = replace(self._asked, **changes)  # type: ignore[arg-type]
        return narrower


def _symbols(which: str, symbols: Iterable[str]) -> list[str]:
    if isinstance(symbols, str):
        raise InputError(f"elements: {which} is a list of symbols, got {symbols!r}; write [{symbols!r}]")
    return list(symbols)
