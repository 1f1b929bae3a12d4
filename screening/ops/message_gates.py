"""Line graphs, and means weighed by gates of edges, as torch operators; reference_message.py says what is right.

Both treat a graph and its line graph alike: an `EdgeGraph`, in which the "atoms" of a line graph are edges.
"""

from typing import Any

import torch
from torch import Tensor

from screening.errors import InputError
from screening.ops import core
from screening.ops.message_call import call, flat
from screening.ops.message_graph import EdgeGraph
from screening.ops.steady import plain

MOST_PAIRS = 2**31 - 1


def line_graph(graph: EdgeGraph) -> EdgeGraph:
    """Pair each edge with the edges into its source: see reference_message.line_graph. Its size depends on the data."""
    offsets, sources = graph.edge_offsets.long(), graph.edge_source.long()
    counts = offsets.diff()[sources]
    ends = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    if not torch.compiler.is_compiling() and int(ends[-1]) > MOST_PAIRS:
        raise InputError(
            f"line_graph: {int(ends[-1]):,} pairs of edges, more than {MOST_PAIRS:,}; use batches of fewer edges"
        )
    source: Tensor = _line_source(ends.int(), *graph)
    return EdgeGraph(ends.int(), source, graph.edge_offsets[graph.atom_offsets.long()])


@torch.library.custom_op("screening::line_source", mutates_args=())
def _line_source(line_offsets: Tensor, edge_offsets: Tensor, edge_source: Tensor, atom_offsets: Tensor) -> Tensor:
    result = edge_source.new_empty(int(line_offsets[-1]))
    with core.device_of(edge_source), core.input_errors():
        core.native.line_graph(
            graph=flat(edge_offsets, edge_source, atom_offsets),
            line_offsets=plain(line_offsets),
            line_source=result,
            threads=core.thread_count(None),
            stream=core.stream_of(edge_source),
        )
    return result


@_line_source.register_fake
def _fake_line_source(line_offsets: Tensor, edge_offsets: Tensor, edge_source: Tensor, atom_offsets: Tensor) -> Tensor:
    return edge_source.new_empty(torch.library.get_ctx().new_dynamic_size())


def gated_mean(
    centre: Tensor, source_term: Tensor, value: Tensor, edge: Tensor, graph: EdgeGraph, *, keep_gates: bool = True
) -> tuple[Tensor, Tensor]:
    """Average each atom's neighbours by the gates of its edges: see reference_message.gated_mean.

    Without `keep_gates` the second result is empty, and no gate is stored. It can be differentiated twice.
    """
    result, gates = _gated_mean(centre, source_term, value, edge, *graph, keep_gates)
    return result, gates


@torch.library.custom_op("screening::gated_mean", mutates_args=())
def _gated_mean(
    centre: Tensor,
    source_term: Tensor,
    value: Tensor,
    edge: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    keep_gates: bool,
) -> tuple[Tensor, Tensor]:
    result = centre.new_empty(centre.shape)
    gates = edge.new_empty((edge.shape[0] if keep_gates else 0, edge.shape[1]))
    call(
        "gated_mean",
        centre,
        terms=flat(centre, source_term, value, edge),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        result=result,
        gates=gates if keep_gates else None,
    )
    return result, gates


@_gated_mean.register_fake
def _fake_mean(
    centre: Tensor,
    source_term: Tensor,
    value: Tensor,
    edge: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    keep_gates: bool,
) -> tuple[Tensor, Tensor]:
    return centre.new_empty(centre.shape), edge.new_empty((edge.shape[0] if keep_gates else 0, edge.shape[1]))


@torch.library.custom_op("screening::gated_mean_backward", mutates_args=())
def _gated_mean_backward(
    centre: Tensor,
    source_term: Tensor,
    value: Tensor,
    edge: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    grad: Tensor,
    of_gates: Tensor,
    gates_kept: bool,
) -> list[Tensor]:
    out = _like(centre, edge)
    call(
        "gated_mean_backward",
        centre,
        terms=flat(centre, source_term, value, edge),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        grad=plain(grad),
        of_gates=plain(of_gates) if gates_kept else None,
        out=tuple(out),
    )
    return out


@_gated_mean_backward.register_fake
def _fake_backward(
    centre: Tensor,
    source_term: Tensor,
    value: Tensor,
    edge: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    grad: Tensor,
    of_gates: Tensor,
    gates_kept: bool,
) -> list[Tensor]:
    return _like(centre, edge)


@torch.library.custom_op("screening::gated_mean_curve", mutates_args=())
def _gated_mean_curve(
    centre: Tensor,
    source_term: Tensor,
    value: Tensor,
    edge: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    grad: Tensor,
    direction: list[Tensor],
) -> list[Tensor]:
    out, out_grad = _like(centre, edge), grad.new_empty(grad.shape)
    call(
        "gated_mean_curve",
        centre,
        terms=flat(centre, source_term, value, edge),
        graph=flat(edge_offsets, edge_source, atom_offsets),
        grad=plain(grad),
        direction=flat(*direction),
        out_grad=out_grad,
        out=tuple(out),
    )
    return [*out, out_grad]


@_gated_mean_curve.register_fake
def _fake_curve(
    centre: Tensor,
    source_term: Tensor,
    value: Tensor,
    edge: Tensor,
    edge_offsets: Tensor,
    edge_source: Tensor,
    atom_offsets: Tensor,
    grad: Tensor,
    direction: list[Tensor],
) -> list[Tensor]:
    return [*_like(centre, edge), grad.new_empty(grad.shape)]


def _save_mean(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.gates_kept = inputs[7]


def _differentiate_mean(ctx: Any, grad: Tensor, of_gates: Tensor) -> tuple[Tensor | None, ...]:
    out = _gated_mean_backward(*ctx.saved_tensors, grad, of_gates, ctx.gates_kept)
    return (*out, None, None, None, None)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.save_for_backward(*inputs[:8])
    ctx.gates_kept = inputs[9]


def _differentiate_backward(ctx: Any, grads: list[Tensor]) -> tuple[Tensor | None, ...]:
    *terms, edge_offsets, edge_source, atom_offsets, grad = ctx.saved_tensors
    *out, out_grad = _gated_mean_curve(*terms, edge_offsets, edge_source, atom_offsets, grad, grads)
    turned = None
    if ctx.gates_kept:
        # The direction of the gates.
        centre, source, _, edge = grads
        turned = centre[_centres(edge_offsets, edge)] + source[edge_source.long()] + edge
    return (*out, None, None, None, out_grad, turned, None)


def _centres(edge_offsets: Tensor, edge: Tensor) -> Tensor:
    rows = torch.arange(edge_offsets.shape[0] - 1, device=edge_offsets.device)
    return torch.repeat_interleave(rows, edge_offsets.diff().long(), output_size=edge.shape[0])


_gated_mean.register_autograd(_differentiate_mean, setup_context=_save_mean)
_gated_mean_backward.register_autograd(_differentiate_backward, setup_context=_save_backward)


def _like(centre: Tensor, edge: Tensor) -> list[Tensor]:
    """Derivatives with respect to centre, source, value and edge."""
    return [*(centre.new_empty(centre.shape) for _ in range(3)), edge.new_empty(edge.shape)]
