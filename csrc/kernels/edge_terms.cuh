// What the message kernels share on the device: the pre-activation of an edge, a column at a time.
//
//   a_e = centre[i] + source[j] + sum over m < span of weight[e, m] * table[first[e] + m]
//
// Columns [0, C) are the gate's, [C, 2C) the core's. A warp reads neighbouring columns: 128 bytes of floats a load.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels.hpp"
#include "runtime/elementary.cuh"
#include "runtime/launch.hpp"
#include "runtime/warp.cuh"

namespace screening::cuda {

// EdgeTerms as kernels take it.
template <class T>
struct Terms {
  const T *centre, *source, *table, *weight;
  const std::int32_t *first, *edge_offsets, *edge_source;
  std::int64_t atoms, edges, table_rows;
  int channels, columns, span;
};

namespace {

template <class T>
Terms<T> pointers_of(const EdgeTerms<T>& terms) {
  const auto columns = static_cast<int>(2 * terms.channels());
  return {terms.centre.data,
          terms.source.data,
          terms.table.data,
          terms.weight.data,
          terms.first.data,
          terms.graph.edge_offsets.data,
          terms.graph.edge_source.data,
          terms.graph.atoms(),
          terms.graph.edges(),
          terms.table.rows(),
          columns / 2,
          columns,
          static_cast<int>(terms.span())};
}

// Calls body(std::integral_constant<int, span>): 4 for cubic splines and 8 for Gaussians are unrolled, 0 is any other.
template <class Body>
void with_span(std::int64_t span, const Body& body) {
  switch (span) {
    case 4:
      return body(std::integral_constant<int, 4>());
    case 8:
      return body(std::integral_constant<int, 8>());
    default:
      return body(std::integral_constant<int, 0>());
  }
}

// The weights of an edge: in registers, or where they lie when their number is not known to the compiler.
template <class T, int Span>
struct Weights {
  T held[Span];

  __device__ Weights(const T* from, int) {
    for (int m = 0; m < Span; ++m) {
      held[m] = from[m];
    }
  }
  __device__ static constexpr int count() { return Span; }
  __device__ T operator[](int m) const { return held[m]; }
};

template <class T>
struct Weights<T, 0> {
  const T* from;
  int span;

  __device__ Weights(const T* weights, int number) : from(weights), span(number) {}
  __device__ int count() const { return span; }
  __device__ T operator[](int m) const { return from[m]; }
};

// base + sum of weights * what lies `stride` apart.
template <class T, int Span>
__device__ __forceinline__ T blend(T base, const Weights<T, Span>& weights, const T* values, int stride) {
  for (int m = 0; m < weights.count(); ++m) {
    base += weights[m] * values[static_cast<std::int64_t>(m) * stride];
  }
  return base;
}

template <class T, int Span>
struct Preactivation {
  const T *centre, *source, *rows;  // of the edge; `rows` is the first of its rows of the table
  Weights<T, Span> weights;
  int columns;

  __device__ __forceinline__ T at(int column) const {
    return blend(centre[column] + source[column], weights, rows + column, columns);
  }
};

// Of the edge e into atom i from atom j.
template <int Span, class T>
__device__ __forceinline__ Preactivation<T, Span> preactivation_of(const Terms<T>& terms, std::int64_t i,
                                                                   std::int64_t j, std::int64_t e) {
  return {terms.centre + i * terms.columns,
          terms.source + j * terms.columns,
          terms.table + static_cast<std::int64_t>(terms.first[e]) * terms.columns,
          {terms.weight + e * terms.span, terms.span},
          terms.columns};
}

}  // namespace
}  // namespace screening::cuda
