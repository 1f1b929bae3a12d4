"""Neighbouring rows of a table, weighed, for each of many places, as a torch operator on the CPU."""

from typing import Any

import torch
from torch import Tensor

from screening.ops.steady import call, plain


def window_rows(table: Tensor, weight: Tensor, first: Tensor) -> Tensor:
    """Give sum over m of weight[e, m] table[first[e] + m], (places, columns).

    It can be differentiated in the table any number of times, and not in the weights.
    """
    result: Tensor = _window_rows(table, weight, first)
    return result


def window_sums(weight: Tensor, first: Tensor, rows: Tensor, length: int) -> Tensor:
    """Add rows (places, columns) into a table of so many: the transpose of `window_rows`."""
    result: Tensor = _window_sums(weight, first, rows, length)
    return result


@torch.library.custom_op("screening::window_rows", mutates_args=())
def _window_rows(table: Tensor, weight: Tensor, first: Tensor) -> Tensor:
    result: Tensor = _fake_rows(table, weight, first)
    call("window_rows", table, weight=plain(weight), first=plain(first), table=plain(table), result=result)
    return result


@_window_rows.register_fake
def _fake_rows(table: Tensor, weight: Tensor, first: Tensor) -> Tensor:
    return table.new_empty((weight.shape[0], table.shape[1]))


@torch.library.custom_op("screening::window_sums", mutates_args=())
def _window_sums(weight: Tensor, first: Tensor, rows: Tensor, length: int) -> Tensor:
    result: Tensor = _fake_sums(weight, first, rows, length)
    call("window_rows_backward", rows, weight=plain(weight), first=plain(first), grad=plain(rows), of_table=result)
    return result


@_window_sums.register_fake
def _fake_sums(weight: Tensor, first: Tensor, rows: Tensor, length: int) -> Tensor:
    return rows.new_empty((length, rows.shape[1]))


def _save_rows(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    table, ctx.weight, ctx.first = inputs
    ctx.length = len(table)


def _differentiate_rows(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return window_sums(ctx.weight, ctx.first, grad, ctx.length), None, None


def _save_sums(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
    ctx.weight, ctx.first = inputs[:2]


def _differentiate_sums(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, None]:
    return None, None, window_rows(grad, ctx.weight, ctx.first), None


_window_rows.register_autograd(_differentiate_rows, setup_context=_save_rows)
_window_sums.register_autograd(_differentiate_sums, setup_context=_save_sums)
