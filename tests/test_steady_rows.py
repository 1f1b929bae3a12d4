"""Products, normalisation and tables of rows on the CPU against plain PyTorch: values, derivatives, threads."""

from collections.abc import Iterator

import pytest
import torch
from derivatives import assert_as_exact_as, assert_close, assert_same_bits, leaves, narrowed, orders
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from screening.errors import InputError
from screening.models import tabulated
from screening.models.layers import Moments
from screening.ops import core, steady
from screening.ops.steady_lengths import plain_sum_lengths, sum_lengths
from screening.ops.steady_normal import column_moments, normal_silu
from screening.ops.steady_windows import window_rows, window_sums

pytestmark = pytest.mark.native

FEW = settings(max_examples=15)
COUNTS, COLUMNS = st.integers(0, 300), st.integers(1, 80)
EPSILON = 1e-5


@pytest.fixture(params=core.simd_levels(), autouse=True)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    with core.forced_simd_level(request.param):
        yield request.param


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes]


def size_of(values: Tensor) -> float:
    return 1 + (float(values.detach().abs().max()) if values.numel() else 0.0)


def bent(rows: Tensor, weight: Tensor, bias: Tensor, onto: Tensor) -> Tensor:
    mean, variance = column_moments(rows.detach())
    return normal_silu(rows, weight, bias, mean, variance, onto, epsilon=EPSILON, of_batch=True)


def plainly_bent(rows: Tensor, weight: Tensor, bias: Tensor, onto: Tensor) -> Tensor:
    normal = torch.nn.functional.batch_norm(rows, None, None, weight, bias, True, 0.1, EPSILON)
    return onto + torch.nn.functional.silu(normal)


@FEW
@given(st.integers(0, 10**6), COUNTS, COLUMNS, COLUMNS)
def test_products_have_the_derivatives_of_torch(seed: int, count: int, inner: int, columns: int) -> None:
    terms = drawn(seed, (count, inner), (columns, inner), (columns,))
    assert_close(orders(steady.linear, terms), orders(torch.nn.functional.linear, terms))


@pytest.mark.parametrize("fixed", [(0,), (1, 2), (2,)])
def test_derivatives_of_products_that_are_not_wanted_change_no_other(fixed: tuple[int, ...]) -> None:
    terms = drawn(1, (40, 5), (7, 5), (7,))
    found = orders(steady.linear, terms, fixed=fixed, second=False)
    assert_close(found, orders(torch.nn.functional.linear, terms, fixed=fixed, second=False))


@FEW
@given(st.integers(0, 10**6), st.integers(2, 300), COLUMNS)
def test_normalisation_by_a_batch_is_right(seed: int, count: int, columns: int) -> None:
    terms = drawn(seed, (count, columns), (columns,), (columns,), (count, columns))
    for one, other in zip(orders(bent, terms), orders(plainly_bent, terms), strict=True):
        # Rows that are nearly alike have a spread of next to nothing, over which derivatives divide.
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * size_of(other))


