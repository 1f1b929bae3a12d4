"""The message operators against plain PyTorch: values, derivatives, levels, threads, batches, refusals."""

import pytest
import torch
from derivatives import leaves, narrowed, orders, widened
from edges_made import random_graph, random_terms
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from screening.errors import InputError
from screening.ops import core, message, reference_message, steady
from screening.ops.message_graph import EdgeGraph

pytestmark = pytest.mark.native

SPANS, CHANNELS, SCALES = (3, 4, 8), (1, 5, 16, 64), (1, 2, 9)


@pytest.fixture(params=core.simd_levels(), autouse=True)
def level(request):
    with core.forced_simd_level(request.param):
        yield request.param


def assert_close(found: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_conv_and_its_derivatives_equal_the_reference(channels, span, scales):
    graph = random_graph(channels + span)
    terms = random_terms(graph, 7, channels=channels, span=span, scales=scales)
    assert_close(
        orders(lambda *t: message.edge_conv(*t, graph), terms),
        orders(lambda *t: reference_message.edge_conv(*t, graph), terms),
    )


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_moments_and_their_derivatives_equal_the_reference(channels, span):
    graph = random_graph(channels + span)
    terms = random_terms(graph, 7, channels=channels, span=span)[:5]
    assert_close(
        orders(lambda *t: message.edge_moments(*t, graph), terms, second=False),
        orders(lambda *t: reference_message.edge_moments(*t, graph), terms, second=False),
    )


@given(
    seed=st.integers(0, 10**6),
    channels=st.integers(1, 20),
    span=st.integers(1, 9),
    scales=st.integers(1, 10),
    degree=st.integers(0, 40),
)
def test_any_graph_equals_the_reference(seed, channels, span, scales, degree):
    graph = random_graph(seed, crystals=4, atoms=6, degree=degree)
    terms = random_terms(graph, seed, channels=channels, span=span, scales=scales)
    assert_close(
        orders(lambda *t: message.edge_conv(*t, graph), terms),
        orders(lambda *t: reference_message.edge_conv(*t, graph), terms),
    )


def test_gradcheck_and_gradgradcheck():
    graph = random_graph(2, crystals=3, atoms=3, degree=4)
    terms = leaves(random_terms(graph, 3, channels=3, span=4, scales=2))

    def conv(*t: Tensor) -> Tensor:
        return message.edge_conv(*t, graph)

    def moments(*t: Tensor) -> tuple[Tensor, Tensor]:
        return message.edge_moments(*t, graph)

    assert torch.autograd.gradcheck(conv, terms)
    assert torch.autograd.gradgradcheck(conv, terms)
    assert torch.autograd.gradcheck(moments, terms[:5])


@pytest.mark.parametrize("offsets", [[1, 5], [0, 4], [0, 6], [0, 3, 2, 5], [-1, 5]], ids=str)
def test_segments_hold_every_row(offsets):
    rows = torch.ones(5, 2, requires_grad=True)
    with pytest.raises(InputError, match="segment_sum: offsets must ascend from 0 to the number of rows"):
        message.segment_sum(rows, torch.tensor(offsets, dtype=torch.int32))


def test_segment_sum_and_its_derivatives():
    offsets = torch.tensor([0, 3, 3, 4, 9], dtype=torch.int32)
    rows = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    found, wanted = message.segment_sum(rows, offsets), reference_message.segment_sum(rows, offsets)
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.gradcheck(lambda r: message.segment_sum(r, offsets), rows)
    assert torch.autograd.gradgradcheck(lambda r: message.segment_sum(r, offsets), rows)


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0, 60.0])
def test_float_errors_are_at_most_twice_those_of_the_float_reference(size):
    graph = random_graph(5, crystals=30, atoms=12, degree=16)
    terms = random_terms(graph, 9, channels=32, span=4, size=size)
    narrow = narrowed(terms)
    exact = orders(lambda *t: reference_message.edge_conv(*t, graph), widened(narrow), second=False)
    theirs = orders(lambda *t: reference_message.edge_conv(*t, graph), narrow, second=False)
    ours = orders(lambda *t: message.edge_conv(*t, graph), narrow, second=False)
    for mine, reference, truth in zip(ours, theirs, exact, strict=True):
        allowed = 2 * (reference - truth).abs().max() + 1e-7 * truth.abs().max()
        assert (mine - truth).abs().max() <= allowed


