"""Which shards hold all rows once: any listing, against a count row by row."""

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from screening.store.cover import cover, ranges_in_words

shards = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 15)), max_size=12)


@given(shards, st.integers(1, 50))
def test_a_cover_holds_every_row_that_some_shard_has_once(drawn: list[tuple[int, int]], rows: int) -> None:
    listed = sorted((start, start + length, Path(f"{start}-{start + length}")) for start, length in drawn)
    pieces, missing = cover(listed, rows)
    held = {row for start, stop, _ in listed for row in range(start, min(stop, rows))}
    assert [row for piece in pieces for row in range(piece.start, piece.stop)] == sorted(held)
    assert [row for start, stop in missing for row in range(start, stop)] == sorted(set(range(rows)) - held)
    ranges = {path: (start, stop) for start, stop, path in listed}
    for piece in pieces:
        start, stop = ranges[piece.path]
        assert start == piece.first
        assert start <= piece.start < piece.stop <= stop
        assert list(range(start, stop))[piece.inside] == list(range(piece.start, piece.stop))
    # Neighbouring gaps are one gap, so that messages are short.
    assert all(left[1] < right[0] for left, right in pairwise(missing))


def test_exact_tilings_take_whole_shards() -> None:
    listed = [(a, b, Path(f"{a}-{b}")) for a, b in ((0, 100), (50, 150), (100, 200))]
    assert [str(piece.path) for piece in cover(listed, 200)[0]] == ["0-100", "100-200"]


def test_ranges_in_words() -> None:
    assert ranges_in_words([(0, 10_000)]) == "rows 0 to 9,999"
    assert ranges_in_words([(5, 6), (8, 10)]) == "rows 5, 8 to 9"
    assert ranges_in_words([(k, k + 1) for k in range(0, 20, 2)]) == "rows 0, 2, 4 and 7 more ranges"
