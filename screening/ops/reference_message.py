"""Message passing over edges in plain PyTorch, slow and obvious: the definition of right for message.py.

Every function can be differentiated any number of times in every floating argument. Columns of `centre`,
`source_term` and `table` are 2C: the first C make the gate, the others the core of a message.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from screening.ops.message_graph import EdgeGraph


def edge_conv(
    centre: "Tensor",
    source_term: "Tensor",
    table: "Tensor",
    weight: "Tensor",
    first: "Tensor",
    scale: "Tensor",
    graph: "EdgeGraph",
) -> "Tensor":
    """Sum each atom's gated messages with each of the K factors that `scale` (edges, K) has for an edge: (atoms, K, C).

    out[i, k] = sum over edges e into i of scale[e, k] * sigmoid(a_e[:C]) * softplus(a_e[C:]), with a_e of
    `pre_activation`.
    """
    import torch

    gate, core = pre_activation(centre, source_term, table, weight, first, graph).chunk(2, dim=1)
    messages = torch.sigmoid(gate) * torch.nn.functional.softplus(core)
    scaled = scale[:, :, None] * messages[:, None, :]
    return segment_sum(scaled.flatten(1), graph.edge_offsets).view(len(centre), *scaled.shape[1:])


def edge_moments(
    centre: "Tensor", source_term: "Tensor", table: "Tensor", weight: "Tensor", first: "Tensor", graph: "EdgeGraph"
) -> "tuple[Tensor, Tensor]":
    """Mean and biased variance of a_e over all edges, each (2C,); zeros without edges."""
    rows = pre_activation(centre, source_term, table, weight, first, graph)
    count = max(len(rows), 1)
    mean = rows.sum(dim=0) / count
    return mean, ((rows - mean) ** 2).sum(dim=0) / count


def pre_activation(
    centre: "Tensor", source_term: "Tensor", table: "Tensor", weight: "Tensor", first: "Tensor", graph: "EdgeGraph"
) -> "Tensor":
    """Add up what enters the gate and the core of each edge: (edges, 2C).

    a_e = centre[i] + source_term[j] + sum over m of weight[e, m] * table[first[e] + m], for the edge from j into i.
    """
    import torch

    sources = graph.edge_source.long()
    window = first.long()[:, None] + torch.arange(weight.shape[1], device=weight.device)
    distance_term = (weight[:, :, None] * table[window]).sum(dim=1)
    return centre[_row_of(graph.edge_offsets, len(sources))] + source_term[sources] + distance_term


def segment_sum(rows: "Tensor", offsets: "Tensor") -> "Tensor":
    """Sum rows [offsets[s], offsets[s + 1]) for each segment s: (segments, columns)."""
    total = rows.new_zeros((len(offsets) - 1, rows.shape[1]))
    return total.index_add(0, _row_of(offsets, len(rows)), rows)


def row_softmax(scores: "Tensor", offsets: "Tensor") -> "Tensor":
    """Turn each column of scores (edges, H) into weights that sum to 1 over each row of edges."""
    import torch

    rows = _row_of(offsets, len(scores))
    largest = scores.new_zeros((len(offsets) - 1, scores.shape[1]))
    where = rows[:, None].expand_as(scores)
    largest = largest.scatter_reduce(0, where, scores.detach(), "amax", include_self=False)
    raised = torch.exp(scores - largest[rows])
    return raised / segment_sum(raised, offsets)[rows]


GATE_FLOOR = 1e-6


def line_graph(graph: "EdgeGraph") -> "EdgeGraph":
    """Pair each edge with the edges into its source: a graph whose atoms are the edges, in their order.

    Row e holds the edges that lead into the source of e, ascending.
    """
    import torch

    offsets, sources = graph.edge_offsets.tolist(), graph.edge_source.tolist()
    rows = [list(range(offsets[j], offsets[j + 1])) for j in sources]
    counts = torch.tensor([0, *map(len, rows)], device=graph.edge_source.device)
    paired = torch.tensor([e for row in rows for e in row], device=graph.edge_source.device)
    return graph._replace(
        edge_offsets=counts.cumsum(0).int(),
        edge_source=paired.int(),
        atom_offsets=graph.edge_offsets[graph.atom_offsets.long()],
    )


def gated_mean(
    centre: "Tensor", source_term: "Tensor", value: "Tensor", edge: "Tensor", graph: "EdgeGraph"
) -> "tuple[Tensor, Tensor]":
    """Average each atom's neighbours by the gates of its edges: means (atoms, C), and the gates (edges, C).

    The gate of an edge e from j into i is m_e = centre[i] + source_term[j] + edge[e]; the mean is
    sum of sigmoid(m_e) value[j] / (sum of sigmoid(m_e) + 1e-6).
    """
    import torch

    sources = graph.edge_source.long()
    gates = centre[_row_of(graph.edge_offsets, len(edge))] + source_term[sources] + edge
    opened = torch.sigmoid(gates)
    total = segment_sum(opened, graph.edge_offsets) + GATE_FLOOR
    return segment_sum(opened * value[sources], graph.edge_offsets) / total, gates


def head_scores(
    atom: "Tensor", edge: "Tensor", to_centre: "Tensor", to_source: "Tensor", graph: "EdgeGraph"
) -> "Tensor":
    """Score each edge e from j into i by its two ends, (edges, heads), with factors (heads, C).

    score_h = sum over the channels of head h of to_centre softplus(atom[i] + edge[e])
            + to_source softplus(atom[j] + edge[e]), for `atom` (atoms, heads x C) and `edge` (edges, heads x C).
    """
    here = _ends(atom, edge, _row_of(graph.edge_offsets, len(edge)), len(to_centre))
    there = _ends(atom, edge, graph.edge_source.long(), len(to_centre))
    return (here * to_centre + there * to_source).sum(dim=2)


def head_sum(atom: "Tensor", edge: "Tensor", weight: "Tensor", graph: "EdgeGraph") -> "Tensor":
    """Sum what each atom hears over edges and heads, (atoms, C), with weights (edges, heads).

    out[i] = sum over edges e from j into i and heads h of weight[e, h] softplus(atom[j] + edge[e]) of that head.
    """
    there = _ends(atom, edge, graph.edge_source.long(), weight.shape[1])
    return segment_sum((weight[:, :, None] * there).sum(dim=1), graph.edge_offsets)


def _ends(atom: "Tensor", edge: "Tensor", rows: "Tensor", heads: int) -> "Tensor":
    import torch

    return torch.nn.functional.softplus(atom[rows] + edge).view(len(edge), heads, edge.shape[1] // heads)


def vector_attention(
    query: "Tensor",
    key: "Tensor",
    value: "Tensor",
    vectors: "Tensor",
    table: "Tensor",
    weight: "Tensor",
    first: "Tensor",
    scale: "Tensor",
    graph: "EdgeGraph",
    *,
    heads: int,
) -> "Tensor":
    """Sum what each atom hears, (atoms, 4, C): one plain, and three along x, y and z.

    `query`, `key` (atoms, C); `value`, `vectors` (atoms, 3, C); `table` (rows, 4C); `scale` (edges, 4): the envelope,
    and it times the direction. Heads are runs of C / heads channels. With four filters of the distance of an edge,
    f = sum over m of weight[e, m] * table[first[e] + m], the weight of a head of the edge from j into i is
    alpha = silu(sum over its channels of query[i] key[j] f[0]), and what i hears is

        plain     scale[0] alpha value[j, 0] f[1]
        along d   scale[0] value[j, 1] f[2] vectors[j, d] + scale[d] value[j, 2] f[3]
    """
    import torch

    sources, channels = graph.edge_source.long(), query.shape[1]
    rows = _row_of(graph.edge_offsets, len(sources))
    window = first.long()[:, None] + torch.arange(weight.shape[1], device=weight.device)
    filters = (weight[:, :, None] * table[window]).sum(dim=1).view(-1, 4, channels)
    scores = (query[rows] * key[sources] * filters[:, 0]).view(-1, heads, channels // heads).sum(dim=2)
    alpha = torch.nn.functional.silu(scores).repeat_interleave(channels // heads, dim=1)
    heard = value.view(-1, 3, channels)[sources] * filters[:, 1:]
    plain = scale[:, :1] * alpha * heard[:, 0]
    carried = scale[:, :1, None] * heard[:, 1, None] * vectors.view(-1, 3, channels)[sources]
    along = carried + scale[:, 1:, None] * heard[:, 2, None]
    messages = torch.cat([plain[:, None], along], dim=1)
    return segment_sum(messages.flatten(1), graph.edge_offsets).view(-1, 4, channels)


def _row_of(offsets: "Tensor", length: int) -> "Tensor":
    """The segment that each of `length` rows is in."""
    import torch

    counts = offsets.diff().long()
    return torch.repeat_interleave(torch.arange(len(counts), device=offsets.device), counts, output_size=length)
