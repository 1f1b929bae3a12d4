"""Crystals as callers have them, one by one or many at a time, as batches."""

import os
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import cast

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal
from screening.errors import InputError

# So many single crystals are laid end to end.
TOGETHER = 1024


def together(crystals: Crystals | Iterable[Crystals | Crystal], *, taker: str) -> Iterator[Crystals]:
    """Crystals, many at a time, in order; `taker` is who refuses what is none."""
    if isinstance(crystals, Crystal):
        raise InputError(f"{taker} takes crystals, got the one {crystals.id!r}: one crystal goes in a list")
    if isinstance(crystals, str | os.PathLike):
        raise InputError(f"{taker} takes crystals, got {crystals!r}: screening.read_batches reads files")
    for kind, alike in groupby([crystals] if isinstance(crystals, Crystals) else crystals, type):
        if kind is Crystals:
            yield from cast(Iterator[Crystals], alike)
        elif kind is Crystal:
            single = cast(Iterator[Crystal], alike)
            while some := list(islice(single, TOGETHER)):
                yield Crystals.of(some)
        else:
            raise InputError(
                f"{taker} takes crystals, got {kind.__name__}: of a batch that was read they are .crystals, rejections "
                "are none, and crystal_from_pymatgen and crystal_from_ase take those of other packages over"
            )
