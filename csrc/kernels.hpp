// The native core on one page: what each kernel takes, what it gives, and its twins.
//
// Fronts (namespace screening) check their arguments and pick the twin by device and level; dispatch*.cpp hold them.
// Twins (cpu::<level>, cuda) may assume the checks. Arrays are flat, row-major and borrowed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/view.hpp"

namespace screening {

// Crystals laid end to end: atoms of crystal c are rows [atom_offsets[c], atom_offsets[c + 1]).
struct CrystalBatch {
  View<const double> positions;           // (atoms, 3) Cartesian, angstrom
  View<const double> lattice;             // (crystals, 3, 3) rows are lattice vectors
  View<const bool> pbc;                   // (crystals, 3)
  View<const std::int32_t> atom_offsets;  // (crystals + 1,)

  std::int64_t crystals() const { return lattice.shape[0]; }
  std::int64_t atoms() const { return positions.shape[0]; }
};

// Which neighbours an atom keeps: all closer than `cutoff`; with `max_neighbors` > 0 only the nearest so many.
// Distances that follow each other by at most a factor 1 + `shell_tolerance` are one shell. With `whole_shells` the
// shell of the last neighbour is kept whole; without, it gives its first edges in row order until the number is full.
struct NeighborRule {
  double cutoff = 0;
  int max_neighbors = 0;
  bool whole_shells = true;
  double shell_tolerance = 0;
};

// Neighbour lists in three steps: count, scan (the caller's), fill.
//
// neighbor_count writes the number of edges of every atom, and its row cut: edges with squared distance below
// cut[0] are kept, those up to and including cut[1] are kept until cut[2] of them are. neighbor_fill repeats the
// search and writes exactly those, or says that rows and crystals do not belong together; no cut may reach beyond
// `cutoff`. A row is ordered by (source, shift), so neither threads, levels nor devices change a bit of it.
struct NeighborRows {
  View<std::int32_t> count;  // (atoms,)
  View<double> cut;          // (atoms, 3)
};

struct NeighborEdges {
  View<const std::int32_t> offsets;  // (atoms + 1,) scan of the counts
  View<const double> cut;            // (atoms, 3) as counted
  View<std::int32_t> source;         // (edges,) row of the neighbour atom in the batch
  View<std::int32_t> shift;          // (edges, 3)
  View<double> vector;               // (edges, 3) r_j - r_i + shift . lattice
  View<double> distance;             // (edges,)
};

void neighbor_count(const CrystalBatch&, const NeighborRule&, const NeighborRows&, int threads, void* stream);
void neighbor_fill(const CrystalBatch&, double cutoff, const NeighborEdges&, int threads, void* stream);

// Which edges lead where; edges do not leave their crystal.
struct EdgeTopology {
  View<const std::int32_t> edge_offsets;  // (atoms + 1,) edges into atom i
  View<const std::int32_t> edge_source;   // (edges,) the neighbour j
  View<const std::int32_t> atom_offsets;  // (crystals + 1,)

  std::int64_t atoms() const { return edge_offsets.rows() - 1; }
  std::int64_t edges() const { return edge_source.rows(); }
  std::int64_t crystals() const { return atom_offsets.rows() - 1; }
};

// The pre-activation of every edge, never stored:
//   a_e = centre[i] + source[j] + sum over m < span of weight[e, m] * table[first[e] + m]
// Columns [0, C) are the gate's, [C, 2C) the core's. T is float or double.
template <class T>
struct EdgeTerms {
  View<const T> centre, source;    // (atoms, 2C)
  View<const T> table;             // (rows, 2C) coefficients of the distance term
  View<const T> weight;            // (edges, span) of the table rows that the distance of an edge lies among
  View<const std::int32_t> first;  // (edges,) the first of those rows
  EdgeTopology graph;

