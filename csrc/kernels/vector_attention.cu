// Attention with vectors along rows of edges, CUDA twin of vector_attention.cpp; contract in kernels.hpp.
// Layout: all terms row-major, C channels. Scratch: the weight of each head an edge, for derivatives with its slope, 16
// bytes an edge for the way back through sources, and a table for each part.
// Ownership: a warp owns an edge and head while it scores it, and an edge while it adds up what its scale and weights
// get; a thread owns a channel of an atom, over the edges into it or those that leave it, or a channel of the table
// over the edges of a part.
// Determinism: sums run in edge order, warps add up in a tree, atomics are on integers. Nothing waits for the stream.
// Bound: loads of table rows from L1, 16 an edge and channel, which neighbouring threads share.
#define SCREENING_LEVEL cuda

#include "kernels/leaving.cuh"
#include "runtime/elementary.cuh"
#include "runtime/parts.cuh"
// After the functions of single values, which it takes.
#include "math/vector_attention.hpp"

namespace screening::cuda {
namespace {

constexpr std::int64_t kPartEdges = 512, kMostParts = 1024;

// Where the terms lie; of a direction, `first` and the graph are those of the terms.
template <class T>
struct Arrays {
  const T *query, *key, *value, *vectors, *table, *weight, *scale;
};

// The terms as kernels take them. N is T, or Dual<T> where there is a direction.
template <class T, class N>
struct Attention {
  Arrays<T> at, turn;
  const std::int32_t *first, *edge_offsets, *edge_source;
  std::int64_t atoms, edges, channels, heads, span, table_rows;

