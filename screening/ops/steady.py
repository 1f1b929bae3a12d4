"""Products and functions whose every row has the same bits in every batch, for any number of threads (on the CPU).

torch's own are a last bit off, now and then, where a batch or a thread's share of it ends: its matrix products take the
last few rows through other kernels, and softplus, sigmoid, SiLU and powers take the last few values through the C
library. On a GPU these are torch's.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from screening.errors import InputError
from screening.ops import core

_CONCRETE = (Tensor, torch.nn.Parameter)


def at_once(run: Callable[..., Tensor], save: Callable[..., None], differentiate: Callable[..., Any]) -> Any:
    """Make a function of an operator's parts that does not go through torch's registry of operators.

    What is traced or compiled needs the registered one. Otherwise that costs more than a small product itself: 80
    microseconds a call instead of 30, with its derivative 320 instead of 150.
    """

    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        result = run(*inputs)
        save(ctx, inputs, result)
        return result

    # A `setup_context` of its own would make torch look at the signature in every call.
    parts = {"forward": staticmethod(forward), "backward": staticmethod(differentiate)}
    made: Any = type(run.__name__, (torch.autograd.Function,), parts)
    return made.apply


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply rows (n, inner) by weight (columns, inner) and add a bias, as torch.nn.functional.linear.

    On the CPU a row's bits depend on that row alone, not on how many there are. On a GPU it is torch's.
    """
    if rows.is_cuda:
        return torch.nn.functional.linear(rows, weight, bias)
    start = weight.new_zeros(weight.shape[0]) if bias is None else bias
    act = _linear_at_once if _is_concrete(rows, weight, start) else _linear
    result: Tensor = act(rows, weight, start)
    return result


def _multiplied(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    result: Tensor = _fake_linear(rows, weight, bias)
    call = kernel_for("linear", rows)
    with core.input_errors():
        call(
            rows=lent(_plain(rows)),
            weight=lent(_plain(weight.T)),
            bias=lent(_plain(bias)),
            result=lent(result),
            threads=core.thread_count(None),
        )
    return result


_linear = torch.library.custom_op("screening::linear", _multiplied, mutates_args=())


@_linear.register_fake
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


@torch.library.custom_op("screening::linear_weight", mutates_args=())
def _linear_weight(rows: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    weight, bias = _fake_linear_weight(rows, grad)
    call = kernel_for("linear_weight", rows)
    with core.input_errors():
        call(rows=_plain(rows), grad=_plain(grad), weight=weight, bias=bias, threads=core.thread_count(None))
    return weight, bias


@_linear_weight.register_fake
def _fake_linear_weight(rows: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return rows.new_empty((grad.shape[1], rows.shape[1])), rows.new_empty(grad.shape[1])


def _save_linear_weight(ctx: Any, inputs: tuple[Tensor, Tensor], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_linear_weight(ctx: Any, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    rows, grad = ctx.saved_tensors
    return linear(grad, weight.T), linear(rows, weight, bias)


_linear_weight.register_autograd(_differentiate_linear_weight, setup_context=_save_linear_weight)
_linear.register_autograd(_differentiate_linear, setup_context=_save_linear)
_linear_at_once = at_once(_multiplied, _save_linear, _differentiate_linear)


def softplus(values: Tensor) -> Tensor:
    """Compute log(1 + exp(x))."""
    if values.is_cuda:
        return torch.nn.functional.softplus(values)
    act = _softplus_at_once if _is_concrete(values) else _softplus
    result: Tensor = act(values)
    return result


def sigmoid(values: Tensor) -> Tensor:
    """Compute 1 / (1 + exp(-x))."""
    if values.is_cuda:
        return torch.sigmoid(values)
    act = _sigmoid_at_once if _is_concrete(values) else _sigmoid
    result: Tensor = act(values)
    return result


def silu(values: Tensor) -> Tensor:
    """Compute x sigmoid(x)."""
    return values * sigmoid(values)


def power_of_ten(values: Tensor) -> Tensor:
    """Compute 10^x as exp(x log(10)): torch computes exp alike everywhere."""
    return torch.exp(values * math.log(10))


def _softplus_of(values: Tensor) -> Tensor:
    return _mapped("softplus", values)


_softplus = torch.library.custom_op("screening::softplus", _softplus_of, mutates_args=())


@_softplus.register_fake
def _fake_softplus(values: Tensor) -> Tensor:
    return values.new_empty(values.shape)


def _save_softplus(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_softplus(ctx: Any, grad: Tensor) -> Tensor:
    return grad * sigmoid(ctx.saved_tensors[0])


_softplus.register_autograd(_differentiate_softplus, setup_context=_save_softplus)
_softplus_at_once = at_once(_softplus_of, _save_softplus, _differentiate_softplus)


def _sigmoid_of(values: Tensor) -> Tensor:
    return _mapped("sigmoid", values)


_sigmoid = torch.library.custom_op("screening::sigmoid", _sigmoid_of, mutates_args=())


@_sigmoid.register_fake
def _fake_sigmoid(values: Tensor) -> Tensor:
    return values.new_empty(values.shape)


def _save_sigmoid(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _differentiate_sigmoid(ctx: Any, grad: Tensor) -> Tensor:
    (value,) = ctx.saved_tensors
    slope: Tensor = value * (1 - value)
    return grad * slope


_sigmoid.register_autograd(_differentiate_sigmoid, setup_context=_save_sigmoid)
_sigmoid_at_once = at_once(_sigmoid_of, _save_sigmoid, _differentiate_sigmoid)


def _mapped(name: str, values: Tensor) -> Tensor:
    result: Tensor = values.new_empty(values.shape)
    call = kernel_for(name, values)
    with core.input_errors():
        call(values=lent(_plain(values).view(-1)), result=lent(result.view(-1)), threads=core.thread_count(None))
    return result


def kernel_for(name: str, like: Tensor) -> Any:
    """Find the native function for tensors of this dtype."""
    suffix = {torch.float32: "_f32", torch.float64: "_f64"}.get(like.dtype)
    if suffix is None:
        raise InputError(f"{name}: takes float32 or float64, got {like.dtype}; cast the terms first")
    return getattr(core.native, name + suffix)


def _is_concrete(*tensors: Tensor) -> bool:
    """Tell tensors that hold numbers from those that stand for them while torch traces or compiles."""
    return not torch.compiler.is_compiling() and all(type(one) in _CONCRETE for one in tensors)


def lent(array: Any) -> Any:
    """Show tensors on the CPU as NumPy arrays, tuples of them too; all else stays.

    The native core takes both, but asks a tensor through Python code of torch's: 4 microseconds more an array.
    """
    if isinstance(array, tuple):
        return tuple(lent(one) for one in array)
    return array.numpy() if isinstance(array, Tensor) and not array.is_cuda else array


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()