  std::int64_t channels() const { return centre.shape[1] / 2; }
  std::int64_t span() const { return weight.shape[1]; }
};

// What a derivative has for each of the terms; `weight` and `scale` may be empty: not wanted, or zero.
template <class T>
struct EdgeTermsOf {
  View<T> centre, source, table, weight, scale;
};

// edge_conv: result[i, k] = sum over edges e into i of scale[e, k] * sigmoid(a_e[:C]) * softplus(a_e[C:]), (atoms, K x
// C) for scales (edges, K): one message an edge, summed with K factors. edge_conv_backward: derivatives of sum(grad *
// result) with respect to the terms and the scale. edge_conv_curve: derivatives of sum over terms of (direction . what
// edge_conv_backward gives) with respect to grad, the terms and the scale.
template <class T>
void edge_conv(const EdgeTerms<T>&, View<const T> scale, View<T> result, int threads, void* stream);
template <class T>
void edge_conv_backward(const EdgeTerms<T>&, View<const T> scale, View<const T> grad, const EdgeTermsOf<T>& out,
                        int threads, void* stream);
template <class T>
void edge_conv_curve(const EdgeTerms<T>&, View<const T> scale, View<const T> grad,
                     const EdgeTermsOf<const T>& direction, View<T> out_grad, const EdgeTermsOf<T>& out, int threads,
                     void* stream);

// edge_moments: mean and biased variance of a_e over all edges, (2C,) each; zeros without edges.
// edge_moments_backward: derivatives of sum(grad_mean * mean) + sum(grad_variance * variance).
template <class T>
void edge_moments(const EdgeTerms<T>&, View<T> mean, View<T> variance, int threads, void* stream);
template <class T>
void edge_moments_backward(const EdgeTerms<T>&, View<const T> mean, View<const T> grad_mean,
                           View<const T> grad_variance, const EdgeTermsOf<T>& out, int threads, void* stream);

// result[s] = sum of rows [offsets[s], offsets[s + 1]), in their order; offsets ascend from 0 to the number of rows.
template <class T>
void segment_sum(View<const T> rows, View<const std::int32_t> offsets, View<T> result, int threads, void* stream);

// row_softmax: each column of scores (edges, H) becomes e^score / sum of e^score over the row of edges that it is in.
// row_softmax_backward: derivative of sum(grad * result), from the result: out = result (grad - sum over row of result
// grad). row_softmax_curve: derivatives of sum(direction * what backward gives) with respect to the result and grad.
template <class T>
void row_softmax(View<const T> scores, View<const std::int32_t> offsets, View<T> result, int threads, void* stream);
template <class T>
void row_softmax_backward(View<const T> result, View<const std::int32_t> offsets, View<const T> grad, View<T> out,
                          int threads, void* stream);
template <class T>
void row_softmax_curve(View<const T> result, View<const std::int32_t> offsets, View<const T> grad,
                       View<const T> direction, View<T> out_result, View<T> out_grad, int threads, void* stream);

// The line graph of a graph has its edges as nodes: into the edge from j to i lead those into j, which are a run of
// `edge_source` already. Rows of the line graph are edges, offsets their scan: (edges + 1,) of (pairs,). line_graph
// writes the number of the edge that each pair comes from.
void line_graph(const EdgeTopology&, View<const std::int32_t> line_offsets, View<std::int32_t> line_source, int threads,
                void* stream);

// The gate of every edge of a graph or line graph, m_e = centre[i] + source[j] + edge[e], and values that it weighs.
template <class T>
struct GateTerms {
  View<const T> centre, source, value;  // (atoms, C); the value is that of the source
  View<const T> edge;                   // (edges, C)
  EdgeTopology graph;

  std::int64_t channels() const { return centre.shape[1]; }
};

// What a derivative has for each of the terms.
template <class T>
struct GateTermsOf {
  View<T> centre, source, value, edge;
};

inline constexpr double kGateFloor = 1e-6;

// gated_mean: result[i] = sum of sigmoid(m_e) value[j] / (sum of sigmoid(m_e) + kGateFloor) over edges e from j into i,
// and gates[e] = m_e where `gates` is not empty. gated_mean_backward: derivatives of sum(grad * result) + sum(of_gates
// * gates) with respect to the terms; `of_gates` may be empty: zero. gated_mean_curve: derivatives of sum over terms of
// (direction . what gated_mean_backward gives) with respect to grad and the terms; that to of_gates is the direction of
// the gates, which needs no kernel.
template <class T>
void gated_mean(const GateTerms<T>&, View<T> result, View<T> gates, int threads, void* stream);
template <class T>
void gated_mean_backward(const GateTerms<T>&, View<const T> grad, View<const T> of_gates, const GateTermsOf<T>& out,
                         int threads, void* stream);
template <class T>
void gated_mean_curve(const GateTerms<T>&, View<const T> grad, const GateTermsOf<const T>& direction, View<T> out_grad,
                      const GateTermsOf<T>& out, int threads, void* stream);

// What an edge e from j into i is to attention with several heads, of C channels each: of its two ends
// softplus(atom[i] + edge[e]) and softplus(atom[j] + edge[e]), H x C values each, never stored.
template <class T>
struct HeadTerms {
  View<const T> atom;  // (atoms, H x C)
  View<const T> edge;  // (edges, H x C)
  EdgeTopology graph;

