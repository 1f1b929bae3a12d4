"""Softmax along rows of edges as a torch operator; reference_message.py says what is right."""

from typing import Any

import torch
from torch import Tensor

from screening.ops.message_call import call, flat
from screening.ops.steady import plain


def row_softmax(scores: Tensor, offsets: Tensor) -> Tensor:
    """Turn each column of scores (edges, H) into weights that sum to 1 over each row of edges.

    Row i is [offsets[i], offsets[i + 1]). It can be differentiated twice; a row's bits depend on that row alone.
    """
    result: Tensor = _row_softmax(scores, offsets)
    return result


@torch.library.custom_op("screening::row_softmax", mutates_args=())
def _row_softmax(scores: Tensor, offsets: Tensor) -> Tensor:
    result: Tensor = scores.new_empty(scores.shape)
    call("row_softmax", scores, scores=plain(scores), offsets=plain(offsets), result=result)
    return result


@_row_softmax.register_fake
def _fake_softmax(scores: Tensor, offsets: Tensor) -> Tensor:
    return scores.new_empty(scores.shape)


@torch.library.custom_op("screening::row_softmax_backward", mutates_args=())
def _row_softmax_backward(result: Tensor, offsets: Tensor, grad: Tensor) -> Tensor:
    out: Tensor = result.new_empty(result.shape)
    at, ends, upstream = flat(result, offsets, grad)
    call("row_softmax_backward", result, result=at, offsets=ends, grad=upstream, out=out)
    return out


@_row_softmax_backward.register_fake
def _fake_backward(result: Tensor, offsets: Tensor, grad: Tensor) -> Tensor:
    return result.new_empty(result.shape)


@torch.library.custom_op("screening::row_softmax_curve", mutates_args=())
def _row_softmax_curve(result: Tensor, offsets: Tensor, grad: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    of_result, of_grad = _fake_curve(result, offsets, grad, direction)
    at, ends, upstream, along = flat(result, offsets, grad, direction)
    call(
        "row_softmax_curve",
        result,
        result=at,
        offsets=ends,
        grad=upstream,
        direction=along,
        out_result=of_result,
        out_grad=of_grad,
    )
    return of_result, of_grad


@_row_softmax_curve.register_fake
def _fake_curve(result: Tensor, offsets: Tensor, grad: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    return result.new_empty(result.shape), result.new_empty(result.shape)


def _save_softmax(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(output, inputs[1])


def _differentiate_softmax(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _row_softmax_backward(*ctx.saved_tensors, grad), None


def _save_backward(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None, Tensor]:
    of_result, of_grad = _row_softmax_curve(*ctx.saved_tensors, direction)
    return of_result, None, of_grad


_row_softmax.register_autograd(_differentiate_softmax, setup_context=_save_softmax)
_row_softmax_backward.register_autograd(_differentiate_backward, setup_context=_save_backward)