@pytest.mark.parametrize("value", [1e4, -1e4, 3e38, -3e38])
def test_gates_stay_finite_far_out(value):
    graph = EdgeGraph(*(torch.tensor(t, dtype=torch.int32) for t in ([0, 1], [0], [0, 1])))
    for column in (0, 1):
        centre = torch.zeros(1, 2)
        centre[0, column] = value
        rest = (
            torch.zeros(1, 2),
            torch.zeros(4, 2),
            torch.zeros(1, 4),
            torch.zeros(1, dtype=torch.int32),
            torch.ones(1, 1),
        )
        found, wanted = message.edge_conv(centre, *rest, graph), reference_message.edge_conv(centre, *rest, graph)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-30)


def test_derivatives_stay_finite_far_out():
    graph = EdgeGraph(*(torch.tensor(t, dtype=torch.int32) for t in ([0, 1], [0], [0, 1])))
    for dtype in (torch.float32, torch.float64):
        for column, value in ((0, -800.0), (0, 800.0), (1, -800.0), (1, 800.0)):
            centre = torch.zeros(1, 2, dtype=dtype)
            centre[0, column] = value
            rest = torch.zeros(1, 2), torch.zeros(4, 2), torch.zeros(1, 4), torch.zeros(1), torch.ones(1, 1)
            terms = [centre, *(term.to(dtype) for term in rest)]
            terms[4] = terms[4].int()
            assert all(term.isfinite().all() for term in orders(lambda *t: message.edge_conv(*t, graph), terms))


@pytest.mark.parametrize("column", [0, 20])
def test_a_nan_reaches_its_own_rows_and_no_others(column):
    graph = random_graph(4, crystals=6, atoms=6, degree=5)
    terms = narrowed(random_terms(graph, 3, channels=20, span=4))
    clean = message.edge_conv(*terms, graph)
    atom = int(graph.edge_source[0])
    terms[1][atom, column] = float("nan")
    found = message.edge_conv(*terms, graph)
    hears = torch.tensor(
        [
            bool((graph.edge_source[begin:end] == atom).any())
            for begin, end in zip(graph.edge_offsets[:-1], graph.edge_offsets[1:], strict=True)
        ]
    )
    assert hears.any()
    assert found[hears].isnan().flatten(1).any(dim=1).all()
    assert torch.equal(found[~hears], clean[~hears])


@pytest.mark.parametrize("scales", SCALES)
def test_threads_change_no_bit(scales):
    graph = random_graph(6, crystals=60, atoms=12, degree=14)
    terms = narrowed(random_terms(graph, 3, channels=24, span=8, scales=scales))
    before, runs = core.threads(), []
    try:
        for threads in (1, 2, 5):
            core.set_threads(threads)
            conv = orders(lambda *t: message.edge_conv(*t, graph), terms)
            runs.append([*conv, *orders(lambda *t: message.edge_moments(*t, graph), terms[:5], second=False)])
    finally:
        core.set_threads(None)
    assert core.threads() == before
    for run in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("scales", SCALES)
def test_a_batch_gives_the_bits_of_its_crystals(scales):
    graph = random_graph(8, crystals=20, atoms=9, degree=9)
    terms = narrowed(random_terms(graph, 3, channels=20, span=4, scales=scales))
    whole = message.edge_conv(*terms, graph)
    centre, source, table, weight, first, scale = terms
    for c in range(20):
        a, b = graph.atom_offsets[c : c + 2].tolist()
        e, f = int(graph.edge_offsets[a]), int(graph.edge_offsets[b])
        alone = EdgeGraph(
            graph.edge_offsets[a : b + 1] - e, graph.edge_source[e:f] - a, torch.tensor([0, b - a], dtype=torch.int32)
        )
        found = message.edge_conv(centre[a:b], source[a:b], table, weight[e:f], first[e:f], scale[e:f], alone)
        assert torch.equal(found, whole[a:b])


