// From the derivatives with respect to the pre-activation of each edge to those with respect to its terms, on the
// device. Each kernel works the edges out anew: that costs less than to store and load 2C values an edge.
//
// A derivative `Op` is a struct that kernels take, with
//   kSpan             its span (0: any)
//   kScaled, kCurved  whether messages have scales, and whether it goes through a second path
//   terms             Terms<T>
//   edge(i, j, e)     what is the same for all columns of an edge: a Preactivation `a`; if curved also the one along
//                     the direction, `d`, and `moved`, the direction's Weights
//   change(edge, c)   EdgeChange<T> of channel c
//   weights_move      if curved: whether `moved` counts
//   scales            if scaled: Scales<T>; an edge has its `scale`, `grad`, the rows (scales, C) from above, and if
//                     curved `turn`, the direction's scale, null where that does not move
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/edge_terms.cuh"
#include "kernels/leaving.cuh"
#include "runtime/parts.cuh"

namespace screening::cuda {
namespace {

// What one channel of one edge gives. `second_*` adds to the table through the direction's weights, and to the weights
// through the direction's table.
template <class T>
struct EdgeChange {
  T gate, core, second_gate, second_core;
  T scaled;   // what a scale multiplies: with what came from above, summed over channels, the derivative of the scale
  T message;  // if curved: what the direction of a scale multiplies
};

// EdgeTermsOf as kernels take it; null where nothing is wanted.
template <class T>
struct Derivatives {
  T *centre, *source, *weight, *scale, *grad;
};

constexpr int kHeld = 2;  // channels of a lane, so that up to 64 take one walk along a row

// *to = the sum of the lanes' values, added to what is there already if `more`.
template <class T>
__device__ void sum_lanes(T* to, T value, bool more) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, step);
  }
  if (lane() == 0) {
    *to = more ? *to + value : value;
  }
}

// What an edge adds to the derivative with respect to each of its scales, and to that of what came from above.
template <class T, class Op>
__device__ void derive_scales(const Op& op, const typename Op::Edge& edge, const EdgeChange<T>* change, int begin,
                              std::int64_t i, std::int64_t e, const Derivatives<T>& out) {
  const int channels = op.terms.channels, scales = op.scales.count;
  if (!Op::kCurved && out.scale == nullptr) {
    return;
  }
  for (int k = 0; k < scales; ++k) {
    const std::int64_t row = static_cast<std::int64_t>(k) * channels;
    T of_scale{};
    for (int h = 0; h < kHeld; ++h) {
      const int c = begin + h * kWarp + lane();
      if (c < channels) {
        of_scale += edge.grad[row + c] * change[h].scaled;
        if constexpr (Op::kCurved) {
          const T turned = edge.turn != nullptr ? edge.turn[k] * change[h].message : T{};
          out.grad[i * scales * channels + row + c] += edge.scale[k] * change[h].scaled + turned;
        }
      }
    }
    if (out.scale != nullptr) {
      sum_lanes(out.scale + e * scales + k, of_scale, begin > 0);
    }
  }
}

