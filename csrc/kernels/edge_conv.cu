// Message passing, CUDA twin of edge_conv.cpp; contract in kernels.hpp.
// Layout: terms (atoms, 2C) and table (rows, 2C) row-major; forward takes no scratch. Derivatives take 12 bytes an
// edge, 12 an atom and a table for every max(256, 8 rows) edges, at most 64 bytes an edge at 64 channels of floats.
// Ownership: a warp owns a row of the result, of the centres' and of the sources' derivatives, with the weights and the
// scale of the edges into it; 32 channels of a part of the edges own theirs of a table. Nothing waits for the stream.
// Determinism: sums run in edge order, those of the table by parts that sizes alone decide; atomics are on integers.
// Bound: an edge reads 2 span + 2 values a channel from L1, 4.6 KiB at span 8 and 64 channels, 36 cycles of a
// multiprocessor; DRAM gives each atom's terms once and span + 3 values an edge, which takes a third of that.
#define SCREENING_LEVEL cuda  // the arithmetic of math/ compiled for this twin

#include "kernels/edge_scatter.cuh"
#include "math/gate.hpp"

namespace screening::cuda {
namespace {

// The factors of messages, (edges, count).
template <class T>
struct Scales {
  const T* scale;
  int count;

  __device__ __forceinline__ const T* of(std::int64_t e) const { return scale + e * count; }

  // sum over k of factor[k] * row[k, c], where rows are `channels` long
  __device__ __forceinline__ T blend(const T* factor, const T* row, int channels) const {
    T sum = factor[0] * row[0];
    for (int k = 1; k < count; ++k) {
      sum += factor[k] * row[static_cast<std::int64_t>(k) * channels];
    }
    return sum;
  }
};

// Sums the messages with the scales [begin, begin + Summed) into those rows of the result. Lanes beyond the last
// channel repeat it, so that no load waits for a branch.
template <class T, int Span, int Held, int Summed>
__global__ void __launch_bounds__(kBlock)
    convolve_rows(const __grid_constant__ Terms<T> terms, const Scales<T> scales, int first_scale, T* result) {
  const std::int64_t i = warp_in_grid();
  if (i >= terms.atoms) {
    return;
  }
  const int channels = terms.channels;
  for (int begin = 0; begin < channels; begin += Held * kWarp) {
    int channel[Held];
    T sums[Held][Summed] = {};
    for (int h = 0; h < Held; ++h) {
      const int c = begin + h * kWarp + lane();
      channel[h] = c < channels ? c : channels - 1;
    }
    for (std::int64_t e = terms.edge_offsets[i]; e < terms.edge_offsets[i + 1]; ++e) {
      const Preactivation<T, Span> a = preactivation_of<Span>(terms, i, terms.edge_source[e], e);
      const T* factor = scales.of(e) + first_scale;
      for (int h = 0; h < Held; ++h) {
        const T message = gate(a.at(channel[h]), a.at(channels + channel[h]));
        for (int k = 0; k < Summed; ++k) {
          sums[h][k] += factor[k] * message;
        }
      }
    }
    for (int h = 0; h < Held; ++h) {
      if (begin + h * kWarp + lane() < channels) {
        for (int k = 0; k < Summed; ++k) {
          result[(i * scales.count + first_scale + k) * channels + channel[h]] = sums[h][k];
        }
      }
    }
  }
}

template <class T, int Span>
struct ConvSlope {
  static constexpr int kSpan = Span;
  static constexpr bool kCurved = false, kScaled = true;
  struct Edge {
    Preactivation<T, Span> a;
    const T *grad, *scale;
  };

  Terms<T> terms;
  Scales<T> scales;
  const T* grad;

  __device__ __forceinline__ Edge edge(std::int64_t i, std::int64_t j, std::int64_t e) const {
    return {preactivation_of<Span>(terms, i, j, e), grad + i * scales.count * terms.channels, scales.of(e)};
  }
  __device__ __forceinline__ EdgeChange<T> change(const Edge& edge, int c) const {
    const GateSlope<T> slope = gate_slope(edge.a.at(c), edge.a.at(terms.channels + c));
    const T g = scales.blend(edge.scale, edge.grad + c, terms.channels);
    EdgeChange<T> change{};
    change.gate = g * slope.x;
    change.core = g * slope.y;
    change.scaled = slope.h;
    return change;
  }
};

// With d = the change of a_e along the direction and t those of the scales, each edge and channel adds
//   sum over k of g[k] (scale[k] (h_x d_x + h_y d_y) + t[k] h)
// to the sum that is derived here.
template <class T, int Span>
struct ConvCurve {
  static constexpr int kSpan = Span;
  static constexpr bool kCurved = true, kScaled = true;
  struct Edge {
    Preactivation<T, Span> a, d;
    Weights<T, Span> moved;
    const T *grad, *scale, *turn;
  };

  Terms<T> terms, along;   // `along`: the direction's centres, sources and table, with the weights of `terms`
  const T *weight, *turn;  // the direction's weights and scales; the terms' weights and null where they do not move
  Scales<T> scales;
  const T* grad;
  bool weights_move;