def test_compiled_without_a_break():
    graph = random_graph(9, crystals=4)
    terms = random_terms(graph, 3, channels=4, span=4)

    def loss(*t: Tensor) -> Tensor:
        mean, variance = message.edge_moments(*t[:5], graph)
        summed = message.segment_sum(message.edge_conv(*t, graph).flatten(1), graph.atom_offsets)
        return summed.sum() + mean.sum() + variance.sum()

    explained = torch._dynamo.explain(loss)(*terms)
    assert explained.graph_break_count == 0


def test_operators_keep_their_word_to_torch():
    graph = random_graph(3, crystals=3)
    terms = leaves(random_terms(graph, 3, channels=3, span=4))
    torch.library.opcheck(torch.ops.screening.edge_conv.default, (*terms, *graph))
    torch.library.opcheck(torch.ops.screening.edge_moments.default, (*terms[:5], *graph))
    torch.library.opcheck(torch.ops.screening.segment_sum.default, (terms[0], graph.atom_offsets))


BROKEN = {
    "an edge leaves its crystal": lambda t, g: (t, g._replace(edge_source=g.edge_source + len(t[0]))),
    "first leads outside the table": lambda t, g: ([*t[:4], t[4] + 100, t[5]], g),
    "an even number of columns": lambda t, g: ([x[:, :5] if k < 3 else x for k, x in enumerate(t)], g),
    "as many columns": lambda t, g: ([t[0], t[1], t[2][:, :4], *t[3:]], g),
    "a row an atom": lambda t, g: ([t[0][1:], *t[1:]], g),
    "a row an edge": lambda t, g: ([*t[:3], t[3][1:], *t[4:]], g),
    "scale must have a row an edge": lambda t, g: ([*t[:5], t[5][1:]], g),
    "scale must have a row": lambda t, g: ([*t[:5], t[5][:, :0]], g),
    r"scale must be \(edges, K\), got shape": lambda t, g: ([*t[:5], t[5][:, 0]], g),
    "offsets must not decrease": lambda t, g: (
        t,
        g._replace(edge_offsets=torch.cat([g.edge_offsets[:1], g.edge_offsets[1:-1].flip(0), g.edge_offsets[-1:]])),
    ),
}


@pytest.mark.parametrize("why", BROKEN)
def test_what_does_not_fit_is_refused(why):
    graph = random_graph(3, crystals=4)
    terms, graph = BROKEN[why](random_terms(graph, 3, channels=3, span=4), graph)
    with pytest.raises(InputError, match=why):
        message.edge_conv(*terms, graph)


def test_half_precision_is_refused_with_advice():
    graph = random_graph(3, crystals=4)
    terms = [t.half() if t.is_floating_point() else t for t in random_terms(graph, 3, channels=3, span=4)]
    with pytest.raises(InputError, match=r"takes float32 or float64, got torch.float16; cast"):
        message.edge_conv(*terms, graph)


@given(seed=st.integers(0, 10**6), rows=st.integers(0, 40), inner=st.integers(1, 20), columns=st.integers(1, 90))
def test_linear_equals_torch_and_a_row_depends_on_itself_alone(seed, rows, inner, columns):
    draw = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(*shape, generator=draw) for shape in ((rows, inner), (columns, inner)))
    bias = torch.randn(columns, generator=draw)
    found = steady.linear(x, weight, bias)
    torch.testing.assert_close(found, torch.nn.functional.linear(x, weight, bias), rtol=1e-5, atol=1e-5)
    for row in range(rows):
        assert torch.equal(steady.linear(x[row : row + 1], weight, bias), found[row : row + 1])


def test_derivatives_of_linear():
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 3), (4, 3)))
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(steady.linear, (x, weight, bias))
    assert torch.autograd.gradgradcheck(steady.linear, (x, weight, bias))
    torch.library.opcheck(torch.ops.screening.linear.default, (x, weight, bias))
