"""Normalisation of columns with SiLU and a sum, in one pass over rows, as torch operators on the CPU.

Derivatives are the native core's, but for second ones through the moments of a batch: those are taken of the
definition, for what is differentiated twice has moments that are given.
"""

from typing import Any

import torch
from torch import Tensor

from screening.ops.steady import call, plain
from screening.ops.steady_operators import operator


def normal_silu(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    onto: Tensor | None = None,
    *,
    epsilon: float,
    of_batch: bool,
) -> Tensor:
    """Give onto + silu((rows - mean) / sqrt(variance + epsilon) * weight + bias), column by column.

    With `of_batch` mean and variance are those of these rows, and derivatives go through them.
    """
    result: Tensor = _normal_silu(rows, weight, bias, mean, variance, onto, epsilon, of_batch)
    return result


def column_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each column, without derivatives; zeros without rows."""
    mean, variance = _column_moments(rows.detach())
    return mean, variance


@torch.library.custom_op("screening::column_moments", mutates_args=())
def _column_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    mean, variance = _fake_moments(rows)
    call("column_moments", rows, rows=plain(rows), mean=mean, variance=variance)
    return mean, variance


@_column_moments.register_fake
def _fake_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape[1]), rows.new_empty(rows.shape[1])


def _normalised(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    onto: Tensor | None,
    epsilon: float,
    of_batch: bool,
) -> Tensor:
    result = rows.new_empty(rows.shape)
    factor = weight * torch.rsqrt(variance + epsilon)
    start = rows.new_empty((0, rows.shape[1])) if onto is None else onto
    call(
        "normal_silu",
        rows,
        rows=plain(rows),
        factor=plain(factor),
        shift=plain(bias - mean * factor),
        onto=plain(start),
        result=result,
    )
    return result


def _fake_silu(rows: Tensor, *_: Any) -> Tensor:
    return rows.new_empty(rows.shape)


def _normalised_back(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    grad: Tensor,
    epsilon: float,
    of_batch: bool,
    summed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    deviation, given = _given(rows, weight, bias, mean, variance, grad, epsilon)
    sums, of_rows = rows.new_zeros((2, rows.shape[1])), rows.new_empty(rows.shape)
    if summed or of_batch:
        call("normal_silu_sums", rows, **given, sums=sums)
    # What is not of a batch takes no part of its sums, which a single row makes NaN for all.
    through = sums if of_batch else torch.zeros_like(sums)
    share = given["factor"] / max(len(rows), 1)
    call(
        "normal_silu_backward",
        rows,
        **given,
        offset=-share * through[0],
        slope=-share * deviation.square() * through[1],
        result=of_rows,
    )
    return of_rows, sums[1] * deviation, sums[0].clone()


def _fake_backward(rows: Tensor, weight: Tensor, bias: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return rows.new_empty(rows.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


@torch.library.custom_op("screening::normal_silu_second", mutates_args=())
def _normalised_again(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    grad: Tensor,
    epsilon: float,
    along_rows: Tensor,
    along_weight: Tensor,
    along_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    deviation, given = _given(rows, weight, bias, mean, variance, grad, epsilon)
    of_rows, of_grad, sums = rows.new_empty(rows.shape), rows.new_empty(rows.shape), rows.new_empty((2, rows.shape[1]))
    call(
        "normal_silu_second",
        rows,
        **given,
        direction=plain(along_rows),
        scaled=plain(along_weight * deviation),
        shifted=plain(along_bias),
        of_rows=of_rows,
        of_grad=of_grad,
        sums=sums,
    )
    return of_rows, sums[1] * deviation, sums[0].clone(), of_grad


@_normalised_again.register_fake
def _fake_again(rows: Tensor, weight: Tensor, bias: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (*_fake_backward(rows, weight, bias), rows.new_empty(rows.shape))


def _given(
    rows: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, grad: Tensor, epsilon: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """One over the deviation of each column, and what all derivatives take."""
    deviation = torch.rsqrt(variance + epsilon)
    factor = weight * deviation
    terms = {"rows": rows, "grad": grad, "factor": factor, "shift": bias - mean * factor, "mean": mean}
    return plain(deviation), {name: plain(term) for name, term in terms.items()}


def _save_silu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.onto, ctx.given = inputs[5] is not None, inputs[6:]


def _differentiate_silu(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, weight, bias = _normal_silu_backward(*ctx.saved_tensors, grad, *ctx.given, any(ctx.needs_input_grad[1:3]))
    return rows, weight, bias, None, None, grad if ctx.onto else None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.epsilon, ctx.of_batch = inputs[6:8]


def _differentiate_backward(ctx: Any, *direction: Tensor) -> tuple[Tensor | None, ...]:
    if not ctx.of_batch:
        of_rows, of_weight, of_bias, of_grad = _normalised_again(*ctx.saved_tensors, ctx.epsilon, *direction)
        return of_rows, of_weight, of_bias, None, None, of_grad, None, None, None
    rows, weight, bias, _, _, grad = ctx.saved_tensors
    with torch.enable_grad():
        rows, weight, bias, above = terms = [one.detach().requires_grad_() for one in (rows, weight, bias, grad)]
        outcome = _of_batch(rows, weight, bias, ctx.epsilon)
        first = torch.autograd.grad(outcome, terms[:3], above, create_graph=True)
        *found, of_grad = torch.autograd.grad(first, terms, direction, materialize_grads=True)
    return (*found, None, None, of_grad, None, None, None)


def _of_batch(rows: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    mean = rows.mean(0)
    variance = (rows - mean).square().mean(0)
    return torch.nn.functional.silu((rows - mean) * torch.rsqrt(variance + epsilon) * weight + bias)


_normal_silu_backward = operator(
    "normal_silu_backward",
    _normalised_back,
    fake=_fake_backward,
    save=_save_backward,
    differentiate=_differentiate_backward,
)
_normal_silu = operator("normal_silu", _normalised, fake=_fake_silu, save=_save_silu, differentiate=_differentiate_silu)
