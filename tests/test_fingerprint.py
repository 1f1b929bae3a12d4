"""The fingerprint of packed crystals: the same for the same crystals, however they were packed, and for no others."""

import itertools
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import made_crystals

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.fingerprint import Fingerprint
from screening.crystals.packed import PackedCrystals
from screening.crystals.packed_writer import PackedWriter

CRYSTALS = made_crystals(12, seed=3)
REFUSED = [Rejection("ä", "a.cif", Reason.EMPTY, "ä: no atoms"), Rejection("b", "", Reason.DISORDERED, "")]


def fingerprint(crystals: list[Crystal], refused: list[Rejection] = REFUSED) -> str:
    found = Fingerprint()
    found.add(Crystals.of(crystals), refused)
    return found.hexdigest()


@given(st.lists(st.integers(0, 12), max_size=4), st.integers(0, 2))
def test_batches_do_not_matter(cuts: list[int], refused_first: int) -> None:
    found = Fingerprint()
    edges = [0, *sorted(cuts), 12]
    found.add(Crystals.of([]), REFUSED[:refused_first])
    for start, stop in itertools.pairwise(edges):
        found.add(Crystals.of(CRYSTALS)[start:stop])
    found.add(Crystals.of([]), REFUSED[refused_first:])
    assert found.hexdigest() == fingerprint(CRYSTALS)


CHANGES = {
    "id": {"id": "other"},
    "an atom": {"numbers": np.where(np.arange(len(CRYSTALS[4])) == 0, 5, CRYSTALS[4].numbers).astype(np.uint8)},
    "a position": {"positions": CRYSTALS[4].positions + 1e-9},
    "the lattice": {"lattice": CRYSTALS[4].lattice * 1.0000001},
    "periodicity": {"pbc": tuple(not p for p in CRYSTALS[4].pbc)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_crystal_counts(change: str) -> None:
    other = [*CRYSTALS[:4], replace(CRYSTALS[4], **CHANGES[change]), *CRYSTALS[5:]]  # type: ignore[arg-type]
    assert fingerprint(other) != fingerprint(CRYSTALS)


def test_order_and_refusals_count_but_neither_labels_nor_sources() -> None:
    whole = fingerprint(CRYSTALS)
    assert fingerprint(CRYSTALS[::-1]) != whole
    assert fingerprint(CRYSTALS, REFUSED[:1]) != whole
    assert fingerprint([replace(c, labels={}, source="elsewhere") for c in CRYSTALS]) == whole


def test_ids_do_not_run_together() -> None:
    def named(first: str, second: str) -> str:
        return fingerprint([replace(CRYSTALS[0], id=first), replace(CRYSTALS[0], id=second)])

    assert named("ab", "c") != named("a", "bc")


def test_packed_files_tell_theirs_and_older_ones_are_read_through(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    with PackedWriter(path) as writer:
        writer.append(Crystals.of(CRYSTALS[:5]), REFUSED[:1])
        writer.append(Crystals.of(CRYSTALS[5:]), REFUSED[1:])
    with PackedCrystals(path) as packed:
        assert packed.attributes["fingerprint"] == packed.fingerprint == fingerprint(CRYSTALS)
    with h5py.File(path, "r+") as file:
        del file.attrs["fingerprint"]
    with PackedCrystals(path) as packed:
        assert packed.fingerprint == fingerprint(CRYSTALS)
