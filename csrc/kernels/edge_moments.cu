// Mean and variance of pre-activations over edges, CUDA twin of edge_moments.cpp; contract in kernels.hpp.
// Layout: as edge_conv.cu; forward takes 64 channels' 2 KiB of scratch for every 16 rows.
// Ownership: a warp owns up to 128 columns of 16 rows of edges. Derivatives as edge_conv.cu.
// Determinism: a row is summed in T in edge order, rows in double by parts that the number of atoms decides, both
// relative to the first edge, so that the variance does not drown in the square of the mean.
// Bound: as edge_conv.cu.
#define SCREENING_LEVEL cuda

#include "kernels/edge_scatter.cuh"

namespace screening::cuda {
namespace {

constexpr std::int64_t kRowsOfPart = 16;
constexpr int kColumnsOfLane = 4;

// The pre-activation of the first edge.
template <class T, int Span>
__global__ void __launch_bounds__(kBlock) find_origin(const __grid_constant__ Terms<T> terms, T* origin) {
  const auto column = static_cast<int>(thread_in_grid());
  if (thread_in_grid() >= terms.columns) {
    return;
  }
  std::int64_t low = 0, high = terms.atoms - 1;  // the first atom whose edges end after the first edge
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (terms.edge_offsets[middle + 1] > 0) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  origin[column] = preactivation_of<Span>(terms, low, terms.edge_source[0], 0).at(column);
}

// A part's sums of values and of squares, relative to the origin: (2, 2C).
template <class T, int Span>
__global__ void __launch_bounds__(kBlock)
    add_moments(const __grid_constant__ Terms<T> terms, const T* origin, std::int64_t parts, double* sums) {
  const int columns = terms.columns, width = kColumnsOfLane * kWarp, blocks = (columns + width - 1) / width;
  const std::int64_t part = warp_in_grid() / blocks;
  if (part >= parts) {
    return;
  }
  const int begin = static_cast<int>(warp_in_grid() % blocks) * width + lane();
  const std::int64_t first_row = part * kRowsOfPart;
  const std::int64_t last_row = first_row + kRowsOfPart < terms.atoms ? first_row + kRowsOfPart : terms.atoms;
  double of_values[kColumnsOfLane] = {}, of_squares[kColumnsOfLane] = {};
  for (std::int64_t i = first_row; i < last_row; ++i) {
    T value[kColumnsOfLane] = {}, square[kColumnsOfLane] = {};
    for (std::int64_t e = terms.edge_offsets[i]; e < terms.edge_offsets[i + 1]; ++e) {
      const Preactivation<T, Span> a = preactivation_of<Span>(terms, i, terms.edge_source[e], e);
      for (int h = 0; h < kColumnsOfLane; ++h) {
        const int column = begin + h * kWarp;
        if (column < columns) {
          const T off = a.at(column) - origin[column];
          value[h] += off;
          square[h] += off * off;
        }
      }
    }
    for (int h = 0; h < kColumnsOfLane; ++h) {
      of_values[h] += static_cast<double>(value[h]);
      of_squares[h] += static_cast<double>(square[h]);
    }
  }
  double* own = sums + part * 2 * columns;
  for (int h = 0; h < kColumnsOfLane; ++h) {
    const int column = begin + h * kWarp;
    if (column < columns) {
      own[column] = of_values[h];
      own[columns + column] = of_squares[h];
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    set_moments(const double* sums, const T* origin, int columns, std::int64_t edges, T* mean, T* variance) {
  const std::int64_t column = thread_in_grid();
  if (column >= columns) {
    return;
  }
  const double off = sums[column] / static_cast<double>(edges);
  const double spread = sums[columns + column] / static_cast<double>(edges) - off * off;
  mean[column] = static_cast<T>(static_cast<double>(origin[column]) + off);
  variance[column] = static_cast<T>(spread < 0 ? 0.0 : spread);  // a NaN stays one
}

template <class T, int Span>
struct MomentsSlope {
  static constexpr int kSpan = Span;
  static constexpr bool kCurved = false, kScaled = false;
  struct Edge {
    Preactivation<T, Span> a;
  };

  Terms<T> terms;
  const T *mean, *grad_mean, *grad_variance;
  T share;

  __device__ __forceinline__ Edge edge(std::int64_t i, std::int64_t j, std::int64_t e) const {
    return {preactivation_of<Span>(terms, i, j, e)};
  }
  __device__ __forceinline__ T slope(const Edge& edge, int column) const {
    return share * (grad_mean[column] + 2 * grad_variance[column] * (edge.a.at(column) - mean[column]));
  }
  __device__ __forceinline__ EdgeChange<T> change(const Edge& edge, int c) const {
    EdgeChange<T> change{};
    change.gate = slope(edge, c);
    change.core = slope(edge, terms.channels + c);
    return change;
  }
};

}  // namespace

template <class T>
void edge_moments(const EdgeTerms<T>& terms, View<T> mean, View<T> variance, void* stream) {
  const DeviceGuard guard(terms.centre.device_index);
  Workspace memory(guard.device(), static_cast<cudaStream_t>(stream));
  const Terms<T> pointers = pointers_of(terms);
  const std::int64_t columns = pointers.columns;
  if (pointers.edges == 0) {
    for (const View<T>& moment : {mean, variance}) {
      const auto bytes = static_cast<std::size_t>(columns) * sizeof(T);
      check(cudaMemsetAsync(moment.data, 0, bytes, memory.stream()), "set a result");
    }
    return;
  }
  const std::int64_t parts = (pointers.atoms + kRowsOfPart - 1) / kRowsOfPart;
  const std::int64_t width = kColumnsOfLane * kWarp, blocks = (columns + width - 1) / width;
  T* origin = memory.take<T>(columns);
  auto* of_parts = memory.take<double>(parts * 2 * columns);
  auto* sums = memory.take<double>(2 * columns);
  with_span(terms.span(), [&](auto span) {
    constexpr int kSpan = decltype(span)::value;
    launch(find_origin<T, kSpan>, columns, memory.stream(), pointers, origin);
    launch(add_moments<T, kSpan>, parts * blocks * kWarp, memory.stream(), pointers, origin, parts, of_parts);
  });
  sum_parts(of_parts, 2 * columns, parts, sums, memory.stream());
  launch(set_moments<T>, columns, memory.stream(), sums, origin, columns, pointers.edges, mean.data, variance.data);
}

template <class T>
void edge_moments_backward(const EdgeTerms<T>& terms, View<const T> mean, View<const T> grad_mean,
                           View<const T> grad_variance, const EdgeTermsOf<T>& out, void* stream) {
  const DeviceGuard guard(terms.centre.device_index);
  Workspace memory(guard.device(), static_cast<cudaStream_t>(stream));
  const T share = T{1} / static_cast<T>(std::max<std::int64_t>(terms.graph.edges(), 1));
  with_span(terms.span(), [&](auto span) {
    const MomentsSlope<T, decltype(span)::value> slope{pointers_of(terms), mean.data, grad_mean.data,
                                                       grad_variance.data, share};
    scatter_edges<T>(slope, out, nullptr, memory);
  });
}

#define SCREENING_FOR(T)                                                                                   \
  template void edge_moments<T>(const EdgeTerms<T>&, View<T>, View<T>, void*);                             \
  template void edge_moments_backward<T>(const EdgeTerms<T>&, View<const T>, View<const T>, View<const T>, \
                                         const EdgeTermsOf<T>&, void*);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening::cuda
