"""Products and functions whose every row has the same bits in every batch, for any number of threads (on the CPU).

torch's own are a last bit off, now and then, where a batch or a thread's share of it ends: its matrix products take the
last few rows through other kernels, and softplus, sigmoid, SiLU and powers take the last few values through the C
library. On a GPU these are torch's.
"""

import math
from typing import Any

import torch
from torch import Tensor

from screening.errors import InputError
from screening.ops import core
from screening.ops.steady_operators import operator


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply rows (n, inner) by weight (columns, inner) and add a bias, as torch.nn.functional.linear.

    On the CPU a row's bits depend on that row alone, not on how many there are. On a GPU it is torch's.
    """
    if rows.is_cuda:
        return torch.nn.functional.linear(rows, weight, bias)
    start = weight.new_zeros(weight.shape[0]) if bias is None else bias
    result: Tensor = _linear(rows, weight, start)
    return result


def softplus(values: Tensor) -> Tensor:
    """Compute log(1 + exp(x))."""
    result: Tensor = torch.nn.functional.softplus(values) if values.is_cuda else _softplus(values)
    return result


def sigmoid(values: Tensor) -> Tensor:
    """Compute 1 / (1 + exp(-x))."""
    result: Tensor = torch.sigmoid(values) if values.is_cuda else _sigmoid(values)
    return result


def silu(values: Tensor) -> Tensor:
    """Compute x sigmoid(x), which can be differentiated twice."""
    result: Tensor = torch.nn.functional.silu(values) if values.is_cuda else _silu(values)
    return result


def power_of_ten(values: Tensor) -> Tensor:
    """Compute 10^x as exp(x log(10)): torch computes exp alike everywhere."""
    return torch.exp(values * math.log(10))


def _multiplied(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    result: Tensor = _fake_linear(rows, weight, bias)
    call("linear", rows, rows=plain(rows), weight=plain(weight.T), bias=plain(bias), result=result)
    return result


def _fake_linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return rows.new_empty((rows.shape[0], weight.shape[0]))


def _save_linear(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _differentiate_linear(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    rows, weight = ctx.saved_tensors
    of_rows = linear(grad, weight.T) if ctx.needs_input_grad[0] else None
    if not any(ctx.needs_input_grad[1:]):
        return of_rows, None, None
    of_weight, of_bias = _linear_weight(rows, grad)
    return of_rows, of_weight, of_bias


def _multiplied_back(rows: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    weight, bias = _fake_linear_weight(rows, grad)
    call("linear_weight", rows, rows=plain(rows), grad=plain(grad), weight=weight, bias=bias)
    return weight, bias


def _fake_linear_weight(rows: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return rows.new_empty((grad.shape[1], rows.shape[1])), rows.new_empty(grad.shape[1])


def _save_linear_weight(ctx: Any, inputs: tuple[Tensor, Tensor], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_linear_weight(ctx: Any, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    rows, grad = ctx.saved_tensors
    return linear(grad, weight.T), linear(rows, weight, bias)


_linear_weight = operator(
    "linear_weight",
    _multiplied_back,
    fake=_fake_linear_weight,
    save=_save_linear_weight,
    differentiate=_differentiate_linear_weight,
)
_linear = operator("linear", _multiplied, fake=_fake_linear, save=_save_linear, differentiate=_differentiate_linear)


def _softplus_of(values: Tensor) -> Tensor:
    return _mapped("softplus", values)


def _sigmoid_of(values: Tensor) -> Tensor:
    return _mapped("sigmoid", values)


def _silu_of(values: Tensor) -> Tensor:
    return _mapped("silu", values)


def _silu_back(values: Tensor, grad: Tensor) -> Tensor:
    return _mapped("silu_backward", values, grad=grad)


@torch.library.custom_op("screening::silu_second", mutates_args=())
def _silu_again(values: Tensor, grad: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    of_values, of_grad = _fake_again(values, grad)
    given = {"values": values, "grad": grad, "direction": direction, "of_values": of_values, "of_grad": of_grad}
    call("silu_second", values, **{name: plain(one).view(-1) for name, one in given.items()})
    return of_values, of_grad


@_silu_again.register_fake
def _fake_again(values: Tensor, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return values.new_empty(values.shape), grad.new_empty(grad.shape)


def _like_values(values: Tensor, *_: Tensor) -> Tensor:
    return values.new_empty(values.shape)


def _save_output(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_softplus(ctx: Any, grad: Tensor) -> Tensor:
    return grad * sigmoid(ctx.saved_tensors[0])


def _differentiate_sigmoid(ctx: Any, grad: Tensor) -> Tensor:
    (value,) = ctx.saved_tensors
    slope: Tensor = value * (1 - value)
    return grad * slope


def _differentiate_silu(ctx: Any, grad: Tensor) -> Tensor:
    result: Tensor = _silu_backward(*ctx.saved_tensors, grad)
    return result


def _differentiate_silu_backward(ctx: Any, direction: Tensor) -> tuple[Tensor, Tensor]:
    of_values, of_grad = _silu_again(*ctx.saved_tensors, direction)
    return of_values, of_grad


_softplus = operator(
    "softplus", _softplus_of, fake=_like_values, save=_save_inputs, differentiate=_differentiate_softplus
)
_sigmoid = operator("sigmoid", _sigmoid_of, fake=_like_values, save=_save_output, differentiate=_differentiate_sigmoid)
_silu = operator("silu", _silu_of, fake=_like_values, save=_save_inputs, differentiate=_differentiate_silu)
_silu_backward = operator(
    "silu_backward", _silu_back, fake=_like_values, save=_save_inputs, differentiate=_differentiate_silu_backward
)


def _mapped(name: str, values: Tensor, **others: Tensor) -> Tensor:
    result = _like_values(values)
    given = {"values": values, **others, "result": result}
    call(name, values, **{key: plain(one).view(-1) for key, one in given.items()})
    return result


def kernel_for(name: str, like: Tensor) -> Any:
    """Find the native function for tensors of this dtype."""
    suffix = {torch.float32: "_f32", torch.float64: "_f64"}.get(like.dtype)
    if suffix is None:
        raise InputError(f"{name}: takes float32 or float64, got {like.dtype}; cast the terms first")
    return getattr(core.native, name + suffix)


def call(kernel: str, like: Tensor, **arrays: Any) -> None:
    """Call a kernel that exists on the CPU alone for tensors of the type of `like`."""
    function = kernel_for(kernel, like)
    given = {name: lent(array) for name, array in arrays.items()}
    with core.input_errors():
        function(**given, threads=core.thread_count(None))


def lent(array: Any) -> Any:
    """Show tensors on the CPU as NumPy arrays, tuples of them too; all else stays.

    The native core takes both, but asks a tensor through Python code of torch's: 4 microseconds more an array.
    """
    if isinstance(array, tuple):
        return tuple(lent(one) for one in array)
    return array.numpy() if isinstance(array, Tensor) and not array.is_cuda else array


def plain(tensor: Tensor) -> Tensor:
    """The same numbers, contiguous and without a gradient."""
    return tensor.detach().contiguous()