// The derivatives of a row of edges in edge order: with respect to its centre, and to the weight and the scale of each.
template <class T, class Op>
__global__ void __launch_bounds__(kBlock)
    derive_centres(const __grid_constant__ Op op, const __grid_constant__ Derivatives<T> out) {
  const std::int64_t i = warp_in_grid();
  const Terms<T>& terms = op.terms;
  if (i >= terms.atoms) {
    return;
  }
  const int channels = terms.channels, columns = terms.columns;
  for (int begin = 0; begin < channels; begin += kHeld * kWarp) {
    T gate[kHeld] = {}, core[kHeld] = {};
    for (std::int64_t e = terms.edge_offsets[i]; e < terms.edge_offsets[i + 1]; ++e) {
      const auto edge = op.edge(i, terms.edge_source[e], e);
      EdgeChange<T> change[kHeld];
      for (int h = 0; h < kHeld; ++h) {
        const int c = begin + h * kWarp + lane();
        change[h] = c < channels ? op.change(edge, c) : EdgeChange<T>{};
        gate[h] += change[h].gate;
        core[h] += change[h].core;
      }
      if constexpr (Op::kScaled) {
        derive_scales(op, edge, change, begin, i, e, out);
      }
      for (int m = 0; m < edge.a.weights.count() && out.weight != nullptr; ++m) {
        const std::int64_t row = static_cast<std::int64_t>(m) * columns;
        T dot{};
        for (int h = 0; h < kHeld; ++h) {
          const int c = begin + h * kWarp + lane();
          if (c < channels) {
            dot += change[h].gate * edge.a.rows[row + c] + change[h].core * edge.a.rows[row + channels + c];
            if constexpr (Op::kCurved) {
              dot += change[h].second_gate * edge.d.rows[row + c] +
                     change[h].second_core * edge.d.rows[row + channels + c];
            }
          }
        }
        sum_lanes(out.weight + e * terms.span + m, dot, begin > 0);
      }
    }
    for (int h = 0; h < kHeld; ++h) {
      const int c = begin + h * kWarp + lane();
      if (c < channels) {
        out.centre[i * columns + c] = gate[h];
        out.centre[i * columns + channels + c] = core[h];
      }
    }
  }
}

// The derivatives with respect to each source's row, over the edges that leave it in edge order.
template <class T, class Op>
__global__ void __launch_bounds__(kBlock)
    derive_sources(const __grid_constant__ Op op, const Groups leaving, const std::int32_t* edge_centre, T* out) {
  const std::int64_t j = warp_in_grid();
  const Terms<T>& terms = op.terms;
  if (j >= terms.atoms) {
    return;
  }
  const int channels = terms.channels;
  for (int begin = 0; begin < channels; begin += kHeld * kWarp) {
    T gate[kHeld] = {}, core[kHeld] = {};
    for (std::int64_t k = leaving.offsets[j]; k < leaving.offsets[j + 1]; ++k) {
      const std::int64_t e = leaving.order[k];
      const auto edge = op.edge(edge_centre[e], j, e);
      for (int h = 0; h < kHeld; ++h) {
        const int c = begin + h * kWarp + lane();
        if (c < channels) {
          const EdgeChange<T> change = op.change(edge, c);
          gate[h] += change.gate;
          core[h] += change.core;
        }
      }
    }
    for (int h = 0; h < kHeld; ++h) {
      const int c = begin + h * kWarp + lane();
      if (c < channels) {
        out[j * terms.columns + c] = gate[h];
        out[j * terms.columns + channels + c] = core[h];
      }
    }
  }
}

// Edges in parts of equally many, each with a table of its own: long enough that its table is small beside its edges,
// and short enough that there are many. Sizes alone decide.
struct Parts {
  std::int64_t length, count;
};

inline Parts parts_of(std::int64_t edges, std::int64_t table_rows) {
  const std::int64_t length = std::max<std::int64_t>(256, 8 * table_rows);
  return {length, (edges + length - 1) / length};
}

// Edges of a part in order of their first row of the table.
struct PartAndRow {
  const std::int32_t* first;
  std::int64_t length, table_rows;
  __device__ std::int64_t operator()(std::int64_t e) const { return e / length * table_rows + first[e]; }
};

// The sums that an edge adds to: those of its rows of the table, in one column of the gate and one of the core.
// Edges with the same rows come one after the other, so that the table is loaded and stored once a row, not once an
// edge.
template <class T, int Span>
struct RowSums {
  T* rows = nullptr;
  T gate[Span] = {}, core[Span] = {};

  __device__ void move_to(T* other, int channels) {
    if (other == rows) {
      return;
    }
    for (int m = 0; m < Span && rows != nullptr; ++m) {
      rows[2 * m * channels] += gate[m];
      rows[(2 * m + 1) * channels] += core[m];
    }
    for (int m = 0; m < Span; ++m) {
      gate[m] = core[m] = T{};
    }
    rows = other;
  }
  __device__ void add(const Weights<T, Span>& weights, T of_gate, T of_core, int) {
    for (int m = 0; m < Span; ++m) {
      gate[m] += weights[m] * of_gate;
      core[m] += weights[m] * of_core;
    }
  }
};

