"""What the studies' commands have in common."""

import argparse

import pytest
import studies
from hypothesis import given
from hypothesis import strategies as st

from screening.errors import InputError


@given(st.integers(0, 30), st.integers(1, 9))
def test_shares_are_the_runs_each_once(count: int, parts: int) -> None:
    runs = list(range(count))
    taken = [run for part in range(parts) for run in studies.shared(runs, f"{part + 1}/{parts}")]
    assert sorted(taken) == runs


@pytest.mark.parametrize("share", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_share_that_is_none_is_refused(share: str) -> None:
    with pytest.raises(InputError, match="expected K/N with 1 <= K <= N"):
        studies.shared(range(9), share)


def test_a_command_ends_with_what_is_left_or_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(chosen: argparse.Namespace) -> bool:
        raise InputError("no such file")

    ends = [studies.command("study", act, argparse.Namespace()) for act in (lambda _: True, lambda _: False, wrong)]
    assert ends == [0, 1, InputError.exit_code]
    assert capsys.readouterr().err == "study: no such file\n"
