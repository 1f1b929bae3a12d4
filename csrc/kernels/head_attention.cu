// Attention to edges with several heads, CUDA twin of head_attention.cpp; contract in kernels.hpp.
// Layout: atoms and edges (rows, H x C) row-major. Derivatives take 8 bytes an edge, 12 an atom, and a row of factors
// for each kPartEdges edges, at most kMostParts of them.
// Ownership: a warp owns a score; a thread owns a column of an atom, over the edges into it and those that leave it, or
// of a part's edges. Neighbouring threads have neighbouring columns.
// Determinism: sums run in edge order, those of a warp and of parts in trees of fixed form; atomics are on integers.
// Nothing waits for the stream.
// Bound: an edge reads a value a column from DRAM and two from L2, once more for each end in derivatives.
#define SCREENING_LEVEL cuda

#include "kernels/leaving.cuh"
#include "runtime/elementary.cuh"
#include "runtime/parts.cuh"
// After the functions of single values, which it takes.
#include "math/softplus.hpp"

namespace screening::cuda {
namespace {

constexpr std::int64_t kPartEdges = 256, kMostParts = 1024;

// HeadTerms as kernels take it.
template <class T>
struct Heads {
  const T *atom, *edge;
  const std::int32_t *edge_offsets, *edge_source;
  std::int64_t atoms, edges, columns, heads;

