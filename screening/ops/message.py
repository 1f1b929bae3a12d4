"""Message passing over edges as torch operators on the native kernels; reference_message.py says what is right.

Each is seen by autograd and by torch.compile (shapes through fakes). All but `edge_moments`, which only training with
batch normalisation uses, can be differentiated twice.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from screening.errors import InputError
from screening.ops.message_call import call, flat
from screening.ops.steady import plain

if TYPE_CHECKING:
    from screening.ops.message_graph import EdgeGraph

Terms = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def edge_conv(
    centre: Tensor,
    source_term: Tensor,
    table: Tensor,
    weight: Tensor,
    first: Tensor,
    scale: Tensor,
    graph: "EdgeGraph",
) -> Tensor:
    """Sum each atom's gated messages, (atoms, K, C), without storing one: see reference_message.edge_conv."""
    if scale.dim() != 2:
        raise InputError(f"edge_conv: scale must be (edges, K), got shape {tuple(scale.shape)}")
    result: Tensor = _edge_conv(centre, source_term, table, weight, first, scale, *graph)
    return result


def edge_moments(
    centre: Tensor, source_term: Tensor, table: Tensor, weight: Tensor, first: Tensor, graph: "EdgeGraph"
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the pre-activation over all edges: see reference_message.edge_moments."""
    mean, variance = _edge_moments(centre, source_term, table, weight, first, *graph)
    return mean, variance


def segment_sum(rows: Tensor, offsets: Tensor) -> Tensor:
    """Sum rows [offsets[s], offsets[s + 1]) for each segment s, in their order; segments leave no row out."""
    result: Tensor = _segment_sum(rows, offsets)
    return result


@torch.library.custom_op("screening::edge_conv", mutates_args=())
def _edge_conv(
    centre: Tensor,
    source_term: Tensor,
    table: Tensor,
    weight: Tensor,
    first: Tensor,
    scale: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
) -> Tensor:
    result: Tensor = _fake_conv(
        centre, source_term, table, weight, first, scale, edge_offsets, edge_source, atom_offsets
    )
    call(
        "edge_conv",
        centre,
        terms=flat(centre, source_term, table, weight, first),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        scale=plain(scale),
        result=result.flatten(1),
    )
    return result


@_edge_conv.register_fake
def _fake_conv(
    centre: Tensor, source: Tensor, table: Tensor, weight: Tensor, first: Tensor, scale: Tensor, *_: Tensor
) -> Tensor:
    return centre.new_empty((centre.shape[0], scale.shape[1], centre.shape[1] // 2))


@torch.library.custom_op("screening::edge_conv_backward", mutates_args=())
def _edge_conv_backward(
    centre: Tensor,
    source_term: Tensor,
    table: Tensor,
    weight: Tensor,
    first: Tensor,
    scale: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    grad: Tensor,
    of_weight: bool,
    of_scale: bool,
) -> list[Tensor]:
    out = _like_terms(centre, source_term, table, weight, scale, of_weight=of_weight, of_scale=of_scale)
    call(
        "edge_conv_backward",
        centre,
        terms=flat(centre, source_term, table, weight, first),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        scale=plain(scale),
        grad=plain(grad).flatten(1),
        out=_wanted(out, of_weight=of_weight, of_scale=of_scale),
    )
    return out


@_edge_conv_backward.register_fake
def _fake_conv_backward(
    centre: Tensor,
    source_term: Tensor,
    table: Tensor,
    weight: Tensor,
    first: Tensor,
    scale: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    grad: Tensor,
    of_weight: bool,
    of_scale: bool,
) -> list[Tensor]:
    return _like_terms(centre, source_term, table, weight, scale, of_weight=of_weight, of_scale=of_scale)


@torch.library.custom_op("screening::edge_conv_curve", mutates_args=())
def _edge_conv_curve(
    centre: Tensor,
    source_term: Tensor,
    table: Tensor,
    weight: Tensor,
    first: Tensor,
    scale: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    grad: Tensor,
    direction: list[Tensor],
    weight_moves: bool,
    scale_moves: bool,
    of_weight: bool,
    of_scale: bool,
) -> list[Tensor]:
    out = _like_terms(centre, source_term, table, weight, scale, of_weight=of_weight, of_scale=of_scale)
    out_grad = grad.new_empty(grad.shape)
    call(
        "edge_conv_curve",
        centre,
        terms=flat(centre, source_term, table, weight, first),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        scale=plain(scale),
        grad=plain(grad).flatten(1),
        direction=_wanted([plain(d) for d in direction], of_weight=weight_moves, of_scale=scale_moves),
        out_grad=out_grad.flatten(1),
        out=_wanted(out, of_weight=of_weight, of_scale=of_scale),
    )
    return [*out, out_grad]


@_edge_conv_curve.register_fake
def _fake_conv_curve(
    centre: Tensor,
    source_term: Tensor,
    table: Tensor,
    weight: Tensor,
    first: Tensor,
    scale: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    grad: Tensor,
    direction: list[Tensor],
    weight_moves: bool,
    scale_moves: bool,
    of_weight: bool,
    of_scale: bool,
) -> list[Tensor]:
    out = _like_terms(centre, source_term, table, weight, scale, of_weight=of_weight, of_scale=of_scale)
    return [*out, grad.new_empty(grad.shape)]


def _save_conv(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_conv(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    of_weight, of_scale = ctx.needs_input_grad[3], ctx.needs_input_grad[5]
    centre, source, table, weight, scale = _edge_conv_backward(*ctx.saved_tensors, grad, of_weight, of_scale)
    return (
        centre,
        source,
        table,
        weight if of_weight else None,
        None,
        scale if of_scale else None,
        None,
        None,
        None,
    )


def _save_conv_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.save_for_backward(*inputs[:10])
    ctx.given = inputs[10:]


def _differentiate_conv_backward(ctx: Any, grads: list[Tensor]) -> tuple[Tensor | None, ...]:
    # What the first derivative did not give can have no direction.
    weight_moves, scale_moves = ctx.given
    of_weight, of_scale = ctx.needs_input_grad[3], ctx.needs_input_grad[5]
    centre, source, table, weight, scale, grad = _edge_conv_curve(
        *ctx.saved_tensors, grads, weight_moves, scale_moves, of_weight, of_scale
    )
    return (
        centre,
        source,
        table,
        weight if of_weight else None,
        None,
        scale if of_scale else None,
        None,
        None,
        None,
        grad,
        None,
        None,
    )


_edge_conv.register_autograd(_differentiate_conv, setup_context=_save_conv)
_edge_conv_backward.register_autograd(_differentiate_conv_backward, setup_context=_save_conv_backward)


@torch.library.custom_op("screening::edge_moments", mutates_args=())
def _edge_moments(
    centre: Tensor,
    source_term: Tensor,
    table: Tensor,
    weight: Tensor,
    first: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    mean, variance = _fake_moments(centre)
    call(
        "edge_moments",
        centre,
        terms=flat(centre, source_term, table, weight, first),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        mean=mean,
        variance=variance,
    )
    return mean, variance


@_edge_moments.register_fake
def _fake_moments(centre: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return centre.new_empty(centre.shape[1]), centre.new_empty(centre.shape[1])


@torch.library.custom_op("screening::edge_moments_backward", mutates_args=())
def _edge_moments_backward(
    centre: Tensor,
    source_term: Tensor,
    table: Tensor,
    weight: Tensor,
    first: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    mean: Tensor,
    grad_mean: Tensor,
    grad_variance: Tensor,
    of_weight: bool,
) -> list[Tensor]:
    out = _like_terms(centre, source_term, table, weight, weight, of_weight=of_weight, of_scale=False)
    call(
        "edge_moments_backward",
        centre,
        terms=flat(centre, source_term, table, weight, first),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        mean=plain(mean),
        grad_mean=plain(grad_mean),
        grad_variance=plain(grad_variance),
        out=_wanted(out, of_weight=of_weight, of_scale=False),
    )
    return out[:4]


@_edge_moments_backward.register_fake
def _fake_moments_backward(
    centre: Tensor,
    source_term: Tensor,
    table: Tensor,
    weight: Tensor,
    first: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    mean: Tensor,
    grad_mean: Tensor,
    grad_variance: Tensor,
    of_weight: bool,
) -> list[Tensor]:
    return _like_terms(centre, source_term, table, weight, weight, of_weight=of_weight, of_scale=False)[:4]


def _save_moments(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[0])


def _differentiate_moments(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> tuple[Tensor | None, ...]:
    of_weight = ctx.needs_input_grad[3]
    centre, source, table, weight = _edge_moments_backward(*ctx.saved_tensors, grad_mean, grad_variance, of_weight)
    return centre, source, table, weight if of_weight else None, None, None, None, None


_edge_moments.register_autograd(_differentiate_moments, setup_context=_save_moments)


@torch.library.custom_op("screening::segment_sum", mutates_args=())
def _segment_sum(rows: Tensor, offsets: Tensor) -> Tensor:
    result: Tensor = _fake_segment_sum(rows, offsets)
    call("segment_sum", rows, rows=plain(rows), offsets=plain(offsets), result=result)
    return result


@_segment_sum.register_fake
def _fake_segment_sum(rows: Tensor, offsets: Tensor) -> Tensor:
    return rows.new_empty((offsets.shape[0] - 1, rows.shape[1]))


def _save_segments(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    rows, ctx.offsets = inputs
    ctx.length = rows.shape[0]


def _differentiate_segments(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return segment_rows(grad, ctx.offsets, ctx.length), None


_segment_sum.register_autograd(_differentiate_segments, setup_context=_save_segments)


def segment_rows(values: Tensor, offsets: Tensor, length: int) -> Tensor:
    """Repeat the value of each segment for its rows, (length, columns): the transpose of `segment_sum`."""
    result: Tensor = _segment_rows(values, offsets, length)
    return result


@torch.library.custom_op("screening::segment_rows", mutates_args=())
def _segment_rows(values: Tensor, offsets: Tensor, length: int) -> Tensor:
    return torch.repeat_interleave(values, offsets.diff().long(), dim=0, output_size=length)


@_segment_rows.register_fake
def _fake_segment_rows(values: Tensor, offsets: Tensor, length: int) -> Tensor:
    return values.new_empty((length, values.shape[1]))


def _save_repeated(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.offsets = inputs[1]


def _differentiate_repeated(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return segment_sum(grad, ctx.offsets), None, None


_segment_rows.register_autograd(_differentiate_repeated, setup_context=_save_repeated)


def _like_terms(
    centre: Tensor,
    source_term: Tensor,
    table: Tensor,
    weight: Tensor,
    scale: Tensor,
    *,
    of_weight: bool,
    of_scale: bool,
) -> list[Tensor]:
    return [
        centre.new_empty(centre.shape),
        centre.new_empty(source_term.shape),
        centre.new_empty(table.shape),
        centre.new_empty(weight.shape if of_weight else (0, weight.shape[1])),
        centre.new_empty(scale.shape if of_scale else (0, scale.shape[-1])),
    ]


def _wanted(terms: list[Tensor], *, of_weight: bool, of_scale: bool) -> tuple[Tensor | None, ...]:
    centre, source, table, weight, scale = terms
    return centre, source, table, weight if of_weight else None, scale if of_scale else None
