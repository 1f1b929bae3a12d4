// What the 32 lanes of a warp do together. Every function here is called by all of them at once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "runtime/launch.hpp"

namespace screening::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_in_block() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ __forceinline__ std::int64_t thread_in_grid() {
  return static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
}
__device__ __forceinline__ std::int64_t warp_in_grid() {
  return static_cast<std::int64_t>(blockIdx.x) * (kBlock / kWarp) + warp_in_block();
}

__device__ __forceinline__ unsigned ballot(bool lane_says) { return __ballot_sync(kAllLanes, lane_says); }
__device__ __forceinline__ int count_of(unsigned lanes) { return __popc(lanes); }
// How many of `lanes` come before this one.
__device__ __forceinline__ int rank_among(unsigned lanes) { return __popc(lanes & ((1u << lane()) - 1u)); }

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, step);
  }
  return value;
}

__device__ __forceinline__ unsigned long long least_of_warp(unsigned long long value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const unsigned long long other = __shfl_xor_sync(kAllLanes, value, step);
    value = other < value ? other : value;
  }
  return value;
}

// Doubles as integers of the same order, so that atomicMin and atomicMax find their extremes.
__device__ __forceinline__ unsigned long long ordered(double value) {
  const auto bits = static_cast<unsigned long long>(__double_as_longlong(value));
  return bits >> 63 ? ~bits : bits | (1ull << 63);
}
__device__ __forceinline__ double from_ordered(unsigned long long key) {
  return __longlong_as_double(static_cast<long long>(key >> 63 ? key & ~(1ull << 63) : ~key));
}

// Sorts in place: a bitonic network of which only the exchanges within n are made. In each merge the first exchange is
// between mirror images, which makes all of them ascending, so that absent values count as infinite.
template <class T>
__device__ void sort_by_warp(T* values, std::uint32_t n) {
  for (std::uint32_t width = 2; width / 2 < n; width *= 2) {
    for (std::uint32_t partner = width - 1; partner > 0; partner = partner == width - 1 ? width / 4 : partner / 2) {
      for (std::uint32_t low = static_cast<std::uint32_t>(lane()); low < n; low += kWarp) {
        const std::uint32_t high = low ^ partner;
        if (low < high && high < n && values[high] < values[low]) {
          const T value = values[low];
          values[low] = values[high];
          values[high] = value;
        }
      }
      __syncwarp();
    }
  }
}

}  // namespace screening::cuda
