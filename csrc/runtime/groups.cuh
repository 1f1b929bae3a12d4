// Things by key on the device: those of a key lie side by side, in ascending order. Counted, scanned, placed by integer
// atomics in any order, then sorted within each key by a warp, so that the order of threads does not show.
#pragma once

#include "runtime/launch.hpp"
#include "runtime/scan.cuh"
#include "runtime/warp.cuh"

namespace screening::cuda {
namespace {

struct Groups {
  std::int64_t* offsets;  // (keys + 1,)
  std::int32_t* order;    // the things of key k are order[offsets[k]] to order[offsets[k + 1] - 1]
};

template <class KeyOf>
__global__ void __launch_bounds__(kBlock)
    count_keys(const __grid_constant__ KeyOf key_of, std::int64_t things, std::int32_t* counts) {
  const std::int64_t thing = thread_in_grid();
  if (thing < things) {
    atomicAdd(&counts[key_of(thing)], 1);
  }
}

template <class KeyOf>
__global__ void __launch_bounds__(kBlock)
    place_things(const __grid_constant__ KeyOf key_of, std::int64_t things, std::int32_t* counts, Groups groups) {
  const std::int64_t thing = thread_in_grid();
  if (thing < things) {
    const std::int64_t key = key_of(thing);
    groups.order[groups.offsets[key] + atomicSub(&counts[key], 1) - 1] = static_cast<std::int32_t>(thing);
  }
}

__global__ void __launch_bounds__(kBlock) sort_groups(Groups groups, std::int64_t keys) {
  const std::int64_t key = warp_in_grid();
  if (key < keys) {
    const std::int64_t begin = groups.offsets[key];
    sort_by_warp(groups.order + begin, static_cast<std::uint32_t>(groups.offsets[key + 1] - begin));
  }
}

// key_of(thing), called on the device, lies in [0, keys). Things number less than 2^31.
template <class KeyOf>
Groups group_by(const KeyOf& key_of, std::int64_t things, std::int64_t keys, Workspace& memory) {
  const Groups groups{memory.take<std::int64_t>(keys + 1), memory.take<std::int32_t>(things)};
  auto* counts = memory.take_filled<std::int32_t>(keys, 0);
  launch(count_keys<KeyOf>, things, memory.stream(), key_of, things, counts);
  scan(counts, keys, groups.offsets, memory);
  launch(place_things<KeyOf>, things, memory.stream(), key_of, things, counts, groups);
  launch(sort_groups, keys * kWarp, memory.stream(), groups, keys);
  return groups;
}

}  // namespace
}  // namespace screening::cuda