  __device__ __forceinline__ T end(std::int64_t i, std::int64_t e, std::int64_t c) const {
    return atom[i * columns + c] + edge[e * columns + c];
  }
  __device__ __forceinline__ std::int64_t channels() const { return columns / heads; }
};

template <class T>
Heads<T> pointers_of(const HeadTerms<T>& terms, std::int64_t heads) {
  return {terms.atom.data,
          terms.edge.data,
          terms.graph.edge_offsets.data,
          terms.graph.edge_source.data,
          terms.graph.atoms(),
          terms.graph.edges(),
          terms.columns(),
          heads};
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    score_ends(const __grid_constant__ Heads<T> terms, const std::int32_t* edge_centre, const T* to_centre,
               const T* to_source, T* result) {
  const std::int64_t e = warp_in_grid() / terms.heads, h = warp_in_grid() % terms.heads;
  if (e >= terms.edges) {
    return;
  }
  T sum{};
  for (std::int64_t c = h * terms.channels() + lane(); c < (h + 1) * terms.channels(); c += kWarp) {
    sum += to_centre[c] * softplus_of(terms.end(edge_centre[e], e, c)) +
           to_source[c] * softplus_of(terms.end(terms.edge_source[e], e, c));
  }
  sum = warp_sum(sum);
  if (lane() == 0) {
    result[e * terms.heads + h] = sum;
  }
}

// Derivatives of scores with respect to a column of an atom and of the edges into it.
template <class T>
__global__ void __launch_bounds__(kBlock)
    slope_ends(const __grid_constant__ Heads<T> terms, const Groups leaving, const T* to_centre, const T* to_source,
               const T* grad, T* of_atom, T* of_edge) {
  const std::int64_t i = thread_in_grid() / terms.columns, c = thread_in_grid() % terms.columns;
  if (i >= terms.atoms) {
    return;
  }
  const std::int64_t h = c / terms.channels();
  T sum{};
  for (std::int64_t e = terms.edge_offsets[i]; e < terms.edge_offsets[i + 1]; ++e) {
    const T above = grad[e * terms.heads + h];
    const T by_here = above * to_centre[c] * softplus_slope(terms.end(i, e, c)).slope;
    const T by_there = above * to_source[c] * softplus_slope(terms.end(terms.edge_source[e], e, c)).slope;
    of_edge[e * terms.columns + c] = by_here + by_there;
    sum += by_here;
  }
  for (std::int64_t k = leaving.offsets[i]; k < leaving.offsets[i + 1]; ++k) {
    const std::int64_t e = leaving.order[k];
    sum += grad[e * terms.heads + h] * to_source[c] * softplus_slope(terms.end(i, e, c)).slope;
  }
  of_atom[i * terms.columns + c] = sum;
}

// Derivatives of scores with respect to a column of the factors, of the edges of a part: those of centres, then those
// of sources.
template <class T>
__global__ void __launch_bounds__(kBlock)
    slope_factors(const __grid_constant__ Heads<T> terms, const std::int32_t* edge_centre, std::int64_t length,
                  std::int64_t parts, const T* grad, T* sums) {
  const std::int64_t part = thread_in_grid() / terms.columns, c = thread_in_grid() % terms.columns;
  if (part >= parts) {
    return;
  }
  const std::int64_t h = c / terms.channels(), begin = part * length;
  const std::int64_t end = begin + length < terms.edges ? begin + length : terms.edges;
  T of_centre{}, of_source{};
  for (std::int64_t e = begin; e < end; ++e) {
    const T above = grad[e * terms.heads + h];
    of_centre += above * softplus_of(terms.end(edge_centre[e], e, c));
    of_source += above * softplus_of(terms.end(terms.edge_source[e], e, c));
  }
  sums[part * terms.columns + c] = of_centre;
  sums[(parts + part) * terms.columns + c] = of_source;
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    sum_heads(const __grid_constant__ Heads<T> terms, const T* weight, T* result) {
  const std::int64_t channels = terms.channels(), i = thread_in_grid() / channels, c = thread_in_grid() % channels;
  if (i >= terms.atoms) {
    return;
  }
  T sum{};
  for (std::int64_t e = terms.edge_offsets[i]; e < terms.edge_offsets[i + 1]; ++e) {
    for (std::int64_t h = 0; h < terms.heads; ++h) {
      sum += weight[e * terms.heads + h] * softplus_of(terms.end(terms.edge_source[e], e, h * channels + c));
    }
  }
  result[i * channels + c] = sum;
}

// Derivatives of sums with respect to a weight, and to the columns of its head of the edge.
template <class T>
__global__ void __launch_bounds__(kBlock)
    slope_weights(const __grid_constant__ Heads<T> terms, const std::int32_t* edge_centre, const T* weight,
                  const T* grad, T* of_edge, T* of_weight) {
  const std::int64_t e = warp_in_grid() / terms.heads, h = warp_in_grid() % terms.heads;
  if (e >= terms.edges) {
    return;
  }
  const std::int64_t channels = terms.channels();
  T sum{};
  for (std::int64_t c = lane(); c < channels; c += kWarp) {
    const T above = grad[edge_centre[e] * channels + c];
    const SoftplusSlope<T> at = softplus_slope(terms.end(terms.edge_source[e], e, h * channels + c));
    of_edge[e * terms.columns + h * channels + c] = weight[e * terms.heads + h] * above * at.slope;
    sum += above * at.value;
  }
  sum = warp_sum(sum);
  if (lane() == 0) {
    of_weight[e * terms.heads + h] = sum;
  }
}

// What the edges that leave an atom add up to.
template <class T>
__global__ void __launch_bounds__(kBlock)
    gather_leaving(const __grid_constant__ Heads<T> terms, const Groups leaving, const T* of_edge, T* of_atom) {
  const std::int64_t i = thread_in_grid() / terms.columns, c = thread_in_grid() % terms.columns;
  if (i >= terms.atoms) {
    return;
  }
  T sum{};
  for (std::int64_t k = leaving.offsets[i]; k < leaving.offsets[i + 1]; ++k) {
    sum += of_edge[leaving.order[k] * terms.columns + c];
  }
  of_atom[i * terms.columns + c] = sum;
}

}  // namespace

template <class T>
void head_scores(const HeadTerms<T>& given, View<const T> to_centre, View<const T> to_source, View<T> result,
                 void* stream) {
  const DeviceGuard guard(given.atom.device_index);
  Workspace memory(guard.device(), static_cast<cudaStream_t>(stream));
  const Heads<T> terms = pointers_of(given, to_centre.rows());
  auto* edge_centre = memory.take<std::int32_t>(terms.edges);
  launch(number_centres, terms.atoms * kWarp, memory.stream(), terms.edge_offsets, terms.atoms, edge_centre);
  launch(score_ends<T>, terms.edges * terms.heads * kWarp, memory.stream(), terms, edge_centre, to_centre.data,
         to_source.data, result.data);
}

template <class T>
void head_scores_backward(const HeadTerms<T>& given, View<const T> to_centre, View<const T> to_source,
                          View<const T> grad, View<T> of_atom, View<T> of_edge, View<T> of_to_centre,
                          View<T> of_to_source, void* stream) {
  const DeviceGuard guard(given.atom.device_index);
  Workspace memory(guard.device(), static_cast<cudaStream_t>(stream));
  const Heads<T> terms = pointers_of(given, to_centre.rows());
  const Leaving found = leaving_edges(given.graph, memory);
  launch(slope_ends<T>, terms.atoms * terms.columns, memory.stream(), terms, found.groups, to_centre.data,
         to_source.data, grad.data, of_atom.data, of_edge.data);
  std::int64_t length = kPartEdges;
  while (length * kMostParts < terms.edges) {
    length *= 2;
  }
  const std::int64_t parts = (terms.edges + length - 1) / length;
  T* sums = memory.take<T>(2 * parts * terms.columns);
  launch(slope_factors<T>, parts * terms.columns, memory.stream(), terms, found.edge_centre, length, parts, grad.data,
         sums);
  sum_parts(sums, terms.columns, parts, of_to_centre.data, memory.stream());
  sum_parts(sums + parts * terms.columns, terms.columns, parts, of_to_source.data, memory.stream());
}

template <class T>
void head_sum(const HeadTerms<T>& given, View<const T> weight, View<T> result, void* stream) {
  const DeviceGuard guard(given.atom.device_index);
  const Heads<T> terms = pointers_of(given, weight.shape[1]);
  launch(sum_heads<T>, terms.atoms * terms.columns / terms.heads, static_cast<cudaStream_t>(stream), terms, weight.data,
         result.data);
}

template <class T>
void head_sum_backward(const HeadTerms<T>& given, View<const T> weight, View<const T> grad, View<T> of_atom,
                       View<T> of_edge, View<T> of_weight, void* stream) {
  const DeviceGuard guard(given.atom.device_index);
  Workspace memory(guard.device(), static_cast<cudaStream_t>(stream));
  const Heads<T> terms = pointers_of(given, weight.shape[1]);
  const Leaving found = leaving_edges(given.graph, memory);
  launch(slope_weights<T>, terms.edges * terms.heads * kWarp, memory.stream(), terms, found.edge_centre, weight.data,
         grad.data, of_edge.data, of_weight.data);
  launch(gather_leaving<T>, terms.atoms * terms.columns, memory.stream(), terms, found.groups, of_edge.data,
         of_atom.data);
}

#define SCREENING_FOR(T)                                                                                           \
  template void head_scores<T>(const HeadTerms<T>&, View<const T>, View<const T>, View<T>, void*);                 \
  template void head_scores_backward<T>(const HeadTerms<T>&, View<const T>, View<const T>, View<const T>, View<T>, \
                                        View<T>, View<T>, View<T>, void*);                                         \
  template void head_sum<T>(const HeadTerms<T>&, View<const T>, View<T>, void*);                                   \
  template void head_sum_backward<T>(const HeadTerms<T>&, View<const T>, View<const T>, View<T>, View<T>, View<T>, \
                                     void*);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening::cuda