  __device__ __forceinline__ N read(const T* Arrays<T>::* array, std::int64_t k) const {
    if constexpr (sizeof(N) == sizeof(T)) {
      return (at.*array)[k];
    } else {
      return {(at.*array)[k], (turn.*array)[k]};
    }
  }
  // The filter number `f` of an edge at a channel.
  __device__ N filter(std::int64_t e, int f, std::int64_t c) const {
    N sum{};
    for (std::int64_t m = 0; m < span; ++m) {
      const std::int64_t row = (first[e] + m) * 4 * channels;
      sum = sum + read(&Arrays<T>::table, row + f * channels + c) * read(&Arrays<T>::weight, e * span + m);
    }
    return sum;
  }
  __device__ Heard<N> heard(std::int64_t i, std::int64_t e, std::int64_t c) const {
    const std::int64_t j = edge_source[e], three = 3 * j * channels + c;
    Heard<N> found;
    found.query = read(&Arrays<T>::query, i * channels + c);
    found.key = read(&Arrays<T>::key, j * channels + c);
    for (int d = 0; d < 3; ++d) {
      found.value[d] = read(&Arrays<T>::value, three + d * channels);
      found.vector[d] = read(&Arrays<T>::vectors, three + d * channels);
    }
    for (int f = 0; f < 4; ++f) {
      found.filter[f] = filter(e, f, c);
    }
    return found;
  }
  __device__ __forceinline__ void scale_of(std::int64_t e, N* to) const {
    for (int k = 0; k < 4; ++k) {
      to[k] = read(&Arrays<T>::scale, 4 * e + k);
    }
  }
  __device__ __forceinline__ std::int64_t head_of(std::int64_t c) const { return c / (channels / heads); }
};

template <class T>
Arrays<T> arrays_of(const T* query, const T* key, const T* value, const T* vectors, const T* table, const T* weight,
                    const T* scale) {
  return {query, key, value, vectors, table, weight, scale};
}

template <class N, class T>
Attention<T, N> attention_of(const AttentionTerms<T>& terms, const AttentionTermsOf<const T>& turn) {
  return {arrays_of<T>(terms.query.data, terms.key.data, terms.value.data, terms.vectors.data, terms.table.data,
                       terms.weight.data, terms.scale.data),
          arrays_of<T>(turn.query.data, turn.key.data, turn.value.data, turn.vectors.data, turn.table.data,
                       turn.weight.data, turn.scale.data),
          terms.first.data,
          terms.graph.edge_offsets.data,
          terms.graph.edge_source.data,
          terms.graph.atoms(),
          terms.graph.edges(),
          terms.channels(),
          terms.heads,
          terms.span(),
          terms.table.rows()};
}

using cuda::warp_sum;  // or the next one would hide it
template <class T>
__device__ __forceinline__ Dual<T> warp_sum(const Dual<T>& number) {
  return {warp_sum(number.value), warp_sum(number.turned)};
}

template <class T>
__device__ Message<T> message_in(const T* rows, std::int64_t i, std::int64_t channels, std::int64_t c) {
  const T* row = rows + 4 * i * channels + c;
  return {row[0], {row[channels], row[2 * channels], row[3 * channels]}};
}

// alpha of every edge and head and, where something came from above, the derivative with respect to its score.
template <class T, class N>
__global__ void __launch_bounds__(kBlock)
    score_edges(const __grid_constant__ Attention<T, N> terms, const std::int32_t* edge_centre, const T* grad, N* alpha,
                N* of_score) {
  const std::int64_t e = warp_in_grid() / terms.heads, head = warp_in_grid() % terms.heads;
  if (e >= terms.edges) {
    return;
  }
  const std::int64_t width = terms.channels / terms.heads, i = edge_centre[e], j = terms.edge_source[e];
  const N envelope = terms.read(&Arrays<T>::scale, 4 * e);
  N score{}, weighed{};
  for (std::int64_t c = head * width + lane(); c < (head + 1) * width; c += kWarp) {
    score = score + terms.read(&Arrays<T>::query, i * terms.channels + c) *
                        terms.read(&Arrays<T>::key, j * terms.channels + c) * terms.filter(e, 0, c);
    if (grad != nullptr) {
      weighed = weighed + terms.read(&Arrays<T>::value, 3 * j * terms.channels + c) * terms.filter(e, 1, c) * envelope *
                              grad[4 * i * terms.channels + c];
    }
  }
  const Silu<N> found = silu_of(warp_sum(score));
  const N slope = warp_sum(weighed) * found.slope;
  if (lane() == 0) {
    alpha[e * terms.heads + head] = found.value;
    if (grad != nullptr) {
      of_score[e * terms.heads + head] = slope;
    }
  }
}

// What atoms hear, or how that changes; and, where something came from above, derivatives with respect to queries.
template <class T, class N>
__global__ void __launch_bounds__(kBlock)
    hear(const __grid_constant__ Attention<T, N> terms, const N* alpha, const N* of_score, T* heard, T* out_query) {
  const std::int64_t i = thread_in_grid() / terms.channels, c = thread_in_grid() % terms.channels;
  if (i >= terms.atoms) {
    return;
  }
  T sums[4] = {}, query{};
  for (std::int64_t e = terms.edge_offsets[i]; e < terms.edge_offsets[i + 1]; ++e) {
    const std::int64_t at = e * terms.heads + terms.head_of(c);
    if (heard != nullptr) {
      N scale[4];
      terms.scale_of(e, scale);
      const Message<N> sent = message_of(terms.heard(i, e, c), scale, alpha[at]);
      sums[0] += outcome(sent.plain);
      for (int d = 0; d < 3; ++d) {
        sums[d + 1] += outcome(sent.along[d]);
      }
    }
    if (out_query != nullptr) {
      const N key = terms.read(&Arrays<T>::key, terms.edge_source[e] * terms.channels + c);
      query += outcome(key * terms.filter(e, 0, c) * of_score[at]);
    }
  }
  for (int k = 0; heard != nullptr && k < 4; ++k) {
    heard[(4 * i + k) * terms.channels + c] = sums[k];
  }
  if (out_query != nullptr) {
    out_query[i * terms.channels + c] = query;
  }
}

template <class T, class N>
__device__ HeardSlopes<N> slopes_at(const Attention<T, N>& terms, std::int64_t i, std::int64_t e, std::int64_t c,
                                    const N* alpha, const N* of_score, const T* grad) {
  const std::int64_t at = e * terms.heads + terms.head_of(c);
  N scale[4];
  terms.scale_of(e, scale);
  return slopes_of(terms.heard(i, e, c), scale, alpha[at], of_score[at], message_in(grad, i, terms.channels, c));
}

// Derivatives with respect to what an atom sends, over the edges that leave it.
template <class T, class N>
__global__ void __launch_bounds__(kBlock)
    derive_sources(const __grid_constant__ Attention<T, N> terms, const Groups leaving, const std::int32_t* edge_centre,
                   const N* alpha, const N* of_score, const T* grad, T* out_key, T* out_value, T* out_vectors) {
  const std::int64_t j = thread_in_grid() / terms.channels, c = thread_in_grid() % terms.channels;
  if (j >= terms.atoms) {
    return;
  }
  T key{}, value[3] = {}, vectors[3] = {};
  for (std::int64_t k = leaving.offsets[j]; k < leaving.offsets[j + 1]; ++k) {
    const std::int64_t e = leaving.order[k];
    const HeardSlopes<N> found = slopes_at(terms, edge_centre[e], e, c, alpha, of_score, grad);
    key += outcome(found.of.key);
    for (int d = 0; d < 3; ++d) {
      value[d] += outcome(found.of.value[d]);
      vectors[d] += outcome(found.of.vector[d]);
    }
  }
  out_key[j * terms.channels + c] = key;
  for (int d = 0; d < 3; ++d) {
    out_value[(3 * j + d) * terms.channels + c] = value[d];
    out_vectors[(3 * j + d) * terms.channels + c] = vectors[d];
  }
}

// The slope of a filter times a row of the table, both of which may move.
template <class T>
__device__ __forceinline__ T product(T slope, T other) {
  return slope * other;
}
template <class T>
__device__ __forceinline__ T product(const Dual<T>& slope, const Dual<T>& other) {
  return outcome(slope * other);
}

// Derivatives with respect to the scale and the weights of an edge.
template <class T, class N>
__global__ void __launch_bounds__(kBlock)
    derive_edges(const __grid_constant__ Attention<T, N> terms, const std::int32_t* edge_centre, const N* alpha,
                 const N* of_score, const T* grad, T* out_weight, T* out_scale) {
  const std::int64_t e = warp_in_grid();
  if (e >= terms.edges) {
    return;
  }
  T scale[4] = {};
  for (std::int64_t m = 0; m < terms.span; ++m) {
    const std::int64_t row = (terms.first[e] + m) * 4 * terms.channels;
    T weight{};
    for (std::int64_t c = lane(); c < terms.channels; c += kWarp) {
      const HeardSlopes<N> found = slopes_at(terms, edge_centre[e], e, c, alpha, of_score, grad);
      for (int f = 0; f < 4; ++f) {
        weight += product(found.of.filter[f], terms.read(&Arrays<T>::table, row + f * terms.channels + c));
        scale[f] += m == 0 ? outcome(found.scale[f]) : T{};
      }
    }
    weight = warp_sum(weight);
    if (lane() == 0) {
      out_weight[e * terms.span + m] = weight;
    }
  }
  for (int k = 0; k < 4; ++k) {
    const T sum = warp_sum(scale[k]);
    if (lane() == 0) {
      out_scale[4 * e + k] = sum;
    }
  }
}

// Derivatives with respect to a channel of the table, of the edges of a part.
template <class T, class N>
__global__ void __launch_bounds__(kBlock)
    derive_tables(const __grid_constant__ Attention<T, N> terms, const std::int32_t* edge_centre, std::int64_t length,
                  std::int64_t parts, const N* alpha, const N* of_score, const T* grad, T* tables) {
  const std::int64_t part = thread_in_grid() / terms.channels, c = thread_in_grid() % terms.channels;
  if (part >= parts) {
    return;
  }
  T* table = tables + part * terms.table_rows * 4 * terms.channels;
  const std::int64_t begin = part * length, end = begin + length < terms.edges ? begin + length : terms.edges;
  for (std::int64_t e = begin; e < end; ++e) {
    const HeardSlopes<N> found = slopes_at(terms, edge_centre[e], e, c, alpha, of_score, grad);
    for (std::int64_t m = 0; m < terms.span; ++m) {
      const N weight = terms.read(&Arrays<T>::weight, e * terms.span + m);
      for (int f = 0; f < 4; ++f) {
        table[(4 * (terms.first[e] + m) + f) * terms.channels + c] += product(found.of.filter[f], weight);
      }
    }
  }
}

// `out_grad` is empty unless terms move.
template <class N, class T>
void differentiate(const AttentionTerms<T>& given, const AttentionTermsOf<const T>& turn, View<const T> grad,
                   View<T> out_grad, const AttentionTermsOf<T>& out, void* stream) {
  const DeviceGuard guard(given.query.device_index);
  Workspace memory(guard.device(), static_cast<cudaStream_t>(stream));
  const Attention<T, N> terms = attention_of<N>(given, turn);
  const Leaving found = leaving_edges(given.graph, memory);
  auto *alpha = memory.take<N>(terms.edges * terms.heads), *of_score = memory.take<N>(terms.edges * terms.heads);
  const std::int64_t size = terms.atoms * terms.channels;
  launch(score_edges<T, N>, terms.edges * terms.heads * kWarp, memory.stream(), terms, found.edge_centre, grad.data,
         alpha, of_score);
  launch(hear<T, N>, size, memory.stream(), terms, alpha, of_score, out_grad.rows() > 0 ? out_grad.data : nullptr,
         out.query.data);
  launch(derive_sources<T, N>, size, memory.stream(), terms, found.groups, found.edge_centre, alpha, of_score,
         grad.data, out.key.data, out.value.data, out.vectors.data);
  if (out.scale.rows() > 0) {
    launch(derive_edges<T, N>, terms.edges * kWarp, memory.stream(), terms, found.edge_centre, alpha, of_score,
           grad.data, out.weight.data, out.scale.data);
  }
  std::int64_t length = kPartEdges;
  while (length * kMostParts < terms.edges) {
    length *= 2;
  }
  const std::int64_t parts = (terms.edges + length - 1) / length, table = 4 * terms.table_rows * terms.channels;
  T* tables = memory.take_filled<T>(parts * table, 0);
  launch(derive_tables<T, N>, parts * terms.channels, memory.stream(), terms, found.edge_centre, length, parts, alpha,
         of_score, grad.data, tables);
  sum_parts(tables, table, parts, out.table.data, memory.stream());
}

}  // namespace

template <class T>
void vector_attention(const AttentionTerms<T>& given, View<T> result, void* stream) {
  const DeviceGuard guard(given.query.device_index);
  Workspace memory(guard.device(), static_cast<cudaStream_t>(stream));
  const Attention<T, T> terms = attention_of<T>(given, AttentionTermsOf<const T>{});
  auto* edge_centre = memory.take<std::int32_t>(terms.edges);
  launch(number_centres, terms.atoms * kWarp, memory.stream(), terms.edge_offsets, terms.atoms, edge_centre);
  T* alpha = memory.take<T>(terms.edges * terms.heads);
  launch(score_edges<T, T>, terms.edges * terms.heads * kWarp, memory.stream(), terms, edge_centre, nullptr, alpha,
         nullptr);
  launch(hear<T, T>, terms.atoms * terms.channels, memory.stream(), terms, alpha, nullptr, result.data, nullptr);
}

template <class T>
void vector_attention_backward(const AttentionTerms<T>& terms, View<const T> grad, const AttentionTermsOf<T>& out,
                               void* stream) {
  differentiate<T, T>(terms, AttentionTermsOf<const T>{}, grad, View<T>{}, out, stream);
}

template <class T>
void vector_attention_curve(const AttentionTerms<T>& terms, View<const T> grad,
                            const AttentionTermsOf<const T>& direction, View<T> out_grad,
                            const AttentionTermsOf<T>& out, void* stream) {
  differentiate<Dual<T>, T>(terms, direction, grad, out_grad, out, stream);
}

#define SCREENING_FOR(T)                                                                                             \
  template void vector_attention<T>(const AttentionTerms<T>&, View<T>, void*);                                       \
  template void vector_attention_backward<T>(const AttentionTerms<T>&, View<const T>, const AttentionTermsOf<T>&,    \
                                             void*);                                                                 \
  template void vector_attention_curve<T>(const AttentionTerms<T>&, View<const T>, const AttentionTermsOf<const T>&, \
                                          View<T>, const AttentionTermsOf<T>&, void*);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening::cuda
