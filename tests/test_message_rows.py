"""Operators on rows of edges against plain PyTorch: values, derivatives, levels, threads, batches, refusals."""

from itertools import pairwise

import pytest
import torch
from derivatives import assert_as_exact_as, assert_close, assert_same_bits, orders
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from screening.errors import InputError
from screening.ops import core, message_rows, reference_message

pytestmark = pytest.mark.native


@pytest.fixture(params=core.simd_levels(), autouse=True)
def level(request):
    with core.forced_simd_level(request.param):
        yield request.param


def random_rows(
    seed: int, *, rows: int = 9, degree: int = 7, heads: int = 3, size: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Scores in float64 and the offsets of their rows, some of which are empty."""
    draw = torch.Generator().manual_seed(seed)
    offsets = torch.cat([torch.zeros(1), torch.randint(0, degree + 1, (rows,), generator=draw).cumsum(0)]).int()
    scores = size * torch.randn(int(offsets[-1]), heads, generator=draw, dtype=torch.float64)
    return scores, offsets


def assert_right(scores: Tensor, offsets: Tensor) -> None:
    """Values and derivatives are the reference's."""
    found = orders(lambda s: message_rows.row_softmax(s, offsets), [scores])
    assert_close(found, orders(lambda s: reference_message.row_softmax(s, offsets), [scores]))


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(0, 20),
    degree=st.integers(0, 40),
    heads=st.integers(1, 9),
    size=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_softmax_and_its_derivatives_equal_the_reference(seed, rows, degree, heads, size):
    assert_right(*random_rows(seed, rows=rows, degree=degree, heads=heads, size=size))


def test_reference_softmax_is_torchs_on_each_row():
    scores, offsets = random_rows(3, size=5.0)
    parts = [torch.softmax(scores[a:b], dim=0) for a, b in pairwise(offsets.tolist())]
    torch.testing.assert_close(reference_message.row_softmax(scores, offsets), torch.cat(parts))


def test_gradcheck_and_gradgradcheck_of_softmax():
    scores, offsets = random_rows(4)
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: message_rows.row_softmax(s, offsets), scores)
    assert torch.autograd.gradgradcheck(lambda s: message_rows.row_softmax(s, offsets), scores)


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_float_softmax_is_as_exact_as_the_float_reference(size):
    scores, offsets = random_rows(5, rows=40, degree=16, heads=4, size=size)
    assert_as_exact_as(
        lambda s: reference_message.row_softmax(s, offsets), lambda s: message_rows.row_softmax(s, offsets), [scores]
    )


def test_weights_of_each_row_add_up_to_one_however_far_out_scores_are():
    offsets = torch.tensor([0, 3, 3, 5], dtype=torch.int32)
    for dtype in (torch.float32, torch.float64):
        scores = torch.tensor([[3e38], [-3e38], [0.0], [-1e30], [-1e30]], dtype=dtype)
        found = message_rows.row_softmax(scores, offsets)
        torch.testing.assert_close(found[:, 0], torch.tensor([1.0, 0.0, 0.0, 0.5, 0.5], dtype=dtype))


def test_a_nan_stays_in_its_row_and_head():
    scores, offsets = random_rows(6)
    clean = message_rows.row_softmax(scores, offsets)
    row = int((offsets.diff() > 1).nonzero()[0])
    a, b = offsets[row : row + 2].tolist()
    scores[a, 1] = float("nan")
    found = message_rows.row_softmax(scores, offsets)
    touched = torch.zeros_like(found, dtype=torch.bool)
    touched[a:b, 1] = True
    assert found[touched].isnan().all()
    assert torch.equal(found[~touched], clean[~touched])


def test_threads_change_no_bit_and_a_row_depends_on_itself_alone():
    scores, offsets = random_rows(7, rows=900, degree=13, heads=4)
    scores = scores.float()
    runs = []
    try:
        for threads in (1, 2, 5):
            core.set_threads(threads)
            runs.append(orders(lambda s: message_rows.row_softmax(s, offsets), [scores]))
    finally:
        core.set_threads(None)
    for run in runs[1:]:
        assert_same_bits(run, runs[0])
    for a, b in pairwise(offsets[:41].tolist()):
        alone = message_rows.row_softmax(scores[a:b], torch.tensor([0, b - a], dtype=torch.int32))
        assert torch.equal(alone, runs[0][0][a:b])


def test_softmax_keeps_its_word_to_torch():
    scores, offsets = random_rows(8)
    torch.library.opcheck(torch.ops.screening.row_softmax.default, (scores.requires_grad_(), offsets))


@pytest.mark.parametrize(
    ("why", "scores", "offsets"),
    [
        ("ascend from 0 to the number of edges", torch.zeros(3, 2), [0, 2]),
        ("ascend from 0 to the number of edges", torch.zeros(3, 2), [0, 3, 2, 3]),
        ("a column of values", torch.zeros(3, 0), [0, 3]),
        ("takes float32 or float64", torch.zeros(3, 2, dtype=torch.float16), [0, 3]),
    ],
)
def test_rows_that_do_not_fit_are_refused(why, scores, offsets):
    with pytest.raises(InputError, match=why):
        message_rows.row_softmax(scores, torch.tensor(offsets, dtype=torch.int32))
