// Exclusive sums of counts on the device: out[i] = in[0] + ... + in[i - 1], and out[n] the total.
// Two kernels: tiles of 4,096 counts are summed, then each tile adds up the tiles before it and scans itself. That is
// quadratic in the tiles, but a launch less; for 10^7 counts it loads 0.3 sums a count. Integers only, so the order of
// blocks does not matter.
#pragma once

#include "runtime/launch.hpp"
#include "runtime/warp.cuh"

namespace screening::cuda {
namespace {

constexpr int kScanItems = 16;
constexpr std::int64_t kScanTile = std::int64_t{kBlock} * kScanItems;

// The sum over the threads of the block before this one; `total` is that of all.
__device__ std::int64_t sum_before(std::int64_t value, std::int64_t& total) {
  __shared__ std::int64_t sums[kBlock / kWarp];
  std::int64_t upto = value;
  for (int step = 1; step < kWarp; step *= 2) {
    const auto other = __shfl_up_sync(kAllLanes, static_cast<long long>(upto), step);
    upto += lane() >= step ? other : 0;
  }
  __syncthreads();  // the sums of an earlier call have been read
  if (lane() == kWarp - 1) {
    sums[warp_in_block()] = upto;
  }
  __syncthreads();
  std::int64_t before = upto - value;
  total = 0;
  for (int warp = 0; warp < kBlock / kWarp; ++warp) {
    before += warp < warp_in_block() ? sums[warp] : 0;
    total += sums[warp];
  }
  return before;
}

__device__ std::int64_t sum_of_items(const std::int32_t* counts, std::int64_t n) {
  const std::int64_t first = thread_in_grid() * kScanItems;
  std::int64_t sum = 0;
  for (std::int64_t i = first; i < first + kScanItems && i < n; ++i) {
    sum += counts[i];
  }
  return sum;
}

__global__ void __launch_bounds__(kBlock) sum_tiles(const std::int32_t* counts, std::int64_t n, std::int64_t* sums) {
  std::int64_t total = 0;
  sum_before(sum_of_items(counts, n), total);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = total;
  }
}

__global__ void __launch_bounds__(kBlock)
    scan_tiles(const std::int32_t* counts, std::int64_t n, const std::int64_t* sums, std::int64_t* out) {
  std::int64_t mine = 0, before_tile = 0, total = 0;
  for (std::int64_t tile = threadIdx.x; tile < blockIdx.x; tile += kBlock) {
    mine += sums[tile];
  }
  sum_before(mine, before_tile);
  std::int64_t sum = before_tile + sum_before(sum_of_items(counts, n), total);
  const std::int64_t first = thread_in_grid() * kScanItems;
  for (std::int64_t i = first; i < first + kScanItems && i < n; ++i) {
    out[i] = sum;
    sum += counts[i];
  }
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) {
    out[n] = before_tile + total;
  }
}

// `out` has n + 1 entries.
void scan(const std::int32_t* counts, std::int64_t n, std::int64_t* out, Workspace& memory) {
  const std::int64_t tiles = n > 0 ? (n + kScanTile - 1) / kScanTile : 1;
  std::int64_t* sums = memory.take<std::int64_t>(tiles);
  launch(sum_tiles, tiles * kBlock, memory.stream(), counts, n, sums);
  launch(scan_tiles, tiles * kBlock, memory.stream(), counts, n, sums, out);
}

}  // namespace
}  // namespace screening::cuda