  std::int64_t columns() const { return atom.shape[1]; }
};

// head_scores: result[e, h] = sum over the channels of head h of to_centre softplus(atom[i] + edge[e]) + to_source
// softplus(atom[j] + edge[e]), (edges, H) with factors (H, C). head_scores_backward: derivatives of sum(grad * result).
template <class T>
void head_scores(const HeadTerms<T>&, View<const T> to_centre, View<const T> to_source, View<T> result, int threads,
                 void* stream);
template <class T>
void head_scores_backward(const HeadTerms<T>&, View<const T> to_centre, View<const T> to_source, View<const T> grad,
                          View<T> of_atom, View<T> of_edge, View<T> of_to_centre, View<T> of_to_source, int threads,
                          void* stream);

// head_sum: result[i] = sum over edges e from j into i and heads h of weight[e, h] softplus(atom[j] + edge[e]) of that
// head, (atoms, C) with weights (edges, H). head_sum_backward: derivatives of sum(grad * result).
template <class T>
void head_sum(const HeadTerms<T>&, View<const T> weight, View<T> result, int threads, void* stream);
template <class T>
void head_sum_backward(const HeadTerms<T>&, View<const T> weight, View<const T> grad, View<T> of_atom, View<T> of_edge,
                       View<T> of_weight, int threads, void* stream);

// What an edge e from j into i is to attention with vectors. Heads are runs of C / heads channels. The filters of an
// edge are f_e = sum over m < span of weight[e, m] * table[first[e] + m], four of C columns each, and the weight of its
// head is alpha_e = silu(sum over the channels of the head of query[i] key[j] f_e[0]).
template <class T>
struct AttentionTerms {
  View<const T> query, key;        // (atoms, C)
  View<const T> value, vectors;    // (atoms, 3C): three values a channel; x, y and z of a vector a channel
  View<const T> table;             // (rows, 4C)
  View<const T> weight;            // (edges, span)
  View<const T> scale;             // (edges, 4): the envelope, and x, y and z of the direction times the envelope
  View<const std::int32_t> first;  // (edges,)
  EdgeTopology graph;
  std::int64_t heads = 1;

