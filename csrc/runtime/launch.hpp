// What a CUDA twin needs of the runtime: every call checked, the caller's device and stream, scratch that frees itself.
// Kernels are started and waited for here and nowhere else.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace screening::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kBlock = 256;

[[noreturn]] inline void fail(cudaError_t error, const char* what) {
  cudaGetLastError();  // or the next call would report this failure as its own
  if (error == cudaErrorMemoryAllocation) {
    throw std::bad_alloc();
  }
  std::string sentence = std::string("CUDA could not ") + what + ": " + cudaGetErrorString(error);
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) {
    sentence += "; check that nvidia-smi lists a device here, or pass arrays on the CPU";
  } else if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) {
    sentence += "; rebuild with `pip install . -C cmake.define.CMAKE_CUDA_ARCHITECTURES=native` on this machine";
  }
  throw std::runtime_error(sentence);
}

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    fail(error, what);
  }
}

// Makes a device the current one for as long as it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) : device_(device) {
    check(cudaGetDevice(&before_), "tell the current device");
    if (device_ != before_) {
      check(cudaSetDevice(device_), "use the arrays' device");
    }
  }
  ~DeviceGuard() {
    if (device_ != before_) {
      cudaSetDevice(before_);
    }
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  int device() const { return device_; }

 private:
  int device_, before_ = 0;
};

// The pool that scratch comes from, one a device. The default pool gives everything back to the driver whenever a
// stream is waited for, and each search would map memory anew; this one keeps 256 MiB and leaves the rest to others.
inline cudaMemPool_t scratch_pool(int device) {
  static std::mutex mutex;
  static std::map<int, cudaMemPool_t> pools;
  const std::lock_guard lock(mutex);
  if (const auto found = pools.find(device); found != pools.end()) {
    return found->second;
  }
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  cudaMemPool_t pool = nullptr;
  check(cudaMemPoolCreate(&pool, &properties), "make a memory pool");
  std::uint64_t kept = std::uint64_t{256} << 20;
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept), "set up a memory pool");
  return pools[device] = pool;
}

// Device memory in stream order, not cleared; freed in stream order when this ends, whichever way.
class Workspace {
 public:
  Workspace(int device, cudaStream_t stream) : device_(device), stream_(stream) {}
  ~Workspace() { clear(); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  template <class T>
  T* take(std::int64_t count) {
    void* memory = nullptr;
    taken_.reserve(taken_.size() + 1);  // so that nothing can fail between taking and noting it
    const auto bytes = static_cast<std::size_t>(count > 0 ? count : 1) * sizeof(T);
    check(cudaMallocFromPoolAsync(&memory, bytes, scratch_pool(device_), stream_), "take scratch memory");
    taken_.push_back(memory);
    return static_cast<T*>(memory);
  }
  template <class T>
  T* take_filled(std::int64_t count, int byte) {
    T* memory = take<T>(count);
    check(cudaMemsetAsync(memory, byte, static_cast<std::size_t>(count) * sizeof(T), stream_), "set scratch memory");
    return memory;
  }
  void clear() {
    for (void* memory : taken_) {
      cudaFreeAsync(memory, stream_);
    }
    taken_.clear();
  }
  int device() const { return device_; }
  cudaStream_t stream() const { return stream_; }

 private:
  int device_;
  cudaStream_t stream_;
  std::vector<void*> taken_;
};

// Reads one value back; the one way in which a twin waits for its stream.
template <class T>
T fetch(const T* from, cudaStream_t stream) {
  T value;
  check(cudaMemcpyAsync(&value, from, sizeof(T), cudaMemcpyDeviceToHost, stream), "copy a result to the host");
  check(cudaStreamSynchronize(stream), "finish a kernel");
  return value;
}

// Starts at least `threads` threads, whole blocks of them; nothing when there is nothing to do.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t threads, cudaStream_t stream, const Arguments&... arguments) {
  if (threads <= 0) {
    return;
  }
  const std::int64_t blocks = (threads + kBlock - 1) / kBlock;
  if (blocks > 2147483647) {
    throw std::runtime_error("too many rows for one CUDA launch; use smaller batches");
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kBlock);
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "start a kernel");
}

}  // namespace screening::cuda