template <class T>
struct RowSums<T, 0> {
  T* rows = nullptr;

  __device__ void move_to(T* other, int) { rows = other; }
  __device__ void add(const Weights<T, 0>& weights, T of_gate, T of_core, int channels) {
    for (int m = 0; m < weights.count(); ++m) {
      rows[static_cast<std::int64_t>(2 * m) * channels] += weights[m] * of_gate;
      rows[static_cast<std::int64_t>(2 * m + 1) * channels] += weights[m] * of_core;
    }
  }
};

// A warp owns 32 channels of a part's table. Lanes do not meet.
template <class T, class Op>
__global__ void __launch_bounds__(kBlock)
    derive_tables(const __grid_constant__ Op op, const Parts parts, const std::int32_t* order,
                  const std::int32_t* edge_centre, T* tables) {
  const Terms<T>& terms = op.terms;
  const int channels = terms.channels, blocks = (channels + kWarp - 1) / kWarp;
  const std::int64_t part = warp_in_grid() / blocks;
  const int c = static_cast<int>(warp_in_grid() % blocks) * kWarp + lane();
  if (part >= parts.count || c >= channels) {
    return;
  }
  T* own = tables + part * terms.table_rows * terms.columns + c;
  const std::int64_t begin = part * parts.length;
  const std::int64_t end = begin + parts.length < terms.edges ? begin + parts.length : terms.edges;
  RowSums<T, Op::kSpan> sums;
  for (std::int64_t k = begin; k < end; ++k) {
    const std::int64_t e = order[k];
    const auto edge = op.edge(edge_centre[e], terms.edge_source[e], e);
    const EdgeChange<T> change = op.change(edge, c);
    sums.move_to(own + static_cast<std::int64_t>(terms.first[e]) * terms.columns, channels);
    sums.add(edge.a.weights, change.gate, change.core, channels);
    if constexpr (Op::kCurved) {
      if (op.weights_move) {
        sums.add(edge.moved, change.second_gate, change.second_core, channels);
      }
    }
  }
  sums.move_to(nullptr, channels);
}

// Writes all derivatives of `op`; `out_grad` is null unless it is curved.
template <class T, class Op>
void scatter_edges(const Op& op, const EdgeTermsOf<T>& out, T* out_grad, Workspace& memory) {
  const Terms<T>& terms = op.terms;
  const cudaStream_t stream = memory.stream();
  const std::int64_t rows = terms.atoms * kWarp, table_size = terms.table_rows * terms.columns;
  const Derivatives<T> derivatives{out.centre.data, out.source.data, out.weight.rows() > 0 ? out.weight.data : nullptr,
                                   out.scale.rows() > 0 ? out.scale.data : nullptr, out_grad};
  auto* edge_centre = memory.take<std::int32_t>(terms.edges);
  launch(number_centres, rows, stream, terms.edge_offsets, terms.atoms, edge_centre);
  launch(derive_centres<T, Op>, rows, stream, op, derivatives);

  const Groups leaving = group_by(SourceOf{terms.edge_source}, terms.edges, terms.atoms, memory);
  launch(derive_sources<T, Op>, rows, stream, op, leaving, edge_centre, derivatives.source);

  const Parts parts = parts_of(terms.edges, terms.table_rows);
  const PartAndRow key{terms.first, parts.length, terms.table_rows};
  const Groups sorted = group_by(key, terms.edges, parts.count * terms.table_rows, memory);
  T* tables = memory.take_filled<T>(parts.count * table_size, 0);
  const std::int64_t blocks = (terms.channels + kWarp - 1) / kWarp;
  launch(derive_tables<T, Op>, parts.count * blocks * kWarp, stream, op, parts, sorted.order, edge_centre, tables);
  sum_parts(tables, table_size, parts.count, out.table.data, stream);
}

}  // namespace
}  // namespace screening::cuda
