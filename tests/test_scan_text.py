"""The native scanners of text against Python's float, and against the words of formats/words.py."""

import struct
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.crystals.elements import SYMBOLS
from screening.crystals.formats.words import element_in, is_element, number_in
from screening.ops import core
from screening.ops.text import scan_lines, scan_rows

pytestmark = pytest.mark.native

HARD_WORDS = """
1e999 -1e999 1e-999 -1e-999 0e999999999999 1e99999999999999999999 -0.0 -0 +5 ++5 +-5 . .. + - e5 .e5 5e 5e+ 1. -.5
nan NaN +nan -nan nan(1) inf Infinity -INFINITY infinit 0x10 1_0 1d 1.0d-3 1D+3 1dd3 1e+0005 9007199254740993
2.4703282292062327e-324 2.4703282292062328e-324 4.9e-324 2.2250738585072011e-308 1.7976931348623159e308
12345678 123456789 0.12345678 0.123456789 00000000000000000000000001 1234567.12345678901234567890
"""
HARD = HARD_WORDS.split()
LONG = ("1" * 400, "0." + "0" * 400 + "1", "1" + "0" * 308, "1" + "0" * 309, "0" * 500 + "1", "5" * 19, "5" * 20)


def scanned(words: list[str]) -> list[float | None]:
    """What the scanner reads each word as."""
    encoded = [word.encode() for word in words]
    ends = np.cumsum([len(word) + 1 for word in encoded])
    starts = np.concatenate([[0], ends[:-1]])
    _, values, faults = scan_rows(
        b"\n".join(encoded), starts, np.arange(len(words) + 1), np.zeros(1, np.int32), exact=True
    )
    return [None if fault >= 0 else value for value, fault in zip(values[0, :, 0].tolist(), faults, strict=True)]


def bits(value: float | None) -> object:
    """A number by its bits, all NaN alike."""
    return None if value is None else "nan" if value != value else struct.pack("d", value)


def assert_read_as_python_does(words: list[str]) -> None:
    for word, ours in zip(words, scanned(words), strict=True):
        assert bits(ours) == bits(number_in(word)), word


def test_hard_numbers() -> None:
    assert_read_as_python_does([*HARD, *LONG])


@given(
    st.lists(
        st.floats().map(repr) | st.floats().map("{:.20e}".format) | st.floats(-1e9, 1e9).map("{:.8f}".format),
        min_size=1,
    )
)
def test_numbers_of_every_size(words: list[str]) -> None:
    assert_read_as_python_does(words)


def test_words_that_look_like_numbers() -> None:
    rng = Random(0)
    assert_read_as_python_does(
        ["".join(rng.choices("0123456789.-+eEdDnaif_x", k=rng.randint(1, 12))) for _ in range(20_000)]
    )


def test_numbers_in_words_agree_with_float() -> None:
    for word in (*HARD, *LONG):
        if "_" not in word and number_in(word) is None:
            with pytest.raises(ValueError, match="could not convert"):
                float(word)
        elif "d" not in word.lower() and "_" not in word:
            assert bits(number_in(word)) == bits(float(word))


@pytest.mark.parametrize("suffix", ["", "1", "_pv", "3+", "/a1", "x"])
def test_elements(suffix: str) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b + suffix for a in letters.upper() + letters for b in ("", *letters)]
    words += [symbol.upper() + suffix for symbol in SYMBOLS[1:]] + [str(number) + suffix for number in range(130)]
    text = "\n".join(words).encode()
    starts = np.concatenate([[0], np.cumsum([len(word) + 1 for word in words])[:-1]])
    numbers, _, faults = scan_rows(text, starts, np.arange(len(words) + 1), np.array([-2], np.int32), exact=True)
    for word, number, fault in zip(words, numbers.tolist(), faults.tolist(), strict=True):
        assert (fault < 0) == is_element(word), word
        if fault < 0:
            assert number == (int(word) if word.isdigit() else element_in(word)), word


