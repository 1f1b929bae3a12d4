"""Attention to edges with several heads as torch operators; reference_message.py says what is right.

An edge has softplus(atom + edge) of its two ends, which no operator stores. Each can be differentiated twice: first
derivatives are the native core's, second ones are taken of the definition, for only losses of derivatives ask for them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from screening.ops import reference_message
from screening.ops.message_call import call, flat
from screening.ops.message_graph import EdgeGraph
from screening.ops.steady import plain


def head_scores(atom: Tensor, edge: Tensor, to_centre: Tensor, to_source: Tensor, graph: EdgeGraph) -> Tensor:
    """Score each edge by its two ends, (edges, heads): see reference_message.head_scores."""
    result: Tensor = _head_scores(atom, edge, to_centre, to_source, *graph)
    return result


def head_sum(atom: Tensor, edge: Tensor, weight: Tensor, graph: EdgeGraph) -> Tensor:
    """Sum what each atom hears over edges and heads, (atoms, C): see reference_message.head_sum."""
    result: Tensor = _head_sum(atom, edge, weight, *graph)
    return result


@torch.library.custom_op("screening::head_scores", mutates_args=())
def _head_scores(
    atom: Tensor,
    edge: Tensor,
    to_centre: Tensor,
    to_source: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
) -> Tensor:
    result = atom.new_empty((edge.shape[0], to_centre.shape[0]))
    call(
        "head_scores",
        atom,
        terms=flat(atom, edge),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        to_centre=plain(to_centre),
        to_source=plain(to_source),
        result=result,
    )
    return result


@_head_scores.register_fake
def _fake_scores(atom: Tensor, edge: Tensor, to_centre: Tensor, *_: Tensor) -> Tensor:
    return atom.new_empty((edge.shape[0], to_centre.shape[0]))


@torch.library.custom_op("screening::head_scores_backward", mutates_args=())
def _head_scores_backward(
    atom: Tensor,
    edge: Tensor,
    to_centre: Tensor,
    to_source: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    grad: Tensor,
) -> list[Tensor]:
    out = [one.new_empty(one.shape) for one in (atom, edge, to_centre, to_source)]
    call(
        "head_scores_backward",
        atom,
        terms=flat(atom, edge),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        to_centre=plain(to_centre),
        to_source=plain(to_source),
        grad=plain(grad),
        out=tuple(out),
    )
    return out


@_head_scores_backward.register_fake
def _fake_scores_backward(atom: Tensor, edge: Tensor, to_centre: Tensor, to_source: Tensor, *_: Tensor) -> list[Tensor]:
    return [one.new_empty(one.shape) for one in (atom, edge, to_centre, to_source)]


@torch.library.custom_op("screening::head_sum", mutates_args=())
def _head_sum(
    atom: Tensor, edge: Tensor, weight: Tensor, edge_offsets: Tensor, edge_source: Tensor, atom_offsets: Tensor
) -> Tensor:
    result = atom.new_empty((atom.shape[0], atom.shape[1] // weight.shape[1]))
    call(
        "head_sum",
        atom,
        terms=flat(atom, edge),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        weight=plain(weight),
        result=result,
    )
    return result


@_head_sum.register_fake
def _fake_sum(atom: Tensor, edge: Tensor, weight: Tensor, *_: Tensor) -> Tensor:
    return atom.new_empty((atom.shape[0], atom.shape[1] // weight.shape[1]))


@torch.library.custom_op("screening::head_sum_backward", mutates_args=())
def _head_sum_backward(
    atom: Tensor,
    edge: Tensor,
    weight: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    grad: Tensor,
) -> list[Tensor]:
    out = [one.new_empty(one.shape) for one in (atom, edge, weight)]
    call(
        "head_sum_backward",
        atom,
        terms=flat(atom, edge),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        weight=plain(weight),
        grad=plain(grad),
        out=tuple(out),
    )
    return out


@_head_sum_backward.register_fake
def _fake_sum_backward(atom: Tensor, edge: Tensor, weight: Tensor, *_: Tensor) -> list[Tensor]:
    return [one.new_empty(one.shape) for one in (atom, edge, weight)]


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_scores(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_head_scores_backward(*ctx.saved_tensors, grad), None, None, None)


def _differentiate_sum(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_head_sum_backward(*ctx.saved_tensors, grad), None, None, None)


def _differentiate_scores_backward(ctx: Any, direction: list[Tensor]) -> tuple[Tensor | None, ...]:
    *terms, edge_offsets, edge_source, atom_offsets, grad = ctx.saved_tensors
    graph = EdgeGraph(edge_offsets, edge_source, atom_offsets)
    return _curve(lambda a, e, p, q: reference_message.head_scores(a, e, p, q, graph), terms, grad, direction)


def _differentiate_sum_backward(ctx: Any, direction: list[Tensor]) -> tuple[Tensor | None, ...]:
    *terms, edge_offsets, edge_source, atom_offsets, grad = ctx.saved_tensors
    graph = EdgeGraph(edge_offsets, edge_source, atom_offsets)
    return _curve(lambda a, e, w: reference_message.head_sum(a, e, w, graph), terms, grad, direction)


def _curve(
    definition: Callable[..., Tensor], terms: list[Tensor], grad: Tensor, direction: list[Tensor]
) -> tuple[Tensor | None, ...]:
    """Derivatives of sum(direction . first derivatives): with respect to the terms, none of the graph, and to grad."""
    with torch.enable_grad():
        *moved, above = (one.detach().requires_grad_() for one in (*terms, grad))
        first = torch.autograd.grad(definition(*moved), moved, above, create_graph=True)
        found = torch.autograd.grad(first, [*moved, above], direction, allow_unused=True, materialize_grads=True)
    return (*found[:-1], None, None, None, found[-1])


_head_scores.register_autograd(_differentiate_scores, setup_context=_save)
_head_scores_backward.register_autograd(_differentiate_scores_backward, setup_context=_save)
_head_sum.register_autograd(_differentiate_sum, setup_context=_save)
_head_sum_backward.register_autograd(_differentiate_sum_backward, setup_context=_save)
