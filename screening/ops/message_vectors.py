"""Attention with vectors along rows of edges as torch operators; reference_message.py says what is right."""

from typing import Any

import torch
from torch import Tensor

from screening.ops.message_call import call, flat
from screening.ops.message_graph import EdgeGraph
from screening.ops.steady import plain


def vector_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vectors: Tensor,
    table: Tensor,
    weight: Tensor,
    first: Tensor,
    scale: Tensor,
    graph: EdgeGraph,
    *,
    heads: int,
) -> Tensor:
    """Sum what each atom hears, (atoms, 4, C), one plain and three along x, y and z, without storing an edge's.

    See reference_message.vector_attention. It can be differentiated twice.
    """
    terms = [query, key, value.flatten(1), vectors.flatten(1), table, weight, scale]
    result: Tensor = _vector_attention(terms, first, *graph, heads)
    return result.view(len(query), 4, query.shape[1])


@torch.library.custom_op("screening::vector_attention", mutates_args=())
def _vector_attention(
    terms: list[Tensor], first: Tensor, edge_offsets: Tensor, edge_source: Tensor, atom_offsets: Tensor, heads: int
) -> Tensor:
    result: Tensor = terms[0].new_empty((terms[0].shape[0], 4 * terms[0].shape[1]))
    call(
        "vector_attention",
        result,
        terms=flat(*terms),
        first=plain(first),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        heads=heads,
        result=result,
    )
    return result


@_vector_attention.register_fake
def _fake_attention(
    terms: list[Tensor], first: Tensor, edge_offsets: Tensor, edge_source: Tensor, atom_offsets: Tensor, heads: int
) -> Tensor:
    return terms[0].new_empty((terms[0].shape[0], 4 * terms[0].shape[1]))


@torch.library.custom_op("screening::vector_attention_backward", mutates_args=())
def _attention_backward(
    terms: list[Tensor],
    first: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    heads: int,
    grad: Tensor,
    of_edges: bool,
) -> list[Tensor]:
    out = _like(terms, of_edges=of_edges)
    call(
        "vector_attention_backward",
        grad,
        terms=flat(*terms),
        first=plain(first),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        heads=heads,
        grad=plain(grad),
        out=tuple(out),
    )
    return out


@_attention_backward.register_fake
def _fake_backward(
    terms: list[Tensor],
    first: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    heads: int,
    grad: Tensor,
    of_edges: bool,
) -> list[Tensor]:
    return _like(terms, of_edges=of_edges)


@torch.library.custom_op("screening::vector_attention_curve", mutates_args=())
def _attention_curve(
    terms: list[Tensor],
    first: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    heads: int,
    grad: Tensor,
    direction: list[Tensor],
) -> list[Tensor]:
    out, out_grad = _like(terms, of_edges=True), grad.new_empty(grad.shape)
    call(
        "vector_attention_curve",
        grad,
        terms=flat(*terms),
        first=plain(first),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        heads=heads,
        grad=plain(grad),
        direction=flat(*direction),
        out_grad=out_grad,
        out=tuple(out),
    )
    return [*out, out_grad]


@_attention_curve.register_fake
def _fake_curve(
    terms: list[Tensor],
    first: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    heads: int,
    grad: Tensor,
    direction: list[Tensor],
) -> list[Tensor]:
    return [*_like(terms, of_edges=True), grad.new_empty(grad.shape)]


def _save_attention(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    terms, first, edge_offsets, edge_source, atom_offsets, heads = inputs
    ctx.save_for_backward(*terms, first, edge_offsets, edge_source, atom_offsets)
    ctx.heads = heads
    # Without a gradient through distances and directions, as when a property is learned, edges need none of their own.
    ctx.of_edges = any(term.requires_grad for term in terms[5:])


def _differentiate_attention(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *terms, first, edge_offsets, edge_source, atom_offsets = ctx.saved_tensors
    out = _attention_backward(terms, first, edge_offsets, edge_source, atom_offsets, ctx.heads, grad, ctx.of_edges)
    return (out if ctx.of_edges else [*out[:5], None, None]), None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    terms, first, edge_offsets, edge_source, atom_offsets, heads, grad, of_edges = inputs
    ctx.save_for_backward(*terms, first, edge_offsets, edge_source, atom_offsets, grad)
    ctx.heads, ctx.of_edges = heads, of_edges


def _differentiate_backward(ctx: Any, direction: list[Tensor]) -> tuple[Any, ...]:
    *terms, first, edge_offsets, edge_source, atom_offsets, grad = ctx.saved_tensors
    if not ctx.of_edges:
        # What the first derivative did not give has no direction.
        direction = [*direction[:5], torch.zeros_like(terms[5]), torch.zeros_like(terms[6])]
    *out, out_grad = _attention_curve(terms, first, edge_offsets, edge_source, atom_offsets, ctx.heads, grad, direction)
    return out, None, None, None, None, None, out_grad, None


_vector_attention.register_autograd(_differentiate_attention, setup_context=_save_attention)
_attention_backward.register_autograd(_differentiate_backward, setup_context=_save_backward)


def _like(terms: list[Tensor], *, of_edges: bool) -> list[Tensor]:
    """Derivatives with respect to the terms; those of weight and scale are empty if they are not wanted."""
    *of_atoms, weight, scale = terms
    edges = [term if of_edges else term[:0] for term in (weight, scale)]
    return [term.new_empty(term.shape) for term in (*of_atoms, *edges)]