@FEW
@given(st.integers(0, 10**6), COUNTS, COLUMNS, st.booleans())
def test_normalisation_by_given_moments_is_right(seed: int, count: int, columns: int, onto: bool) -> None:
    rows, weight, bias, mean, spread, start = drawn(seed, (count, columns), *4 * [(columns,)], (count, columns))
    variance = spread.square()

    def ours(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normal_silu(rows, weight, bias, mean, variance, start if onto else None, epsilon=EPSILON, of_batch=False)

    def theirs(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        normal = (rows - mean) / torch.sqrt(variance + EPSILON) * weight + bias
        return torch.nn.functional.silu(normal) + (start if onto else 0.0)

    terms = [rows, weight, bias]
    for one, other in zip(orders(ours, terms), orders(theirs, terms), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * size_of(other))


@pytest.mark.parametrize("learned", [False, True])
def test_a_row_that_is_not_finite_stays_alone_where_moments_are_given(learned: bool) -> None:
    terms = drawn(3, (150, 9), *4 * [(9,)])
    weight, bias, mean, spread = (one.requires_grad_(learned and k < 2) for k, one in enumerate(terms[1:]))
    broken = terms[0].clone()
    broken[7, 2] = torch.nan

    def slope(rows: Tensor) -> Tensor:
        rows.requires_grad_()
        found = normal_silu(rows, weight, bias, mean, spread.square(), epsilon=EPSILON, of_batch=False)
        (first,) = torch.autograd.grad(found.square().sum(), rows, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), rows)
        return torch.stack([found.detach(), first.detach(), second])

    harmed = slope(broken)
    assert harmed[:, 7, 2].isnan().all()
    others = torch.arange(150) != 7
    assert_same_bits([harmed[:, others]], [slope(terms[0].clone())[:, others]])


@FEW
@given(st.integers(0, 10**6), COUNTS, COLUMNS, st.floats(0.1, 30))
def test_silu_has_the_derivatives_of_torch(seed: int, count: int, columns: int, size: float) -> None:
    terms = [size * one for one in drawn(seed, (count, columns))]
    assert_close(orders(steady.silu, terms), orders(torch.nn.functional.silu, terms))
    if count:
        assert_as_exact_as(torch.nn.functional.silu, steady.silu, terms, times=4)


def test_silu_is_right_as_far_out_as_numbers_go() -> None:
    far = torch.tensor([-3e4, -120.0, -80.0, -20.0, 0.0, 20.0, 80.0, 120.0, 3e4])
    for values in (far, far.double()):
        for one, other in zip(orders(steady.silu, [values]), orders(torch.nn.functional.silu, [values]), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@FEW
@given(st.integers(0, 10**6), COUNTS, COLUMNS, st.integers(0, 3), st.sampled_from([0.0, 1e-3]))
def test_lengths_are_their_definition(seed: int, count: int, columns: int, degree: int, softening: float) -> None:
    terms = drawn(seed, (count, (degree + 1) ** 2, columns))

    def ours(sums: Tensor) -> Tensor:
        return sum_lengths(sums, softening)

    def theirs(sums: Tensor) -> Tensor:
        return plain_sum_lengths(sums, softening)

    # Sums of degree 0 are given back, which has no second derivative.
    assert_close(orders(ours, terms, second=degree > 0), orders(theirs, terms, second=degree > 0))
    if count:
        assert_as_exact_as(theirs, ours, terms, times=4, second=degree > 0)


@FEW
@given(st.integers(0, 10**6), COUNTS, COLUMNS, st.floats(-100, 100))
def test_moments_are_right_however_far_from_zero(seed: int, count: int, columns: int, far: float) -> None:
    (rows,) = drawn(seed, (count, columns))
    rows = rows + far
    mean, variance = column_moments(rows)
    if count == 0:
        assert not mean.any()
        assert not variance.any()
        return
    torch.testing.assert_close(mean, rows.mean(0))
    torch.testing.assert_close(variance, rows.var(0, unbiased=False), rtol=1e-9, atol=1e-9)
    single = column_moments(rows.float())[1].double()
    torch.testing.assert_close(single, rows.float().double().var(0, unbiased=False), rtol=1e-3, atol=1e-4)


@FEW
@given(st.integers(0, 10**6), COUNTS, COLUMNS, st.integers(1, 9))
def test_windows_are_right(seed: int, count: int, columns: int, span: int) -> None:
    table, weight = drawn(seed, (20, columns), (count, span))
    first = torch.randint(0, 21 - span, (count,), generator=torch.Generator().manual_seed(seed)).int()
    window = first.long()[:, None] + torch.arange(span)
    found = orders(lambda t: window_rows(t, weight, first), [table])
    assert_close(found, orders(lambda t: (weight[:, :, None] * t[window]).sum(1), [table]))
    rows = window_rows(table, weight, first)
    assert_close([(rows * rows).sum()], [(window_sums(weight, first, rows, 20) * table).sum()])


@FEW
@given(st.integers(0, 10**6), st.floats(-3, 3), st.floats(0.1, 4))
def test_a_table_reads_smooth_functions_as_they_are(seed: int, start: float, length: float) -> None:
    at = start + length * torch.rand(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    grid = tabulated.knots(start, start + length, at)
    places = tabulated.places(at, start, start + length)
    read = tabulated.read(torch.stack([torch.sin(grid), torch.ones_like(grid)], dim=1), places)
    torch.testing.assert_close(read, torch.stack([torch.sin(at), torch.ones_like(at)], dim=1), rtol=1e-9, atol=1e-9)
    assert float(places.counts().sum()) == pytest.approx(50)


def test_threads_change_no_bit() -> None:
    rows, weight, bias, onto = narrowed(drawn(1, (9000, 40), (40,), (40,), (9000, 40)))
    matrix, table, factors = narrowed(drawn(2, (30, 40), (50, 40), (9000, 4)))
    first, runs = (torch.arange(9000) % 46).int(), []
    for threads in (1, 2, 5):
        with core.using_threads(threads):
            run = orders(bent, [rows, weight, bias, onto], second=False)
            run += orders(steady.linear, [rows, matrix, bias[:30]], second=False)
            run += orders(steady.silu, [rows])
            run += orders(lambda sums: sum_lengths(sums.view(-1, 4, 40), 1e-3), [rows])
            runs.append([*run, *orders(lambda t: window_rows(t, factors, first), [table], second=False)])
    for run in runs[1:]:
        assert_same_bits(run, runs[0])


def test_a_row_has_its_bits_in_every_batch() -> None:
    rows, weight, bias, mean, onto = narrowed(drawn(3, (301, 37), *3 * [(37,)], (301, 37)))

    def ours(a: int, b: int) -> Tensor:
        return normal_silu(rows[a:b], weight, bias, mean, weight.square(), onto[a:b], epsilon=EPSILON, of_batch=False)

    whole, bent = ours(0, 301), steady.silu(rows)
    for a, b in ((0, 1), (5, 18), (100, 301)):
        assert torch.equal(ours(a, b), whole[a:b])
        assert torch.equal(steady.silu(rows[a:b]), bent[a:b])


def test_an_atom_has_its_lengths_in_every_batch() -> None:
    (sums,) = narrowed(drawn(8, (150, 9, 37)))
    whole = sum_lengths(sums, 1e-3)
    for a, b in ((0, 1), (5, 18), (60, 150)):
        assert torch.equal(sum_lengths(sums[a:b], 1e-3), whole[a:b])


@pytest.mark.parametrize("training", [True, False])
def test_moments_with_silu_are_moments_and_silu(training: bool) -> None:
    rows, onto = drawn(4, (60, 7), (60, 7))
    one, other = Moments(7).double().train(training), Moments(7).double().train(training)
    found = one.silu(rows, onto)
    torch.testing.assert_close(found, onto + torch.nn.functional.silu(other(rows)))
    torch.testing.assert_close(one.running_var, other.running_var)
    torch.testing.assert_close(one.running_mean, other.running_mean)


def test_rows_that_count_several_times_are_as_if_they_were_there() -> None:
    (rows,) = drawn(5, (4, 3))
    counts = torch.tensor([1.0, 3.0, 2.0, 5.0], dtype=torch.float64)
    one, other = Moments(3).double(), Moments(3).double()
    found = one.silu(rows, counts=counts).repeat_interleave(counts.long(), dim=0)
    torch.testing.assert_close(found, other.silu(rows.repeat_interleave(counts.long(), dim=0)))
    torch.testing.assert_close(one.running_var, other.running_var)


def test_the_operators_keep_their_word_to_torch() -> None:
    rows, weight, bias, mean, onto, table, factors = leaves(drawn(6, (9, 5), *3 * [(5,)], (9, 5), (6, 5), (9, 2)))
    mean, factors = mean.detach(), factors.detach()
    torch.library.opcheck(
        torch.ops.screening.normal_silu.default, (rows, weight, bias, mean, mean.square(), onto, EPSILON, False)
    )
    first = torch.zeros(9, dtype=torch.int32)
    torch.library.opcheck(torch.ops.screening.window_rows.default, (table, factors, first))
    torch.library.opcheck(torch.ops.screening.linear_weight.default, (rows, onto))
    torch.library.opcheck(torch.ops.screening.silu_backward.default, (rows, onto))
    torch.library.opcheck(torch.ops.screening.silu.default, (rows,))
    (sums,) = leaves(drawn(9, (3, 4, 5)))
    torch.library.opcheck(torch.ops.screening.sum_lengths.default, (sums, 1e-3))


def test_what_does_not_fit_is_refused() -> None:
    rows, weight, bias = drawn(7, (9, 5), (5,), (4,))
    with pytest.raises(InputError, match="a value a column"):
        normal_silu(rows, weight[:4], bias, weight[:4], weight[:4], epsilon=EPSILON, of_batch=False)
    with pytest.raises(InputError, match="one shape"):
        normal_silu(rows, weight, weight, weight, weight, rows[1:], epsilon=EPSILON, of_batch=False)
    with pytest.raises(InputError, match="2 sums of an atom"):
        sum_lengths(rows[:, :, None], 1e-3)
    with pytest.raises(InputError, match="leave room"):
        window_rows(rows, weight[:, None].expand(5, 2), torch.full((5,), 8, dtype=torch.int32))
