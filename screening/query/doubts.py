"""Predicted crystals that a model may know nothing about: how many, and the condition that leaves them out."""

from collections.abc import Iterator

from screening.query.fields import UNSEEN
from screening.query.query import Query
from screening.store.read import Results

# The roomiest solid of an element is caesium, 117 angstrom^3 an atom.
ROOMY = 150


def doubts_of(results: Results) -> Iterator[str]:
    """Say of each kind of them, if there are any, how many are ok and what to add to a question to leave them out."""
    asked = Query(results)
    for condition, wanted, words in _KINDS:
        if UNSEEN in condition and UNSEEN not in asked.fields:
            continue
        if count := asked.where(condition).count():
            yield f'ok, but {words}: {count:,}; without them: --where "{wanted}"'


# The volume per atom is known of what is periodic in three directions, and missing fulfils no comparison.
_KINDS = (
    (f"{UNSEEN} > 0", f"{UNSEEN} = 0", "with elements that were not in training"),
    ("volume_per_atom IS NULL", "volume_per_atom > 0", "not periodic in all three directions"),
    (
        f"volume_per_atom > {ROOMY}",
        f"volume_per_atom <= {ROOMY}",
        f"with more than {ROOMY} angstrom^3 an atom (a vacuum, or a wrong unit of length?)",
    ),
)
