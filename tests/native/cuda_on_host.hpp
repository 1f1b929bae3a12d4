// The part of CUDA that the kernels use, on the host: device code compiled by a C++ compiler, and run in lockstep.
//
// Every thread of a block is a fiber. A warp goes on past a ballot, a shuffle or a __syncwarp when all its lanes have
// arrived at it, a block past __syncthreads when all its threads have; anything else is an error. Between those points
// lanes run one after the other, in an order that can be chosen: a kernel that lacks a barrier gives other results in
// another order. Blocks run one after the other too, so shared memory is static memory. Device memory is host memory
// that starts with garbage. Any call of the runtime can be made to fail, and what was taken is counted.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind { cudaMemcpyDeviceToHost = 2 };
enum cudaMemAllocationType { cudaMemAllocationTypePinned = 1 };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4 };
using cudaStream_t = struct CUstream_st*;
using cudaMemPool_t = struct CUmemPoolHandle_st*;

struct cudaMemPoolProps {
  cudaMemAllocationType allocType;
  struct {
    cudaMemLocationType type;
    int id;
  } location;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace on_host {

inline constexpr unsigned kWarpSize = 32;

// What the runtime was asked for, and what it should do.
struct Runtime {
  std::int64_t calls = 0, launches = 0, waits = 0, live = 0, bytes = 0;
  std::int64_t failing_call = -1;
  cudaError_t error = cudaSuccess;
  int device = 0;
  std::uint64_t order = 0;  // 0: lanes and blocks ascending, 1: descending, more: seeds of a shuffle
};

inline Runtime& runtime() {
  static Runtime runtime;
  return runtime;
}

inline cudaError_t called() { return runtime().calls++ == runtime().failing_call ? runtime().error : cudaSuccess; }

enum class Meeting { none, exchange, warp, block };

// One block: its threads, who waits where, and what the lanes of a warp told one another.
class Block {
 public:
  static Block& current() {
    static Block block;
    return block;
  }

  void run(unsigned threads, const std::function<void()>& body, std::mt19937_64& random) {
    while (fibers_.size() < threads) {
      fibers_.push_back(std::make_unique<Fiber>());
    }
    places_.assign(threads, {});
    values_.assign(threads, 0);
    failure_.clear();
    for (unsigned t = 0; t < threads; ++t) {
      fibers_[t]->begin(&body);
    }
    for (;;) {
      for (unsigned t : ordered(threads, random)) {
        if (!fibers_[t]->done() && places_[t].meeting == Meeting::none) {
          thread_ = t;
          threadIdx = {t};
          fibers_[t]->resume();
          if (!failure_.empty()) {
            throw std::logic_error(failure_);
          }
        }
      }
      if (!release(threads)) {
        return;
      }
    }
  }

  // Waits until everyone who takes part has arrived; called by threads.
  void meet(Meeting meeting, std::uint64_t value, const std::source_location& where) {
    values_[thread_] = value;
    places_[thread_] = {meeting, where.line(), where.file_name()};
    Fiber::leave();
  }

  void fail(const std::string& sentence) {
    failure_ = sentence;
    Fiber::leave();
  }

  std::uint64_t told(unsigned lane) const { return told_[thread_ / kWarpSize * kWarpSize + lane % kWarpSize]; }
  unsigned lane() const { return thread_ % kWarpSize; }

  static std::vector<unsigned> ordered(unsigned count, std::mt19937_64& random) {
    std::vector<unsigned> order(count);
    for (unsigned k = 0; k < count; ++k) {
      order[k] = runtime().order == 1 ? count - 1 - k : k;
    }
    for (unsigned k = count; runtime().order > 1 && k > 1; --k) {
      std::swap(order[k - 1], order[random() % k]);
    }
    return order;
  }

 private:
  struct Place {
    Meeting meeting = Meeting::none;
    unsigned line = 0;
    const char* file = "";
    bool operator==(const Place& other) const {
      return meeting == other.meeting && line == other.line && std::strcmp(file, other.file) == 0;
    }
  };

  // Lets go of whoever has met; false when all have ended.
  bool release(unsigned threads) {
    told_ = values_;
    unsigned ended = 0, in_block = 0, released = 0;
    for (unsigned first = 0; first < threads; first += kWarpSize) {
      for (unsigned t = first; t < first + kWarpSize; ++t) {
        ended += fibers_[t]->done() ? 1 : 0;
        if (fibers_[t]->done() != fibers_[first]->done() || !(places_[t] == places_[first])) {
          throw std::logic_error("the lanes of a warp part: " + described(t) + ", " + described(first));
        }
        in_block += !fibers_[t]->done() && places_[t].meeting == Meeting::block ? 1 : 0;
      }
      const Meeting meeting = places_[first].meeting;
      for (unsigned t = first; t < first + kWarpSize && !fibers_[t]->done() && meeting != Meeting::block; ++t) {
        places_[t] = {};
        ++released;
      }
    }
    if (in_block == threads) {
      places_.assign(threads, {});
      return true;
    }
    if (ended + in_block == threads && in_block > 0) {
      throw std::logic_error("some threads of a block have ended, others wait at " + described(0));
    }
    return released > 0 || ended < threads;
  }

  std::string described(unsigned t) const {
    return "thread " + std::to_string(t) +
           (fibers_[t]->done() ? " has ended"
                               : std::string(" waits at ") + places_[t].file + ":" + std::to_string(places_[t].line));
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Place> places_;
  std::vector<std::uint64_t> values_, told_;
  std::string failure_;
  unsigned thread_ = 0;
};

inline void run_grid(const cudaLaunchConfig_t& config, const std::function<void()>& body) {
  std::mt19937_64 random(runtime().order);
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  for (unsigned block : Block::ordered(config.gridDim.x, random)) {
    blockIdx = {block};
    Block::current().run(config.blockDim.x, body, random);
  }
}

template <class T>
std::uint64_t as_bits(T value) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

// Tells `value` to the other lanes and hears what `from` told.
template <class T>
T exchange(unsigned mask, T value, unsigned from, const std::source_location& where) {
  if (mask != 0xffffffffu) {
    Block::current().fail("only whole warps are supported here");
  }
  Block::current().meet(Meeting::exchange, as_bits(value), where);
  const std::uint64_t bits = Block::current().told(from);
  T heard;
  std::memcpy(&heard, &bits, sizeof heard);
  return heard;
}

}  // namespace on_host

using HostLocation = std::source_location;

inline unsigned __ballot_sync(unsigned mask, int says, HostLocation where = HostLocation::current()) {
  on_host::exchange<std::uint64_t>(mask, says != 0, 0, where);
  unsigned lanes = 0;
  for (unsigned lane = 0; lane < on_host::kWarpSize; ++lane) {
    lanes |= static_cast<unsigned>(on_host::Block::current().told(lane)) << lane;
  }
  return lanes;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, HostLocation where = HostLocation::current()) {
  return on_host::exchange(mask, value, static_cast<unsigned>(lane), where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, HostLocation where = HostLocation::current()) {
  return on_host::exchange(mask, value, on_host::Block::current().lane() ^ static_cast<unsigned>(flip), where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned step, HostLocation where = HostLocation::current()) {
  const unsigned lane = on_host::Block::current().lane();
  return on_host::exchange(mask, value, lane >= step ? lane - step : lane, where);
}
inline void __syncwarp(HostLocation where = HostLocation::current()) {
  on_host::Block::current().meet(on_host::Meeting::warp, 0, where);
}
inline void __syncthreads(HostLocation where = HostLocation::current()) {
  on_host::Block::current().meet(on_host::Meeting::block, 0, where);
}
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline double __longlong_as_double(long long value) { return std::bit_cast<double>(value); }

// Threads of the host's only thread: nothing comes in between.
template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}
template <class T>
T atomicSub(T* at, T value) {
  const T before = *at;
  *at -= value;
  return before;
}
template <class T>
T atomicMin(T* at, T value) {
  const T before = *at;
  *at = value < before ? value : before;
  return before;
}
template <class T>
T atomicMax(T* at, T value) {
  const T before = *at;
  *at = value > before ? value : before;
  return before;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : error == cudaErrorNoDevice ? "no device" : "a fault";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return on_host::called();
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = on_host::runtime().device;
  return on_host::called();
}
inline cudaError_t cudaSetDevice(int device) {
  on_host::runtime().device = device;
  return on_host::called();
}
inline cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
  *pool = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
inline cudaError_t cudaMallocFromPoolAsync(void** memory, std::size_t bytes, cudaMemPool_t, cudaStream_t) {
  if (const cudaError_t error = on_host::called()) {
    return error;
  }
  *memory = std::malloc(bytes);
  std::memset(*memory, 0xcd, bytes);
  on_host::runtime().live += 1;
  on_host::runtime().bytes += static_cast<std::int64_t>(bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* memory, cudaStream_t) {
  std::free(memory);
  on_host::runtime().live -= 1;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int byte, std::size_t bytes, cudaStream_t) {
  std::memset(memory, byte, bytes);
  return on_host::called();
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return on_host::called();
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  on_host::runtime().waits += 1;
  return on_host::called();
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (const cudaError_t error = on_host::called()) {
    return error;
  }
  on_host::runtime().launches += 1;
  on_host::run_grid(*config, [&] { kernel(arguments...); });
  return cudaSuccess;
}
