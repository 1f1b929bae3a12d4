"""Radial bases: a window of terms is the whole expansion, smooth in the distance."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from screening.errors import InputError
from screening.models.radial import GaussianBasis, RadialBasis, RadialTerms, SplineBasis

BASES = [
    GaussianBasis(),
    GaussianBasis(stop=5.0, step=0.5, width=0.4, window=10),
    SplineBasis(6.0),
    SplineBasis(8.0, 5),
    SplineBasis(5.0, 24, power=4),
    SplineBasis(5.0, 24, power=5),
]


def spread(basis: RadialBasis, terms: RadialTerms) -> torch.Tensor:
    """The full expansion (edges, rows) that the terms stand for."""
    full = torch.zeros(len(terms.first), basis.rows, dtype=terms.weight.dtype)
    window = terms.first.long()[:, None] + torch.arange(terms.weight.shape[1])
    return full.scatter(1, window, terms.weight)


@given(st.lists(st.floats(0.0, 9.0), min_size=1, max_size=20))
def test_eight_gaussians_are_all_forty_one(distances: list[float]) -> None:
    distance = torch.tensor(distances, dtype=torch.float64)
    basis = GaussianBasis()
    assert basis.rows == 41
    grid = torch.arange(41, dtype=torch.float64) * 0.2
    exact = torch.exp(-(((distance[:, None] - grid) / 0.2) ** 2))
    torch.testing.assert_close(spread(basis, basis.terms(distance)), exact, rtol=0, atol=1.2e-7)


def test_splines_are_those_of_scipy() -> None:
    basis = SplineBasis(6.0, intervals=7)
    distance = torch.linspace(0, 5.999, 200, dtype=torch.float64)
    step = 6.0 / 7
    knots = [step * k for k in range(-3, 11)]
    exact = torch.from_numpy(BSpline.design_matrix(distance.numpy(), knots, 3).toarray())
    torch.testing.assert_close(spread(basis, basis.terms(distance)), exact)


def test_the_envelope_fades_with_two_derivatives() -> None:
    basis = SplineBasis(4.0)
    distance = torch.tensor([0.0, 4.0, 5.0], dtype=torch.float64, requires_grad=True)
    values = basis.envelope(distance)
    (slopes,) = torch.autograd.grad(values.sum(), distance, create_graph=True)
    (curvatures,) = torch.autograd.grad(slopes.sum(), distance)
    torch.testing.assert_close(values.detach(), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    assert max(slopes.abs().max(), curvatures.abs().max()) < 1e-9


@pytest.mark.parametrize("basis", BASES, ids=str)
def test_terms_stay_inside_and_have_derivatives(basis: RadialBasis) -> None:
    distance = torch.linspace(0.01, 9.0, 50, dtype=torch.float64, requires_grad=True)
    terms = basis.terms(distance)
    assert terms.first.dtype == torch.int32
    assert terms.first.min() >= 0
    assert terms.first.max() + terms.weight.shape[1] <= basis.rows
    assert torch.autograd.gradcheck(lambda d: basis.terms(d)[1:], (distance,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("basis", BASES, ids=str)
def test_an_edge_has_the_same_bits_in_every_batch(basis: RadialBasis, dtype: torch.dtype) -> None:
    distance = 7 * torch.rand(300, dtype=dtype, generator=torch.Generator().manual_seed(0))
    whole = basis.terms(distance)
    for begin, end in ((0, 1), (0, 3), (5, 12), (17, 33), (100, 299)):
        for part, all_edges in zip(basis.terms(distance[begin:end]), whole, strict=True):
            assert torch.equal(part, all_edges[begin:end]), (begin, end)


def test_no_edges_is_fine() -> None:
    for basis in BASES:
        assert [len(part) for part in basis.terms(torch.empty(0))] == [0, 0, 0]


def test_a_basis_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="start < stop"):
        GaussianBasis(stop=0.0)
    with pytest.raises(InputError, match="positive cutoff"):
        SplineBasis(-1.0)
