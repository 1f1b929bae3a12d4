"""Cutting JSON by brackets alone gives the values that a parser finds, in blocks of any size."""

import io
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.crystals.formats import json_stream
from screening.crystals.formats.chunk import CutShort
from screening.crystals.formats.json_stream import lines, outline, values

TEXT = st.text(alphabet='"\\{}[],: \n\té𝄞ab', max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
BLOCKS = st.integers(1, 40)


def cut(text: str, size: int, *, depth: int = 1) -> list[bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "BLOCK", size)
        return list(values(io.BytesIO(text.encode()), depth=depth))


@given(st.lists(JSON, max_size=6), BLOCKS, st.booleans())
def test_the_elements_of_a_list(content: list[Any], size: int, ascii_only: bool) -> None:
    text = " \n" + json.dumps(content, ensure_ascii=ascii_only) + "\n"
    assert [json.loads(value) for value in cut(text, size)] == content


@given(st.dictionaries(TEXT, JSON, max_size=6), BLOCKS)
def test_the_members_of_an_object(content: dict[str, Any], size: int) -> None:
    found = [json.loads(b"{" + member + b"}") for member in cut(json.dumps(content, indent=1), size)]
    assert found == [{key: value} for key, value in content.items()]


@given(st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=5), BLOCKS, st.sampled_from(["", " ", "\n", "\n\n"]))
def test_values_one_after_another(content: list[Any], size: int, between: str) -> None:
    text = between.join(json.dumps(value) for value in content)
    assert [json.loads(value) for value in cut(text, size, depth=0)] == content


@given(st.lists(JSON, min_size=1, max_size=4), st.data(), BLOCKS)
def test_a_list_cut_short_gives_whole_values_and_says_so(content: list[Any], data: st.DataObject, size: int) -> None:
    text = json.dumps(content)
    stop = data.draw(st.integers(1, len(text) - 1))
    found: list[bytes] = []
    with pytest.raises(CutShort):
        cut(text[:stop], size)
    with pytest.MonkeyPatch.context() as patch, suppress(CutShort):
        patch.setattr(json_stream, "BLOCK", size)
        for value in values(io.BytesIO(text[:stop].encode()), depth=1):
            found.append(value)
    # The last value may be a number that lost digits; every other is whole.
    assert [json.loads(value) for value in found[:-1]] == content[: max(0, len(found) - 1)]


def test_empty_places_between_commas_are_values_to_refuse() -> None:
    assert cut("[1,,2]", 3) == [b"1", b"", b"2"]
    assert cut("[]", 3) == cut(" [ ] ", 1) == []


def test_what_follows_the_list_is_a_value_to_refuse() -> None:
    assert cut("[1] 2", 1) == [b"1", b" 2"]
    assert cut("[1] \n", 2) == [b"1"]
    assert list(values(io.BytesIO(b'[1], "index": []}'), depth=1, alone=False)) == [b"1"]


def test_an_endless_value_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "BLOCK", 64)
    monkeypatch.setattr(json_stream, "VALUE_LIMIT", 1000)
    for endless in (b'["' + b"x" * 5000, b"[" + b"[" * 5000, b"[" + b" " * 5000):
        stream = io.BytesIO(endless)
        with pytest.raises(CutShort, match="longer than"):
            list(values(stream, depth=1))
        assert stream.tell() < 1300
    with pytest.raises(CutShort, match="one entry per line"):
        list(lines(io.BytesIO(b"x" * 5000)))
    with pytest.raises(CutShort, match="backslashes"):
        list(values(io.BytesIO(b'["' + b"\\" * 200_000), depth=1))


@given(st.dictionaries(TEXT, JSON, max_size=8), BLOCKS, st.sampled_from(["", " ", " {}", "x"]))
def test_an_outline_places_every_member(content: dict[str, Any], size: int, after: str) -> None:
    text = json.dumps(content, ensure_ascii=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "BLOCK", size)
        found = outline(io.BytesIO(text + after.encode()))
    assert found.whole
    assert found.followed == bool(after.strip())
    quoted = {json.dumps(key, ensure_ascii=False)[1:-1]: value for key, value in content.items()}
    assert found.members.keys() == quoted.keys()
    for key, (offset, first) in found.members.items():
        value, _ = json.JSONDecoder().raw_decode(text[offset:].decode())
        assert value == quoted[key]
        assert text[offset : offset + 1] == first


def test_lines_skip_blank_ones() -> None:
    assert list(lines(io.BytesIO(b"\n{}\n  \r\n[1]"))) == [b"{}\n", b"[1]"]
