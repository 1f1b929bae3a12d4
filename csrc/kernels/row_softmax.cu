// Softmax along rows of edges, CUDA twin of row_softmax.cpp; contract in kernels.hpp.
// Layout: (edges, H) row-major; no scratch.
// Ownership: a thread owns one column of one row, so that H neighbouring threads read neighbouring values.
// Determinism: sums run in edge order. Bound: latency of the walks along a row; values come from L2 after the first.
#define SCREENING_LEVEL cuda

#include "kernels.hpp"
#include "runtime/elementary.cuh"
#include "runtime/launch.hpp"
#include "runtime/warp.cuh"

namespace screening::cuda {
namespace {

// The values of a row and head: [begin, end) in steps of `heads`.
struct Walk {
  std::int64_t begin, end;
};

__device__ __forceinline__ Walk walk_of(const std::int32_t* offsets, std::int64_t rows, std::int64_t heads) {
  const std::int64_t row = thread_in_grid() / heads, head = thread_in_grid() % heads;
  return row < rows ? Walk{heads * offsets[row] + head, heads * offsets[row + 1]} : Walk{0, 0};
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    softmax_rows(const T* scores, const std::int32_t* offsets, std::int64_t rows, std::int64_t heads, T* result) {
  const Walk walk = walk_of(offsets, rows, heads);
  if (walk.begin >= walk.end) {
    return;
  }
  T largest = scores[walk.begin], total{};
  for (std::int64_t k = walk.begin; k < walk.end; k += heads) {
    largest = scores[k] > largest ? scores[k] : largest;
  }
  for (std::int64_t k = walk.begin; k < walk.end; k += heads) {
    result[k] = exponential(scores[k] - largest);
    total += result[k];
  }
  for (std::int64_t k = walk.begin; k < walk.end; k += heads) {
    result[k] /= total;
  }
}

template <class T>
__global__ void __launch_bounds__(kBlock) slope_rows(const T* result, const std::int32_t* offsets, std::int64_t rows,
                                                     std::int64_t heads, const T* grad, T* out) {
  const Walk walk = walk_of(offsets, rows, heads);
  T total{};
  for (std::int64_t k = walk.begin; k < walk.end; k += heads) {
    total += result[k] * grad[k];
  }
  for (std::int64_t k = walk.begin; k < walk.end; k += heads) {
    out[k] = result[k] * (grad[k] - total);
  }
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    curve_rows(const T* result, const std::int32_t* offsets, std::int64_t rows, std::int64_t heads, const T* grad,
               const T* direction, T* out_result, T* out_grad) {
  const Walk walk = walk_of(offsets, rows, heads);
  T of_grad{}, of_direction{};
  for (std::int64_t k = walk.begin; k < walk.end; k += heads) {
    of_grad += result[k] * grad[k];
    of_direction += result[k] * direction[k];
  }
  for (std::int64_t k = walk.begin; k < walk.end; k += heads) {
    const T turned = direction[k] - of_direction;
    out_result[k] = grad[k] * turned - direction[k] * of_grad;
    out_grad[k] = result[k] * turned;
  }
}

}  // namespace

template <class T>
void row_softmax(View<const T> scores, View<const std::int32_t> offsets, View<T> result, void* stream) {
  const DeviceGuard guard(scores.device_index);
  const std::int64_t rows = offsets.rows() - 1, heads = scores.shape[1];
  launch(softmax_rows<T>, rows * heads, static_cast<cudaStream_t>(stream), scores.data, offsets.data, rows, heads,
         result.data);
}

template <class T>
void row_softmax_backward(View<const T> result, View<const std::int32_t> offsets, View<const T> grad, View<T> out,
                          void* stream) {
  const DeviceGuard guard(result.device_index);
  const std::int64_t rows = offsets.rows() - 1, heads = result.shape[1];
  launch(slope_rows<T>, rows * heads, static_cast<cudaStream_t>(stream), result.data, offsets.data, rows, heads,
         grad.data, out.data);
}

template <class T>
void row_softmax_curve(View<const T> result, View<const std::int32_t> offsets, View<const T> grad,
                       View<const T> direction, View<T> out_result, View<T> out_grad, void* stream) {
  const DeviceGuard guard(result.device_index);
  const std::int64_t rows = offsets.rows() - 1, heads = result.shape[1];
  launch(curve_rows<T>, rows * heads, static_cast<cudaStream_t>(stream), result.data, offsets.data, rows, heads,
         grad.data, direction.data, out_result.data, out_grad.data);
}

#define SCREENING_FOR(T)                                                                                             \
  template void row_softmax<T>(View<const T>, View<const std::int32_t>, View<T>, void*);                             \
  template void row_softmax_backward<T>(View<const T>, View<const std::int32_t>, View<const T>, View<T>, void*);     \
  template void row_softmax_curve<T>(View<const T>, View<const std::int32_t>, View<const T>, View<const T>, View<T>, \
                                     View<T>, void*);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening::cuda
