from typing import Any

def neighbor_count(
    positions: Any,
    lattice: Any,
    pbc: Any,
    atom_offsets: Any,
    cutoff: float,
    max_neighbors: int,
    whole_shells: bool,
    shell_tolerance: float,
    edge_count: Any,
    row_cut: Any,
    threads: int,
    stream: int,
) -> None: ...
def neighbor_fill(
    positions: Any,
    lattice: Any,
    pbc: Any,
    atom_offsets: Any,
    cutoff: float,
    edge_offsets: Any,
    row_cut: Any,
    edge_source: Any,
    edge_shift: Any,
    edge_vector: Any,
    edge_distance: Any,
    threads: int,
    stream: int,
) -> None: ...
def unusable_crystal(positions: Any, lattice: Any, pbc: Any, atom_offsets: Any) -> str: ...
def expand_sites(
    fractional: Any, rotations: Any, translations: Any, lattice: Any, tolerance: float
) -> tuple[Any, Any]: ...
def site_coordinates(texts: list[str], limit: float) -> tuple[Any, int, bool]: ...
def cell_lattice(texts: list[str | None], limit: float) -> tuple[list[float], Any, int, bool]: ...
def scan_rows(
    text: bytes,
    starts: Any,
    row_offsets: Any,
    targets: Any,
    exact: bool,
    numbers: Any,
    values: Any,
    faults: Any,
) -> None: ...
def scan_lines(
    text: bytes,
    begins: Any,
    ends: Any,
    literals: bytes,
    literal_offsets: Any,
    kinds: Any,
    fits: Any,
    numbers: Any,
    spans: Any,
) -> None: ...
def edge_conv_f32(
    terms: tuple[Any, ...], graph: tuple[Any, ...], scale: Any, result: Any, threads: int, stream: int
) -> None: ...
def edge_conv_f64(
    terms: tuple[Any, ...], graph: tuple[Any, ...], scale: Any, result: Any, threads: int, stream: int
) -> None: ...
def edge_conv_backward_f32(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    scale: Any,
    grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def edge_conv_backward_f64(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    scale: Any,
    grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def edge_conv_curve_f32(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    scale: Any,
    grad: Any,
    direction: tuple[Any, ...],
    out_grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def edge_conv_curve_f64(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    scale: Any,
    grad: Any,
    direction: tuple[Any, ...],
    out_grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def edge_moments_f32(
    terms: tuple[Any, ...], graph: tuple[Any, ...], mean: Any, variance: Any, threads: int, stream: int
) -> None: ...
def edge_moments_f64(
    terms: tuple[Any, ...], graph: tuple[Any, ...], mean: Any, variance: Any, threads: int, stream: int
) -> None: ...
def edge_moments_backward_f32(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    mean: Any,
    grad_mean: Any,
    grad_variance: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def edge_moments_backward_f64(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    mean: Any,
    grad_mean: Any,
    grad_variance: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def segment_sum_f32(rows: Any, offsets: Any, result: Any, threads: int, stream: int) -> None: ...
def segment_sum_f64(rows: Any, offsets: Any, result: Any, threads: int, stream: int) -> None: ...
def row_softmax_f32(scores: Any, offsets: Any, result: Any, threads: int, stream: int) -> None: ...
def row_softmax_backward_f32(result: Any, offsets: Any, grad: Any, out: Any, threads: int, stream: int) -> None: ...
def row_softmax_curve_f32(
    result: Any,
    offsets: Any,
    grad: Any,
    direction: Any,
    out_result: Any,
    out_grad: Any,
    threads: int,
    stream: int,
) -> None: ...
def head_scores_f32(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    to_centre: Any,
    to_source: Any,
    result: Any,
    threads: int,
    stream: int,
) -> None: ...
def head_scores_backward_f32(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    to_centre: Any,
    to_source: Any,
    grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def head_sum_f32(
    terms: tuple[Any, ...], graph: tuple[Any, ...], weight: Any, result: Any, threads: int, stream: int
) -> None: ...
def head_sum_backward_f32(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    weight: Any,
    grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def gated_mean_f32(
    terms: tuple[Any, ...], graph: tuple[Any, ...], result: Any, gates: Any, threads: int, stream: int
) -> None: ...
def gated_mean_backward_f32(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    grad: Any,
    of_gates: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def gated_mean_curve_f32(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    grad: Any,
    direction: tuple[Any, ...],
    out_grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def row_softmax_f64(scores: Any, offsets: Any, result: Any, threads: int, stream: int) -> None: ...
def row_softmax_backward_f64(result: Any, offsets: Any, grad: Any, out: Any, threads: int, stream: int) -> None: ...
def row_softmax_curve_f64(
    result: Any,
    offsets: Any,
    grad: Any,
    direction: Any,
    out_result: Any,
    out_grad: Any,
    threads: int,
    stream: int,
) -> None: ...
def head_scores_f64(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    to_centre: Any,
    to_source: Any,
    result: Any,
    threads: int,
    stream: int,
) -> None: ...
def head_scores_backward_f64(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    to_centre: Any,
    to_source: Any,
    grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def head_sum_f64(
    terms: tuple[Any, ...], graph: tuple[Any, ...], weight: Any, result: Any, threads: int, stream: int
) -> None: ...
def head_sum_backward_f64(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    weight: Any,
    grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def gated_mean_f64(
    terms: tuple[Any, ...], graph: tuple[Any, ...], result: Any, gates: Any, threads: int, stream: int
) -> None: ...
def gated_mean_backward_f64(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    grad: Any,
    of_gates: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def gated_mean_curve_f64(
    terms: tuple[Any, ...],
    graph: tuple[Any, ...],
    grad: Any,
    direction: tuple[Any, ...],
    out_grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def line_graph(graph: tuple[Any, ...], line_offsets: Any, line_source: Any, threads: int, stream: int) -> None: ...
def vector_attention_f32(
    terms: tuple[Any, ...],
    first: Any,
    graph: tuple[Any, ...],
    heads: int,
    result: Any,
    threads: int,
    stream: int,
) -> None: ...
def vector_attention_backward_f32(
    terms: tuple[Any, ...],
    first: Any,
    graph: tuple[Any, ...],
    heads: int,
    grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def vector_attention_curve_f32(
    terms: tuple[Any, ...],
    first: Any,
    graph: tuple[Any, ...],
    heads: int,
    grad: Any,
    direction: tuple[Any, ...],
    out_grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def vector_attention_f64(
    terms: tuple[Any, ...],
    first: Any,
    graph: tuple[Any, ...],
    heads: int,
    result: Any,
    threads: int,
    stream: int,
) -> None: ...
def vector_attention_backward_f64(
    terms: tuple[Any, ...],
    first: Any,
    graph: tuple[Any, ...],
    heads: int,
    grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def vector_attention_curve_f64(
    terms: tuple[Any, ...],
    first: Any,
    graph: tuple[Any, ...],
    heads: int,
    grad: Any,
    direction: tuple[Any, ...],
    out_grad: Any,
    out: tuple[Any, ...],
    threads: int,
    stream: int,
) -> None: ...
def linear_weight_f32(rows: Any, grad: Any, weight: Any, bias: Any, threads: int) -> None: ...
def silu_f32(values: Any, result: Any, threads: int) -> None: ...
def silu_backward_f32(values: Any, grad: Any, result: Any, threads: int) -> None: ...
def silu_second_f32(values: Any, grad: Any, direction: Any, of_values: Any, of_grad: Any, threads: int) -> None: ...
def sum_lengths_f32(sums: Any, softening: float, result: Any, threads: int) -> None: ...
def sum_lengths_backward_f32(sums: Any, lengths: Any, grad: Any, of_sums: Any, threads: int) -> None: ...
def sum_lengths_second_f32(
    sums: Any, lengths: Any, grad: Any, direction: Any, of_sums: Any, of_grad: Any, threads: int
) -> None: ...
def column_moments_f32(rows: Any, mean: Any, variance: Any, threads: int) -> None: ...
def normal_silu_f32(rows: Any, factor: Any, shift: Any, onto: Any, result: Any, threads: int) -> None: ...
def normal_silu_sums_f32(rows: Any, grad: Any, factor: Any, shift: Any, mean: Any, sums: Any, threads: int) -> None: ...
def normal_silu_backward_f32(
    rows: Any, grad: Any, factor: Any, shift: Any, mean: Any, offset: Any, slope: Any, result: Any, threads: int
) -> None: ...
def normal_silu_second_f32(
    rows: Any,
    grad: Any,
    factor: Any,
    shift: Any,
    mean: Any,
    direction: Any,
    scaled: Any,
    shifted: Any,
    of_rows: Any,
    of_grad: Any,
    sums: Any,
    threads: int,
) -> None: ...
def window_rows_f32(weight: Any, first: Any, table: Any, result: Any, threads: int) -> None: ...
def window_rows_backward_f32(weight: Any, first: Any, grad: Any, of_table: Any, threads: int) -> None: ...
def linear_f32(rows: Any, weight: Any, bias: Any, result: Any, threads: int) -> None: ...
def linear_weight_f64(rows: Any, grad: Any, weight: Any, bias: Any, threads: int) -> None: ...
def silu_f64(values: Any, result: Any, threads: int) -> None: ...
def silu_backward_f64(values: Any, grad: Any, result: Any, threads: int) -> None: ...
def silu_second_f64(values: Any, grad: Any, direction: Any, of_values: Any, of_grad: Any, threads: int) -> None: ...
def sum_lengths_f64(sums: Any, softening: float, result: Any, threads: int) -> None: ...
def sum_lengths_backward_f64(sums: Any, lengths: Any, grad: Any, of_sums: Any, threads: int) -> None: ...
def sum_lengths_second_f64(
    sums: Any, lengths: Any, grad: Any, direction: Any, of_sums: Any, of_grad: Any, threads: int
) -> None: ...
def column_moments_f64(rows: Any, mean: Any, variance: Any, threads: int) -> None: ...
def normal_silu_f64(rows: Any, factor: Any, shift: Any, onto: Any, result: Any, threads: int) -> None: ...
def normal_silu_sums_f64(rows: Any, grad: Any, factor: Any, shift: Any, mean: Any, sums: Any, threads: int) -> None: ...
def normal_silu_backward_f64(
    rows: Any, grad: Any, factor: Any, shift: Any, mean: Any, offset: Any, slope: Any, result: Any, threads: int
) -> None: ...
def normal_silu_second_f64(
    rows: Any,
    grad: Any,
    factor: Any,
    shift: Any,
    mean: Any,
    direction: Any,
    scaled: Any,
    shifted: Any,
    of_rows: Any,
    of_grad: Any,
    sums: Any,
    threads: int,
) -> None: ...
def window_rows_f64(weight: Any, first: Any, table: Any, result: Any, threads: int) -> None: ...
def window_rows_backward_f64(weight: Any, first: Any, grad: Any, of_table: Any, threads: int) -> None: ...
def linear_f64(rows: Any, weight: Any, bias: Any, result: Any, threads: int) -> None: ...
def softplus_f32(values: Any, result: Any, threads: int) -> None: ...
def softplus_f64(values: Any, result: Any, threads: int) -> None: ...
def sigmoid_f32(values: Any, result: Any, threads: int) -> None: ...
def sigmoid_f64(values: Any, result: Any, threads: int) -> None: ...
def block(bytes: int) -> Any: ...
def simd_levels() -> list[str]: ...
def simd_level() -> str: ...
def set_simd_level(name: str) -> None: ...
def cuda_compiled() -> bool: ...
def cuda_device_count() -> int: ...
