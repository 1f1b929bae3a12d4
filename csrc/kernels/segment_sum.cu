// Sums of consecutive rows, CUDA twin of segment_sum.cpp; contract in kernels.hpp.
// Layout: rows (n, columns) row-major; no scratch.
// Ownership: a thread owns one column of one segment, so that neighbouring threads read neighbouring values.
// Determinism: rows in their order. Bound: each value is read once from DRAM; one long segment alone is bound by the
// latency of its column sums.
#include "kernels.hpp"
#include "runtime/launch.hpp"
#include "runtime/warp.cuh"

namespace screening::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kBlock)
    sum_segments(const T* rows, const std::int32_t* offsets, std::int64_t segments, std::int64_t columns, T* result) {
  const std::int64_t segment = thread_in_grid() / columns, column = thread_in_grid() % columns;
  if (segment >= segments) {
    return;
  }
  T sum{};
  for (std::int64_t row = offsets[segment]; row < offsets[segment + 1]; ++row) {
    sum += rows[row * columns + column];
  }
  result[segment * columns + column] = sum;
}

}  // namespace

template <class T>
void segment_sum(View<const T> rows, View<const std::int32_t> offsets, View<T> result, void* stream) {
  const std::int64_t segments = result.rows(), columns = rows.shape[1];
  const DeviceGuard guard(rows.device_index);
  launch(sum_segments<T>, segments * columns, static_cast<cudaStream_t>(stream), rows.data, offsets.data, segments,
         columns, result.data);
}

template void segment_sum<float>(View<const float>, View<const std::int32_t>, View<float>, void*);
template void segment_sum<double>(View<const double>, View<const std::int32_t>, View<double>, void*);

}  // namespace screening::cuda
