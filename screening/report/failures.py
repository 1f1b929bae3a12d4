"""Why crystals have no predictions: counts by reason, with the first of each as examples."""

from dataclasses import dataclass, field

import numpy as np

from screening.arrays import Int64
from screening.report.markup import Content, Markup, element
from screening.report.table import Cell, sortable_table
from screening.report.wording import share, whole
from screening.store.failures import CODE, SENTENCE
from screening.store.ids import text_of
from screening.store.read import Results
from screening.store.schema import Array, Status

EXAMPLES = 3
LONGEST_MESSAGE = 400


@dataclass
class Trouble:
    """One reason: the status of its rows, how many there are, and ids and messages of the first."""

    status: Status
    reason: str
    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


def troubles_of(results: Results) -> list[Trouble]:
    """Count rows by status and reason, the most frequent first."""
    found: dict[tuple[int, bytes], Trouble] = {}
    for first, columns in results.blocks(["status", CODE]):
        bad = np.flatnonzero(columns["status"] != Status.OK)
        if len(bad):
            _count(results, first + bad, columns["status"][bad], columns[CODE][bad], found)
    return sorted(found.values(), key=lambda one: (-one.count, one.status, one.reason))


def _count(
    results: Results, places: Int64, statuses: Array, reasons: Array, found: dict[tuple[int, bytes], Trouble]
) -> None:
    codes, kind = np.unique(reasons, return_inverse=True)
    pairs, firsts, counts = np.unique(kind * len(Status) + statuses, return_index=True, return_counts=True)
    for pair, first, count in zip(pairs.tolist(), firsts.tolist(), counts.tolist(), strict=True):
        code, status = bytes(codes[pair // len(Status)]), Status(pair % len(Status))
        one = found.setdefault((status, code), Trouble(status, code.decode("ascii", "replace")))
        one.count += count
        if len(one.examples) < EXAMPLES:
            same = np.flatnonzero(kind[first:] * len(Status) + statuses[first:] == pair)[: EXAMPLES - len(one.examples)]
            chosen = places[same + first]
            ids = text_of(results.take("id", chosen))
            one.examples += zip(ids, results.take(SENTENCE, chosen).tolist(), strict=True)


def trouble_table(troubles: list[Trouble], read: int) -> Markup:
    """The table of reasons."""
    if not troubles:
        return element("p", "Every crystal that was read has predictions.", class_="none")
    head = ["status", "reason", "crystals", "of all read", "for example"]
    return element("div", sortable_table(head, [_row(one, read) for one in troubles]), class_="troubles")


def _row(one: Trouble, read: int) -> list[Cell]:
    status = element("span", one.status.word, class_=f"status {one.status.word}")
    return [
        (None, status),
        (None, element("code", one.reason)),
        (one.count, whole(one.count)),
        (one.count / max(read, 1), share(one.count, read)),
        (None, element("ul", [_example(*example) for example in one.examples], class_="examples")),
    ]


def _example(id: str, message: str) -> Markup:
    told = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}…"
    # Messages begin with the id where they are shown without a table around them.
    told = told.removeprefix(f"{id}:").strip()
    parts: list[Content] = [element("code", id or "(no id)"), " ", told]
    return element("li", parts)
