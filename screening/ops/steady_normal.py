"""Normalisation of columns with SiLU and a sum, in one pass over rows, as torch operators on the CPU.

First derivatives are the native core's; second ones are taken of the definition, for only losses of derivatives ask for
them.
"""

from typing import Any

import torch
from torch import Tensor

from screening.ops import core
from screening.ops.message_call import plain
from screening.ops.steady import kernel_for


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
    _call("column_moments", rows, rows=plain(rows), mean=mean, variance=variance)
    return mean, variance


@_column_moments.register_fake
def _fake_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape[1]), rows.new_empty(rows.shape[1])


@torch.library.custom_op("screening::normal_silu", mutates_args=())
def _normal_silu(
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
    _call(
        "normal_silu",
        rows,
        rows=plain(rows),
        factor=plain(factor),
        shift=plain(bias - mean * factor),
        onto=plain(start),
        result=result,
    )
    return result


@_normal_silu.register_fake
def _fake_silu(rows: Tensor, *_: Any) -> Tensor:
    return rows.new_empty(rows.shape)


@torch.library.custom_op("screening::normal_silu_backward", mutates_args=())
def _normal_silu_backward(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    grad: Tensor,
    epsilon: float,
    of_batch: bool,
) -> list[Tensor]:
    deviation = torch.rsqrt(variance + epsilon)
    factor = weight * deviation
    given = {
        "rows": plain(rows),
        "grad": plain(grad),
        "factor": plain(factor),
        "shift": plain(bias - mean * factor),
        "mean": plain(mean),
    }
    sums, of_rows = rows.new_empty((2, rows.shape[1])), rows.new_empty(rows.shape)
    _call("normal_silu_sums", rows, **given, sums=sums)
    share = factor / max(len(rows), 1) if of_batch else torch.zeros_like(factor)
    _call(
        "normal_silu_backward",
        rows,
        **given,
        offset=-share * sums[0],
        slope=-share * deviation.square() * sums[1],
        result=of_rows,
    )
    return [of_rows, sums[1] * deviation, sums[0].clone()]


@_normal_silu_backward.register_fake
def _fake_backward(rows: Tensor, weight: Tensor, bias: Tensor, *_: Any) -> list[Tensor]:
    return [one.new_empty(one.shape) for one in (rows, weight, bias)]


def _save_silu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.onto, ctx.given = inputs[5] is not None, inputs[6:]


def _differentiate_silu(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, weight, bias = _normal_silu_backward(*ctx.saved_tensors, grad, *ctx.given)
    return rows, weight, bias, None, None, grad if ctx.onto else None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.given = inputs[6:]


def _differentiate_backward(ctx: Any, direction: list[Tensor]) -> tuple[Tensor | None, ...]:
    rows, weight, bias, mean, variance, grad = ctx.saved_tensors
    with torch.enable_grad():
        rows, weight, bias, above = terms = [one.detach().requires_grad_() for one in (rows, weight, bias, grad)]
        outcome = _defined(rows, weight, bias, mean, variance, *ctx.given)
        first = torch.autograd.grad(outcome, terms[:3], above, create_graph=True)
        *found, of_grad = torch.autograd.grad(first, terms, direction, materialize_grads=True)
    return (*found, None, None, of_grad, None, None)


def _defined(
    rows: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float, of_batch: bool
) -> Tensor:
    if of_batch:
        mean = rows.mean(0)
        variance = (rows - mean).square().mean(0)
    return torch.nn.functional.silu((rows - mean) * torch.rsqrt(variance + epsilon) * weight + bias)


_normal_silu.register_autograd(_differentiate_silu, setup_context=_save_silu)
_normal_silu_backward.register_autograd(_differentiate_backward, setup_context=_save_backward)


def _call(kernel: str, like: Tensor, **arrays: Tensor) -> None:
    function = kernel_for(kernel, like)
    with core.input_errors():
        function(**arrays, threads=core.thread_count(None))
