"""Lengths of sums with harmonics, degree by degree, in one pass over memory, as a torch operator on the CPU."""

from typing import Any

import torch
from torch import Tensor

from screening.ops.steady import call, plain
from screening.ops.steady_operators import operator


def sum_lengths(sums: Tensor, softening: float) -> Tensor:
    """Of sums (atoms, (degree + 1)^2, width) those of degree 0 and lengths of the others, (atoms, degree + 1, width).

    A length is sqrt(softening + squares), which has derivatives where the sums vanish; two of them, by the sums. On a
    GPU it is torch's work.
    """
    result: Tensor = plain_sum_lengths(sums, softening) if sums.is_cuda else _sum_lengths(sums, softening)
    return result


def plain_sum_lengths(sums: Tensor, softening: float) -> Tensor:
    """The definition of `sum_lengths`, in torch."""
    each = sums.unbind(1)
    found, begin = [each[0]], 1
    while begin < len(each):
        end = begin + 2 * len(found) + 1
        square = each[begin] * each[begin]
        for one in each[begin + 1 : end]:
            square = square + one * one
        found.append(torch.sqrt(square + softening))
        begin = end
    return torch.stack(found, dim=1)


def _measured(sums: Tensor, softening: float) -> Tensor:
    lengths = _fake_lengths(sums, softening)
    call("sum_lengths", sums, sums=plain(sums), softening=softening, result=lengths)
    return lengths


def _fake_lengths(sums: Tensor, softening: float) -> Tensor:
    degrees = round(sums.shape[1] ** 0.5)
    return sums.new_empty((sums.shape[0], degrees, sums.shape[2]))


def _measured_back(sums: Tensor, lengths: Tensor, grad: Tensor) -> Tensor:
    of_sums = sums.new_empty(sums.shape)
    call("sum_lengths_backward", sums, sums=plain(sums), lengths=plain(lengths), grad=plain(grad), of_sums=of_sums)
    return of_sums


def _fake_backward(sums: Tensor, lengths: Tensor, grad: Tensor) -> Tensor:
    return sums.new_empty(sums.shape)


@torch.library.custom_op("screening::sum_lengths_second", mutates_args=())
def _measured_again(sums: Tensor, lengths: Tensor, grad: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    of_sums, of_grad = _fake_second(sums, lengths, grad, direction)
    given = {"sums": sums, "lengths": lengths, "grad": grad, "direction": direction}
    given = {name: plain(tensor) for name, tensor in given.items()}
    call("sum_lengths_second", sums, **given, of_sums=of_sums, of_grad=of_grad)
    return of_sums, of_grad


@_measured_again.register_fake
def _fake_second(sums: Tensor, lengths: Tensor, grad: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    return sums.new_empty(sums.shape), grad.new_empty(grad.shape)


def _save(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    # The lengths are those of the sums: what they change with is what the second derivative takes the sums to do.
    sums, lengths = ctx.saved_tensors
    return _backward(sums, lengths.detach(), grad), None


def _save_backward(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None, Tensor]:
    of_sums, of_grad = _measured_again(*ctx.saved_tensors, direction)
    return of_sums, None, of_grad


_backward = operator(
    "sum_lengths_backward",
    _measured_back,
    fake=_fake_backward,
    save=_save_backward,
    differentiate=_differentiate_backward,
)
_sum_lengths = operator("sum_lengths", _measured, fake=_fake_lengths, save=_save, differentiate=_differentiate)