  std::int64_t channels() const { return query.shape[1]; }
  std::int64_t span() const { return weight.shape[1]; }
};

// What a derivative has for each of the terms; `weight` and `scale` may be empty, both of them: not wanted.
template <class T>
struct AttentionTermsOf {
  View<T> query, key, value, vectors, table, weight, scale;
};

// vector_attention: result[i] = (plain, x, y, z), (atoms, 4C), sums over edges from j into i of
//   plain = scale[0] alpha value[j, 0] f[1]
//   along d = scale[0] value[j, 1] f[2] vectors[j, d] + scale[d] value[j, 2] f[3]
// vector_attention_backward: derivatives of sum(grad * result) with respect to the terms. vector_attention_curve:
// derivatives of sum over terms of (direction . what backward gives) with respect to grad and the terms; no direction
// may be empty.
template <class T>
void vector_attention(const AttentionTerms<T>&, View<T> result, int threads, void* stream);
template <class T>
void vector_attention_backward(const AttentionTerms<T>&, View<const T> grad, const AttentionTermsOf<T>& out,
                               int threads, void* stream);
template <class T>
void vector_attention_curve(const AttentionTerms<T>&, View<const T> grad, const AttentionTermsOf<const T>& direction,
                            View<T> out_grad, const AttentionTermsOf<T>& out, int threads, void* stream);

// result[r] = bias + rows[r] . weight, with weight (inner, columns): each element one chain in ascending order of the
// inner index, so that a row's bits depend on that row alone. CPU only; on a GPU it is the vendor's library's.
template <class T>
void linear(View<const T> rows, View<const T> weight, View<const T> bias, View<T> result, int threads);

// log(1 + e^x) and 1 / (1 + e^-x) of each value, whose bits depend on that value alone. CPU only, as linear.
template <class T>
void softplus(View<const T> values, View<T> result, int threads);
template <class T>
void sigmoid(View<const T> values, View<T> result, int threads);

// The first crystal that no neighbour list exists for (atoms not finite or absurdly far, periodic vectors without
// volume), in words; empty when all are fine. Host arrays: the CUDA twins look for themselves and throw these words.
std::string unusable_crystal(const CrystalBatch&);

// Levels of the CPU twins: names this build has and this processor runs, widest first; the one in use.
std::vector<std::string> simd_levels();
std::string simd_level();
void set_simd_level(const std::string& name);

bool cuda_compiled();
int cuda_device_count();

#define SCREENING_CPU_TWINS(level)                                                                                     \
  namespace level {                                                                                                    \
  void neighbor_count(const CrystalBatch&, const NeighborRule&, const NeighborRows&, int);                             \
  void neighbor_fill(const CrystalBatch&, double cutoff, const NeighborEdges&, int);                                   \
  template <class T>                                                                                                   \
  void edge_conv(const EdgeTerms<T>&, View<const T> scale, View<T> result, int);                                       \
  template <class T>                                                                                                   \
  void edge_conv_backward(const EdgeTerms<T>&, View<const T> scale, View<const T> grad, const EdgeTermsOf<T>&, int);   \
  template <class T>                                                                                                   \
  void edge_conv_curve(const EdgeTerms<T>&, View<const T> scale, View<const T> grad, const EdgeTermsOf<const T>&,      \
                       View<T> out_grad, const EdgeTermsOf<T>&, int);                                                  \
  template <class T>                                                                                                   \
  void edge_moments(const EdgeTerms<T>&, View<T> mean, View<T> variance, int);                                         \
  template <class T>                                                                                                   \
  void edge_moments_backward(const EdgeTerms<T>&, View<const T> mean, View<const T> grad_mean,                         \
                             View<const T> grad_variance, const EdgeTermsOf<T>&, int);                                 \
  template <class T>                                                                                                   \
  void segment_sum(View<const T> rows, View<const std::int32_t> offsets, View<T> result, int);                         \
  template <class T>                                                                                                   \
  void row_softmax(View<const T> scores, View<const std::int32_t> offsets, View<T> result, int);                       \
  template <class T>                                                                                                   \
  void row_softmax_backward(View<const T> result, View<const std::int32_t> offsets, View<const T> grad, View<T> out,   \
                            int);                                                                                      \
  template <class T>                                                                                                   \
  void row_softmax_curve(View<const T> result, View<const std::int32_t> offsets, View<const T> grad,                   \
                         View<const T> direction, View<T> out_result, View<T> out_grad, int);                          \
  void line_graph(const EdgeTopology&, View<const std::int32_t> line_offsets, View<std::int32_t> line_source, int);    \
  template <class T>                                                                                                   \
  void gated_mean(const GateTerms<T>&, View<T> result, View<T> gates, int);                                            \
  template <class T>                                                                                                   \
  void gated_mean_backward(const GateTerms<T>&, View<const T> grad, View<const T> of_gates, const GateTermsOf<T>&,     \
                           int);                                                                                       \
  template <class T>                                                                                                   \
  void gated_mean_curve(const GateTerms<T>&, View<const T> grad, const GateTermsOf<const T>&, View<T> out_grad,        \
                        const GateTermsOf<T>&, int);                                                                   \
  template <class T>                                                                                                   \
  void head_scores(const HeadTerms<T>&, View<const T> to_centre, View<const T> to_source, View<T> result, int);        \
  template <class T>                                                                                                   \
  void head_scores_backward(const HeadTerms<T>&, View<const T> to_centre, View<const T> to_source, View<const T> grad, \
                            View<T> of_atom, View<T> of_edge, View<T> of_to_centre, View<T> of_to_source, int);        \
  template <class T>                                                                                                   \
  void head_sum(const HeadTerms<T>&, View<const T> weight, View<T> result, int);                                       \
  template <class T>                                                                                                   \
  void head_sum_backward(const HeadTerms<T>&, View<const T> weight, View<const T> grad, View<T> of_atom,               \
                         View<T> of_edge, View<T> of_weight, int);                                                     \
  template <class T>                                                                                                   \
  void vector_attention(const AttentionTerms<T>&, View<T> result, int);                                                \
  template <class T>                                                                                                   \
  void vector_attention_backward(const AttentionTerms<T>&, View<const T> grad, const AttentionTermsOf<T>&, int);       \
  template <class T>                                                                                                   \
  void vector_attention_curve(const AttentionTerms<T>&, View<const T> grad, const AttentionTermsOf<const T>&,          \
                              View<T> out_grad, const AttentionTermsOf<T>&, int);                                      \
  template <class T>                                                                                                   \
  void linear(View<const T> rows, View<const T> weight, View<const T> bias, View<T> result, int);                      \
  template <class T>                                                                                                   \
  void softplus(View<const T> values, View<T> result, int);                                                            \
  template <class T>                                                                                                   \
  void sigmoid(View<const T> values, View<T> result, int);                                                             \
  }
SCREENING_CPU_TWINS(baseline)
SCREENING_CPU_TWINS(avx2)
SCREENING_CPU_TWINS(avx512)
#undef SCREENING_CPU_TWINS

namespace cuda {
void neighbor_count(const CrystalBatch&, const NeighborRule&, const NeighborRows&, void* stream);
void neighbor_fill(const CrystalBatch&, double cutoff, const NeighborEdges&, void* stream);
template <class T>
void edge_conv(const EdgeTerms<T>&, View<const T> scale, View<T> result, void* stream);
template <class T>
void edge_conv_backward(const EdgeTerms<T>&, View<const T> scale, View<const T> grad, const EdgeTermsOf<T>&,
                        void* stream);
template <class T>
void edge_conv_curve(const EdgeTerms<T>&, View<const T> scale, View<const T> grad, const EdgeTermsOf<const T>&,
                     View<T> out_grad, const EdgeTermsOf<T>&, void* stream);
template <class T>
void edge_moments(const EdgeTerms<T>&, View<T> mean, View<T> variance, void* stream);
template <class T>
void edge_moments_backward(const EdgeTerms<T>&, View<const T> mean, View<const T> grad_mean,
                           View<const T> grad_variance, const EdgeTermsOf<T>&, void* stream);
template <class T>
void segment_sum(View<const T> rows, View<const std::int32_t> offsets, View<T> result, void* stream);
template <class T>
void row_softmax(View<const T> scores, View<const std::int32_t> offsets, View<T> result, void* stream);
template <class T>
void row_softmax_backward(View<const T> result, View<const std::int32_t> offsets, View<const T> grad, View<T> out,
                          void* stream);
template <class T>
void row_softmax_curve(View<const T> result, View<const std::int32_t> offsets, View<const T> grad,
                       View<const T> direction, View<T> out_result, View<T> out_grad, void* stream);
void line_graph(const EdgeTopology&, View<const std::int32_t> line_offsets, View<std::int32_t> line_source,
                void* stream);
template <class T>
void gated_mean(const GateTerms<T>&, View<T> result, View<T> gates, void* stream);
template <class T>
void gated_mean_backward(const GateTerms<T>&, View<const T> grad, View<const T> of_gates, const GateTermsOf<T>&,
                         void* stream);
template <class T>
void gated_mean_curve(const GateTerms<T>&, View<const T> grad, const GateTermsOf<const T>&, View<T> out_grad,
                      const GateTermsOf<T>&, void* stream);
template <class T>
void head_scores(const HeadTerms<T>&, View<const T> to_centre, View<const T> to_source, View<T> result, void* stream);
template <class T>
void head_scores_backward(const HeadTerms<T>&, View<const T> to_centre, View<const T> to_source, View<const T> grad,
                          View<T> of_atom, View<T> of_edge, View<T> of_to_centre, View<T> of_to_source, void* stream);
template <class T>
void head_sum(const HeadTerms<T>&, View<const T> weight, View<T> result, void* stream);
template <class T>
void head_sum_backward(const HeadTerms<T>&, View<const T> weight, View<const T> grad, View<T> of_atom, View<T> of_edge,
                       View<T> of_weight, void* stream);
template <class T>
void vector_attention(const AttentionTerms<T>&, View<T> result, void* stream);
template <class T>
void vector_attention_backward(const AttentionTerms<T>&, View<const T> grad, const AttentionTermsOf<T>&, void* stream);
template <class T>
void vector_attention_curve(const AttentionTerms<T>&, View<const T> grad, const AttentionTermsOf<const T>&,
                            View<T> out_grad, const AttentionTermsOf<T>&, void* stream);
int device_count();
}  // namespace cuda

}  // namespace screening
