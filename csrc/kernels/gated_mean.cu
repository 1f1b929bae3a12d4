// Means weighed by gates of edges, CUDA twin of gated_mean.cpp; contract in kernels.hpp.
// Layout: all terms row-major, C values a row; forward takes no scratch. Derivatives take 8 bytes an edge, 12 an atom,
// and one or two rows of C values an atom.
// Ownership: a thread owns a channel of an atom, and of the edges into it; of the derivatives with respect to sources
// and values, a channel of an atom over the edges that leave it. Neighbouring threads have neighbouring channels.
// Determinism: sums run in edge order; atomics are on integers. Nothing waits for the stream.
// Bound: an edge reads a value a channel from DRAM and two from L2, twice for derivatives, which read what they wrote.
#define SCREENING_LEVEL cuda

#include "kernels/leaving.cuh"
#include "runtime/elementary.cuh"
// After the functions of single values, which it takes.
#include "math/gated_mean.hpp"

namespace screening::cuda {
namespace {

// GateTerms as kernels take it.
template <class T>
struct Gates {
  const T *centre, *source, *value, *edge;
  const std::int32_t *edge_offsets, *edge_source;
  std::int64_t atoms, channels;

  __device__ __forceinline__ T gate(std::int64_t i, std::int64_t j, std::int64_t e, std::int64_t c) const {
    return centre[i * channels + c] + source[j * channels + c] + edge[e * channels + c];
  }
  __device__ __forceinline__ T value_of(std::int64_t j, std::int64_t c) const { return value[j * channels + c]; }
};

template <class T>
Gates<T> pointers_of(const GateTerms<T>& terms) {
  return {terms.centre.data,
          terms.source.data,
          terms.value.data,
          terms.edge.data,
          terms.graph.edge_offsets.data,
          terms.graph.edge_source.data,
          terms.graph.atoms(),
          terms.channels()};
}

// A channel of an atom.
struct Place {
  std::int64_t atom, channel;
};

__device__ __forceinline__ Place place_of(std::int64_t channels) {
  return {thread_in_grid() / channels, thread_in_grid() % channels};
}

template <class T>
struct Weighed {
  T mean, total;
};

template <class T>
__device__ Weighed<T> weigh(const Gates<T>& terms, const Place& at, T* gates) {
  T sum{}, total = static_cast<T>(kGateFloor);
  for (std::int64_t e = terms.edge_offsets[at.atom]; e < terms.edge_offsets[at.atom + 1]; ++e) {
    const std::int64_t j = terms.edge_source[e];
    const T m = terms.gate(at.atom, j, e, at.channel), s = sigmoid_of(m);
    sum += s * terms.value_of(j, at.channel);
    total += s;
    if (gates != nullptr) {
      gates[e * terms.channels + at.channel] = m;
    }
  }
  return {sum / total, total};
}

template <class T>
__global__ void __launch_bounds__(kBlock) weigh_rows(const __grid_constant__ Gates<T> terms, T* result, T* gates) {
  const Place at = place_of(terms.channels);
  if (at.atom < terms.atoms) {
    result[at.atom * terms.channels + at.channel] = weigh(terms, at, gates).mean;
  }
}

// Derivatives with respect to gates and centres; `share` keeps grad / total.
template <class T>
__global__ void __launch_bounds__(kBlock) slope_gates(const __grid_constant__ Gates<T> terms, const T* grad,
                                                      const T* of_gates, T* share, T* out_centre, T* out_edge) {
  const Place at = place_of(terms.channels);
  if (at.atom >= terms.atoms) {
    return;
  }
  const std::int64_t own = at.atom * terms.channels + at.channel;
  const Weighed<T> weighed = weigh(terms, at, static_cast<T*>(nullptr));
  const MeanRow<T> row{weighed.mean, grad[own] / weighed.total};
  T sum{};
  for (std::int64_t e = terms.edge_offsets[at.atom]; e < terms.edge_offsets[at.atom + 1]; ++e) {
    const std::int64_t j = terms.edge_source[e], k = e * terms.channels + at.channel;
    const T m = terms.gate(at.atom, j, e, at.channel);
    T derivative = of_gate(row, sigmoid_curve(m), terms.value_of(j, at.channel));
    if (of_gates != nullptr) {
      derivative += of_gates[k];
    }
    out_edge[k] = derivative;
    sum += derivative;
  }
  out_centre[own] = sum;
  share[own] = row.share;
}

// As slope_gates, of the first derivative along `turned`; `drift` keeps D' / D.
template <class T>
__global__ void __launch_bounds__(kBlock)
    curve_gates(const __grid_constant__ Gates<T> terms, const __grid_constant__ Gates<T> turned, const T* grad,
                T* share, T* drift, T* out_grad, T* out_centre, T* out_edge) {
  const Place at = place_of(terms.channels);
  if (at.atom >= terms.atoms) {
    return;
  }
  const std::int64_t own = at.atom * terms.channels + at.channel, c = at.channel;
  const Weighed<T> weighed = weigh(terms, at, static_cast<T*>(nullptr));
  T swung{}, moved{}, sum{};
  for (std::int64_t e = terms.edge_offsets[at.atom]; e < terms.edge_offsets[at.atom + 1]; ++e) {
    const std::int64_t j = terms.edge_source[e];
    const SigmoidCurve<T> curve = sigmoid_curve(terms.gate(at.atom, j, e, c));
    const T swing = curve.first * turned.gate(at.atom, j, e, c);
    swung += swing;
    moved += swing * (terms.value_of(j, c) - weighed.mean) + curve.s * turned.value_of(j, c);
  }
  const MeanCurve<T> row{weighed.mean, grad[own] / weighed.total, swung / weighed.total, moved / weighed.total};
  for (std::int64_t e = terms.edge_offsets[at.atom]; e < terms.edge_offsets[at.atom + 1]; ++e) {
    const std::int64_t j = terms.edge_source[e];
    const SigmoidCurve<T> curve = sigmoid_curve(terms.gate(at.atom, j, e, c));
    const T derivative =
        curve_of_gate(row, curve, terms.value_of(j, c), turned.gate(at.atom, j, e, c), turned.value_of(j, c));
    out_edge[e * terms.channels + c] = derivative;
    sum += derivative;
  }
  out_centre[own] = sum;
  out_grad[own] = row.moved;
  share[own] = row.share;
  drift[own] = row.drift;
}

// What edges that leave an atom add to the derivatives with respect to its source term and its value. `turned` counts
// where `drift` is not null.
template <class T>
__global__ void __launch_bounds__(kBlock)
    derive_sources(const __grid_constant__ Gates<T> terms, const __grid_constant__ Gates<T> turned,
                   const Groups leaving, const std::int32_t* edge_centre, const T* share, const T* drift,
                   const T* of_edges, T* out_source, T* out_value) {
  const Place at = place_of(terms.channels);
  if (at.atom >= terms.atoms) {
    return;
  }
  const std::int64_t c = at.channel;
  T of_source{}, of_value{};
  for (std::int64_t k = leaving.offsets[at.atom]; k < leaving.offsets[at.atom + 1]; ++k) {
    const std::int64_t e = leaving.order[k], i = edge_centre[e], row = i * terms.channels + c;
    const SigmoidCurve<T> curve = sigmoid_curve(terms.gate(i, at.atom, e, c));
    of_source += of_edges[e * terms.channels + c];
    of_value += drift != nullptr ? curve_of_value(share[row], drift[row], curve, turned.gate(i, at.atom, e, c))
                                 : share[row] * curve.s;
  }
  out_source[at.atom * terms.channels + c] = of_source;
  out_value[at.atom * terms.channels + c] = of_value;
}

template <class T>
void derive_sources_of(const GateTerms<T>& terms, const Gates<T>& turned, const T* share, const T* drift,
                       const GateTermsOf<T>& out, Workspace& memory) {
  const Leaving found = leaving_edges(terms.graph, memory);
  launch(derive_sources<T>, terms.graph.atoms() * terms.channels(), memory.stream(), pointers_of(terms), turned,
         found.groups, found.edge_centre, share, drift, out.edge.data, out.source.data, out.value.data);
}

}  // namespace

template <class T>
void gated_mean(const GateTerms<T>& terms, View<T> result, View<T> gates, void* stream) {
  const DeviceGuard guard(terms.centre.device_index);
  launch(weigh_rows<T>, terms.graph.atoms() * terms.channels(), static_cast<cudaStream_t>(stream), pointers_of(terms),
         result.data, gates.rows() > 0 ? gates.data : nullptr);
}

template <class T>
void gated_mean_backward(const GateTerms<T>& terms, View<const T> grad, View<const T> of_gates,
                         const GateTermsOf<T>& out, void* stream) {
  const DeviceGuard guard(terms.centre.device_index);
  Workspace memory(guard.device(), static_cast<cudaStream_t>(stream));
  const Gates<T> pointers = pointers_of(terms);
  const std::int64_t size = pointers.atoms * pointers.channels;
  T* share = memory.take<T>(size);
  launch(slope_gates<T>, size, memory.stream(), pointers, grad.data, of_gates.rows() > 0 ? of_gates.data : nullptr,
         share, out.centre.data, out.edge.data);
  derive_sources_of<T>(terms, pointers, share, nullptr, out, memory);
}

template <class T>
void gated_mean_curve(const GateTerms<T>& terms, View<const T> grad, const GateTermsOf<const T>& direction,
                      View<T> out_grad, const GateTermsOf<T>& out, void* stream) {
  const DeviceGuard guard(terms.centre.device_index);
  Workspace memory(guard.device(), static_cast<cudaStream_t>(stream));
  const Gates<T> pointers = pointers_of(terms);
  Gates<T> turned = pointers;
  turned.centre = direction.centre.data;
  turned.source = direction.source.data;
  turned.value = direction.value.data;
  turned.edge = direction.edge.data;
  const std::int64_t size = pointers.atoms * pointers.channels;
  T *share = memory.take<T>(size), *drift = memory.take<T>(size);
  launch(curve_gates<T>, size, memory.stream(), pointers, turned, grad.data, share, drift, out_grad.data,
         out.centre.data, out.edge.data);
  derive_sources_of<T>(terms, turned, share, drift, out, memory);
}

#define SCREENING_FOR(T)                                                                                         \
  template void gated_mean<T>(const GateTerms<T>&, View<T>, View<T>, void*);                                     \
  template void gated_mean_backward<T>(const GateTerms<T>&, View<const T>, View<const T>, const GateTermsOf<T>&, \
                                       void*);                                                                   \
  template void gated_mean_curve<T>(const GateTerms<T>&, View<const T>, const GateTermsOf<const T>&, View<T>,    \
                                    const GateTermsOf<T>&, void*);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening::cuda