  __device__ __forceinline__ Edge edge(std::int64_t i, std::int64_t j, std::int64_t e) const {
    return {preactivation_of<Span>(terms, i, j, e),
            preactivation_of<Span>(along, i, j, e),
            {weight + e * terms.span, terms.span},
            grad + i * scales.count * terms.channels,
            scales.of(e),
            turn != nullptr ? turn + e * scales.count : nullptr};
  }
  __device__ __forceinline__ T along_direction(const Edge& edge, int column) const {
    const T change = edge.d.at(column);
    return weights_move ? blend(change, edge.moved, edge.a.rows + column, terms.columns) : change;
  }
  __device__ __forceinline__ EdgeChange<T> change(const Edge& edge, int c) const {
    const GateCurve<T> h = gate_curve(edge.a.at(c), edge.a.at(terms.channels + c));
    const T dx = along_direction(edge, c), dy = along_direction(edge, terms.channels + c);
    const T g = scales.blend(edge.scale, edge.grad + c, terms.channels), along_gate = h.x * dx + h.y * dy;
    const T turned = edge.turn != nullptr ? scales.blend(edge.turn, edge.grad + c, terms.channels) : T{};
    return {g * (h.xx * dx + h.xy * dy) + turned * h.x,
            g * (h.xy * dx + h.yy * dy) + turned * h.y,
            g * h.x,
            g * h.y,
            along_gate,
            h.h};
  }
};

}  // namespace

template <class T>
void edge_conv(const EdgeTerms<T>& terms, View<const T> scale, View<T> result, void* stream) {
  const DeviceGuard guard(terms.centre.device_index);
  const std::int64_t threads = terms.graph.atoms() * kWarp;
  const Scales<T> scales{scale.data, static_cast<int>(scale.shape[1])};
  with_span(terms.span(), [&](auto span) {
    constexpr int kSpan = decltype(span)::value;
    const auto sum = [&](auto summed, int first_scale) {
      constexpr int kSummed = decltype(summed)::value;
      const auto kernel =
          terms.channels() <= kWarp ? convolve_rows<T, kSpan, 1, kSummed> : convolve_rows<T, kSpan, 2, kSummed>;
      launch(kernel, threads, static_cast<cudaStream_t>(stream), pointers_of(terms), scales, first_scale, result.data);
    };
    if constexpr (kSpan == 4) {  // splines may have the harmonics up to the second
      if (scales.count == 9) {
        sum(std::integral_constant<int, 9>(), 0);
        return;
      }
    }
    for (int k = 0; k < scales.count; ++k) {
      sum(std::integral_constant<int, 1>(), k);
    }
  });
}

template <class T>
void edge_conv_backward(const EdgeTerms<T>& terms, View<const T> scale, View<const T> grad, const EdgeTermsOf<T>& out,
                        void* stream) {
  const DeviceGuard guard(terms.centre.device_index);
  Workspace memory(guard.device(), static_cast<cudaStream_t>(stream));
  with_span(terms.span(), [&](auto span) {
    const ConvSlope<T, decltype(span)::value> slope{
        pointers_of(terms), {scale.data, static_cast<int>(scale.shape[1])}, grad.data};
    scatter_edges<T>(slope, out, nullptr, memory);
  });
}

template <class T>
void edge_conv_curve(const EdgeTerms<T>& terms, View<const T> scale, View<const T> grad,
                     const EdgeTermsOf<const T>& direction, View<T> out_grad, const EdgeTermsOf<T>& out, void* stream) {
  const DeviceGuard guard(terms.centre.device_index);
  Workspace memory(guard.device(), static_cast<cudaStream_t>(stream));
  Terms<T> along = pointers_of(terms);
  along.centre = direction.centre.data;
  along.source = direction.source.data;
  along.table = direction.table.data;
  const bool weights_move = direction.weight.rows() > 0;
  const auto size = static_cast<std::size_t>(out_grad.rows() * out_grad.shape[1]);
  if (size > 0) {
    check(cudaMemsetAsync(out_grad.data, 0, size * sizeof(T), static_cast<cudaStream_t>(stream)), "clear a derivative");
  }
  with_span(terms.span(), [&](auto span) {
    const ConvCurve<T, decltype(span)::value> curve{pointers_of(terms),
                                                    along,
                                                    weights_move ? direction.weight.data : terms.weight.data,
                                                    direction.scale.rows() > 0 ? direction.scale.data : nullptr,
                                                    {scale.data, static_cast<int>(scale.shape[1])},
                                                    grad.data,
                                                    weights_move};
    scatter_edges<T>(curve, out, out_grad.data, memory);
  });
}

#define SCREENING_FOR(T)                                                                                           \
  template void edge_conv<T>(const EdgeTerms<T>&, View<const T>, View<T>, void*);                                  \
  template void edge_conv_backward<T>(const EdgeTerms<T>&, View<const T>, View<const T>, const EdgeTermsOf<T>&,    \
                                      void*);                                                                      \
  template void edge_conv_curve<T>(const EdgeTerms<T>&, View<const T>, View<const T>, const EdgeTermsOf<const T>&, \
                                   View<T>, const EdgeTermsOf<T>&, void*);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening::cuda