def test_rows_stop_at_the_first_fault_of_a_block() -> None:
    text = b"1 a 2\n3 b 4\n5 6\n7 c 8\n\t9 d\t10 \r\n11 e 12"
    starts, offsets = np.array([0, text.index(b"7")]), np.array([0, 3, 6])
    _, values, faults = scan_rows(text, starts, offsets, np.array([1, -1, 3], np.int32), exact=True)
    assert faults.tolist() == [2, -1]
    assert values.shape == (2, 6, 3)
    assert values[0, [0, 1, 3, 4, 5], 1].tolist() == [1, 3, 7, 9, 11]
    assert values[1, [0, 1, 3, 4, 5], 0].tolist() == [2, 4, 8, 10, 12]


@pytest.mark.parametrize(("exact", "fault"), [(True, 0), (False, -1)])
def test_a_word_too_many(exact: bool, fault: int) -> None:
    _, _, faults = scan_rows(b"1 2", np.array([0]), np.array([0, 1]), np.zeros(1, np.int32), exact=exact)
    assert faults.tolist() == [fault]


def test_what_is_no_number_changes_nothing() -> None:
    values, faults = np.ones((1, 1, 3)), np.empty(1, np.int64)
    rows = np.array([0]), np.array([0, 1]), np.zeros(1, np.int32)
    core.native.scan_rows(b"-x", *rows, exact=True, numbers=np.zeros(1, np.uint8), values=values, faults=faults)
    assert faults.tolist() == [0]
    assert values.tolist() == [[[1.0, 1.0, 1.0]]]


def test_rows_beyond_the_text_are_a_fault() -> None:
    _, _, faults = scan_rows(b"1\n2\n", np.array([0]), np.array([0, 4]), np.zeros(1, np.int32), exact=True)
    assert faults.tolist() == [2]


def test_nothing_to_scan() -> None:
    numbers, values, faults = scan_rows(
        b"", np.empty(0, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int32), exact=True
    )
    assert (numbers.shape, values.shape, faults.shape) == ((0,), (1, 0, 3), (0,))


@pytest.mark.parametrize(
    ("starts", "offsets", "targets", "message"),
    [
        ([9], [0, 1], [0], "starts outside the text"),
        ([-1], [0, 1], [0], "starts outside the text"),
        ([0, 0], [0, 2, 1], [0], "negative number of rows"),
        ([0], [0, 1, 2], [0], "blocks [+] 1 = 2 entries"),
        ([0], [0, 1], [-3], "target -3 of column 0"),
    ],
)
def test_arguments_that_do_not_fit(starts: list[int], offsets: list[int], targets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scan_rows(b"1\n2\n", np.array(starts), np.array(offsets), np.array(targets, np.int32), exact=True)


def test_lines_that_fit_an_outline() -> None:
    lines = [
        b"id=a x=1 note=no \n",
        b"id=bc x=-2e3 note=T1 \n",
        b"id=a x=1 note=T \n",
        b"id=a x=nan note=no \n",
        b"id= x=1 note=n \n",
    ]
    ends = np.cumsum([len(line) for line in lines])
    begins = np.concatenate([[0], ends[:-1]])
    kinds = np.array([-1, -3, -2], np.int32)
    fits, numbers, spans = scan_lines(b"".join(lines), begins, ends, [b"id=", b" x=", b" note=", b" \n"], kinds)
    assert fits.tolist() == [True, True, False, False, False]
    assert numbers[:2, 0].tolist() == [1, -2000]
    assert [b"".join(lines)[a:b] for a, b in spans[:2, 0].tolist()] == [b"a", b"bc"]


@pytest.mark.parametrize(
    ("literals", "kinds", "message"),
    [
        ([b"a", b""], [-3], "literal 1 is empty"),
        ([b"a"], [-3], "fields [+] 2 = 3 entries"),
        ([b"a", b"b"], [-4], "unknown kind -4"),
        ([b"a", b"b"], [0], "unknown kind 0"),
    ],
)
def test_outlines_that_make_no_sense(literals: list[bytes], kinds: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scan_lines(b"a1b", np.array([0]), np.array([3]), literals, np.array(kinds, np.int32))


def test_lines_outside_the_text() -> None:
    with pytest.raises(ValueError, match="line 0 lies outside"):
        scan_lines(b"a1b", np.array([0]), np.array([4]), [b"a", b"b"], np.array([-3], np.int32))
