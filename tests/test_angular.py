"""Harmonics against Legendre's polynomials, and what sums with them promise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from screening.models.angular import SOFTENING, harmonics, lengths

LEGENDRE = [lambda c: torch.ones_like(c), lambda c: c, lambda c: (3 * c * c - 1) / 2]


def directions(seed: int, count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def of(vector: torch.Tensor, degree: int = 2) -> torch.Tensor:
    return harmonics(vector, vector.square().sum(1).sqrt(), degree)


def rotation(seed: int) -> torch.Tensor:
    q, _ = torch.linalg.qr(directions(seed, 3))
    return q


@given(st.integers(0, 10**6))
def test_products_are_the_polynomial_of_the_angle(seed: int) -> None:
    a, b = directions(seed, 2)
    cosine = (a @ b) / (a.norm() * b.norm())
    one, other = of(torch.stack([a, b]))
    for degree, columns in enumerate([slice(0, 1), slice(1, 4), slice(4, 9)]):
        torch.testing.assert_close(one[columns] @ other[columns], LEGENDRE[degree](cosine))


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_a_lower_degree_is_the_beginning_of_a_higher(degree: int) -> None:
    vector = directions(0, 5)
    assert torch.equal(of(vector, degree), of(vector)[:, : (degree + 1) ** 2])


@given(st.integers(0, 10**6), st.integers(1, 9), st.booleans())
def test_lengths_do_not_turn(seed: int, count: int, mirrored: bool) -> None:
    vector, weight = directions(seed, count), directions(seed + 1, count)
    turned = vector @ rotation(seed) * (-1 if mirrored else 1)
    found = [lengths((of(v).T @ weight)[None]) for v in (vector, turned)]
    assert found[0].shape == (1, 9)
    torch.testing.assert_close(*found)


def test_lengths_tell_a_line_from_a_corner() -> None:
    line, corner = torch.tensor([[[1.0, 0, 0], [-1, 0, 0]], [[1, 0, 0], [0, 1, 0]]], dtype=torch.float64)
    flat, bent = (lengths(of(v).sum(0)[None, :, None]) for v in (line, corner))
    assert [float(p) ** 2 - SOFTENING * (d > 0) for d, p in enumerate(flat[0])] == pytest.approx([4, 0, 4])
    assert [float(p) ** 2 - SOFTENING * (d > 0) for d, p in enumerate(bent[0])] == pytest.approx([4, 2, 1])


def test_lengths_have_derivatives_where_they_vanish() -> None:
    sums = torch.zeros(2, 9, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lengths, (sums,))


def test_derivatives() -> None:
    assert torch.autograd.gradcheck(of, (directions(3, 4).requires_grad_(),))


def test_an_edge_has_the_same_bits_in_every_batch() -> None:
    vector = directions(1, 300, torch.float32)
    whole = of(vector)
    for begin, end in ((0, 1), (5, 12), (17, 33), (100, 299)):
        assert torch.equal(of(vector[begin:end]), whole[begin:end])
