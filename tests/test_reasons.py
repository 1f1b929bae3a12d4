"""Why rows are not ok, as columns over all rows: read where they are asked for, however many failed."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from made import made_batch
from shards import write_run

from screening.crystals.crystal import Reason, Rejection
from screening.errors import InputError
from screening.query.query import Query
from screening.store import parts
from screening.store.merge import merge
from screening.store.read import Results

COUNT, REFUSED = 90, 40
FAILED = {row: f"{row}: é{'x' * (row % 7)}" for row in (0, 1, 16, 17, 41, 42, 43, 88, 89)}
REJECTIONS = [
    Rejection(f"r{k}", "a.cif", Reason.TINY_VOLUME if k % 3 else Reason.DUPLICATE_ID, f"r{k}: {'no ' * (k % 5)}volume")
    for k in range(REFUSED)
]
SENTENCES = [FAILED.get(row) for row in range(COUNT)] + [one.message for one in REJECTIONS]
CODES = [b"non_finite_prediction" if row in FAILED else b"" for row in range(COUNT)]
CODES += [one.reason.encode() for one in REJECTIONS]


@pytest.fixture(scope="module", params=["merged", "shards"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_run(
        tmp_path_factory.mktemp("run") / "run", made_batch(COUNT), (17, 40, 88), rejections=REJECTIONS, failed=FAILED
    )
    if request.param == "merged":
        merge(made)
    return made


@pytest.mark.parametrize("near", [0, 3, 1 << 18])
def test_codes_and_sentences_are_those_of_their_rows(run: Path, monkeypatch: pytest.MonkeyPatch, near: int) -> None:
    monkeypatch.setattr(parts, "STATUS_BLOCK", 7)
    monkeypatch.setattr(parts, "NEAR_BYTES", near)
    monkeypatch.setattr(parts, "REFUSED_BLOCK", 6)
    chance = np.random.default_rng(near)
    with Results(run) as results:
        for share in (0.03, 0.3, 1.0):
            places = np.flatnonzero(chance.random(COUNT + REFUSED) < share)
            assert results.take("reason", places).tolist() == [CODES[place] for place in places]
            assert results.take("message", places).tolist() == [SENTENCES[place] for place in places]
        found = [code for _, columns in results.blocks(["reason"]) for code in columns["reason"].tolist()]
        assert found == CODES


def test_the_first_rows_come_with_how_many_there_are(run: Path) -> None:
    for query in (
        Query(run),
        Query(run).status("all"),
        Query(run).where("band_gap > 1").top(None, by="band_gap", descending=True),
        Query(run).top(30, by="band_gap"),
        Query(run).where("reason = 'tiny_volume'").top(5),
        Query(run).where("band_gap > 1e9"),
    ):
        frame, count = query.head(20)
        assert query._found is None, "no more are kept"
        assert count == query.count() == len(query.places())
        assert frame.equals(query.frame().head(20))


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("merged", [True, False])
def test_sentences_that_are_not_asked_for_take_no_memory(tmp_path: Path, merged: bool) -> None:
    refused = [Rejection(f"r{k}", "a.cif", Reason.TINY_VOLUME, f"{k}: {k:01000}") for k in range(20_000)]
    run = write_run(tmp_path / "run", made_batch(10), rejections=refused)
    if merged:
        merge(run)
    with Results(run) as results:
        query = Query(results).status("all").columns("id", "reason", "message")
        everything = 1_000 * len(refused)
        for narrow in (query.top(15), query.where("reason = 'tiny_volume'").top(3), query.where("row = -19000")):
            narrow.head(1)
            assert peak_of(partial(narrow.head, 20)) < everything // 2
        assert query.where("row = -19000").frame()["message"].to_list() == [refused[18_999].message]


def test_reasons_of_another_version_can_be_asked_for(tmp_path: Path) -> None:
    rejections = [replace(REJECTIONS[0], reason="melted")]
    made = write_run(tmp_path / "run", made_batch(3), (2,), rejections=rejections)
    assert Query(made).where("reason = 'melted'").count() == 1
    with pytest.raises(InputError, match="compares reason with 'meltd'; it is one of unreadable"):
        Query(made).where("reason = 'meltd'")
