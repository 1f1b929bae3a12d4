"""Values and derivatives of message operators along random directions, to be compared between twins."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]


def leaves(terms: Sequence[Tensor]) -> list[Tensor]:
    """Copies of terms on which derivatives can be taken."""
    return [term.clone().requires_grad_() if term.is_floating_point() else term for term in terms]


def random_like(tensors: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The same numbers for every type and device."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, generator=draw, dtype=torch.float64).to(t) for t in tensors]


def orders(
    function: Function, terms: Sequence[Tensor], *, fixed: Sequence[int] = (), second: bool = True
) -> list[Tensor]:
    """Values, first derivatives along a direction and, if wanted, second ones along another, in a row.

    No derivative is taken with respect to the terms numbered in `fixed`.
    """
    terms = [term.detach() if k in fixed else term for k, term in enumerate(leaves(terms))]
    moving = [term for term in terms if term.requires_grad]
    outputs = function(*terms)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    along = leaves(random_like(outputs, 1))
    first = torch.autograd.grad(outputs, moving, along, create_graph=second, allow_unused=True)
    first_given = [term for term in first if term is not None]
    if not second:
        return [*outputs, *first_given]
    found = torch.autograd.grad(first_given, [*moving, *along], random_like(first_given, 2), allow_unused=True)
    return [*outputs, *first_given, *(term for term in found if term is not None)]


def narrowed(terms: Sequence[Tensor]) -> list[Tensor]:
    """Terms in float32."""
    return [term.float() if term.is_floating_point() else term for term in terms]


def widened(terms: Sequence[Tensor]) -> list[Tensor]:
    """Terms in float64."""
    return [term.double() if term.is_floating_point() else term for term in terms]


def assert_close(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Equal but for the rounding of float64, relative to the largest value of each tensor."""
    for one, other in zip(found, wanted, strict=True):
        size = other.abs().max().item() if other.numel() else 0.0
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=1e-12, atol=1e-12 * (1 + size))


def assert_same_bits(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Equal to the last bit."""
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def assert_as_exact_as(
    reference: Function, function: Function, terms: Sequence[Tensor], *, times: float = 2, second: bool = True
) -> None:
    """Errors in float32 are at most so many times those of `reference` in float32, and 1e-7 of the largest value."""
    narrow = narrowed(terms)
    truth = orders(reference, widened(narrow), second=second)
    theirs, ours = orders(reference, narrow, second=second), orders(function, narrow, second=second)
    for mine, other, exact in zip(ours, theirs, truth, strict=True):
        allowed = times * (other - exact).abs().max() + 1e-7 * exact.abs().max()
        assert (mine.to(exact) - exact).abs().max() <= allowed
