"""What tells one set of crystals from another: a hash of ids, atoms and cells, and of what was refused.

Labels and sources are not in it: no prediction depends on them, and sources change with the folder that is packed.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Rejection
from screening.crystals.text import TextColumn

COLUMNS = {"numbers": "u1", "positions": "<f8", "lattice": "<f8", "pbc": "u1"}
TEXTS = ("ids", "rejected_ids", "reasons")


class Fingerprint:
    """A hash of crystals in order that does not depend on the batches they come in: one SHA-256 per column."""

    def __init__(self) -> None:
        texts = [f"{name} {what}" for name in TEXTS for what in ("utf8", "lengths")]
        self._parts = {name: hashlib.sha256() for name in (*COLUMNS, "atoms", *texts)}

    def add(self, crystals: Crystals, rejections: Sequence[Rejection] = ()) -> None:
        """Take in the next crystals and rejections."""
        for name, dtype in COLUMNS.items():
            self._add(name, getattr(crystals, name), dtype)
        self._add("atoms", crystals.atom_counts, "<i4")
        self._add_text("ids", crystals.ids)
        self._add_text("rejected_ids", [rejection.id for rejection in rejections])
        self._add_text("reasons", [str(rejection.reason) for rejection in rejections])

    def hexdigest(self) -> str:
        """Give the hash of all that was added."""
        lines = [f"{name} {part.hexdigest()}\n" for name, part in self._parts.items()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _add(self, name: str, values: npt.ArrayLike, dtype: str) -> None:
        self._parts[name].update(np.ascontiguousarray(values, dtype).tobytes())

    def _add_text(self, name: str, strings: Sequence[str]) -> None:
        text = TextColumn.of(strings)
        self._add(f"{name} utf8", text.data[text.offsets[0] : text.offsets[-1]], "u1")
        self._add(f"{name} lengths", np.diff(text.offsets), "<i8")
