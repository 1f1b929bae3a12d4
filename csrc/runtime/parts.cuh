// Sums of parts of one shape on the device, in a tree whose form depends on their number alone.
#pragma once

#include "runtime/launch.hpp"
#include "runtime/warp.cuh"

namespace screening::cuda {
namespace {

constexpr std::int64_t kFan = 32;  // parts that a thread adds up, in their order

// Of `count` parts that lie `stride` parts apart, the sum of each `kFan` goes to where their first lay, or to `to`.
template <class T>
__global__ void __launch_bounds__(kBlock)
    add_parts(T* parts, std::int64_t size, std::int64_t count, std::int64_t stride, T* to) {
  const std::int64_t group = thread_in_grid() / size, value = thread_in_grid() % size;
  const std::int64_t first = group * kFan, end = first + kFan < count ? first + kFan : count;
  if (first >= count && group > 0) {
    return;
  }
  T sum{};
  for (std::int64_t part = first; part < end; ++part) {
    sum += parts[part * stride * size + value];
  }
  to[first * stride * size + value] = sum;
}

// The sum of `count` parts of `size` values, which are overwritten; zeros of none.
template <class T>
void sum_parts(T* parts, std::int64_t size, std::int64_t count, T* sum, cudaStream_t stream) {
  std::int64_t stride = 1;
  for (; count > kFan; stride *= kFan) {
    const std::int64_t groups = (count + kFan - 1) / kFan;
    launch(add_parts<T>, groups * size, stream, parts, size, count, stride, parts);
    count = groups;
  }
  launch(add_parts<T>, size, stream, parts, size, count, stride, sum);
}

}  // namespace
}  // namespace screening::cuda
