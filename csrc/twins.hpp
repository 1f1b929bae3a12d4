// What fronts share: the levels of the CPU twins, the choice of a twin, checks of devices and graphs. For dispatch*.cpp
// alone.
#pragma once

#include <atomic>
#include <stdexcept>
#include <string>

#include "kernels.hpp"

namespace screening {

enum class LevelKind { baseline, avx2, avx512 };

struct Level {
  const char* name;
  LevelKind kind;
  bool (*runs_here)();
};

std::atomic<const Level*>& current_level();

// Calls the twin for the device of `array`, on the CPU that of the current level.
#if defined(__x86_64__)
#define SCREENING_WIDE_LEVELS(call) \
  case LevelKind::avx512:           \
    return avx512::call;            \
  case LevelKind::avx2:             \
    return avx2::call;
#else
#define SCREENING_WIDE_LEVELS(call)
#endif
#define SCREENING_CALL_TWIN(array, name, ...)           \
  do {                                                  \
    if ((array).device == Device::cuda) {               \
      return cuda::name(__VA_ARGS__, stream);           \
    }                                                   \
    switch (current_level().load()->kind) {             \
      SCREENING_WIDE_LEVELS(name(__VA_ARGS__, threads)) \
      default:                                          \
        return baseline::name(__VA_ARGS__, threads);    \
    }                                                   \
  } while (false)

inline void require(bool holds, const char* kernel, const char* what) {
  if (!holds) {
    throw std::invalid_argument(std::string(kernel) + ": " + what);
  }
}

// That every array lies where the first does, whose device picks the twin: an address of another device would end the
// process. Of arrays without rows nothing is read, and what is left out (None) has no device.
template <class First, class... Others>
void require_one_device(const char* kernel, const First& first, const Others&... others) {
  require(((others.rows() == 0 || on_one_device(first, others)) && ...), kernel,
          "expected all arrays on one device; move those that lie elsewhere");
}

template <class... Arrays>
void require_on_cpu(const char* kernel, const Arrays&... arrays) {
  require(((arrays.device == Device::cpu) && ...), kernel, "expected arrays on the CPU");
}

// Whether offsets ascend from 0 to `end`: every row they bound then lies within as many values.
inline bool ascend_to(std::int64_t end, const View<const std::int32_t>& offsets) {
  const std::int64_t last = offsets.rows() - 1;
  bool ascending = offsets[0] == 0 && offsets[last] == end;
  for (std::int64_t i = 0; i < last; ++i) {
    ascending = ascending && offsets[i] <= offsets[i + 1];
  }
  return ascending;
}

// That a graph has offsets; and, of one on the CPU, where it costs next to nothing, that every edge leads where it may.
void check(const EdgeTopology&, const char* kernel);
void check_on_host(const EdgeTopology&, const char* kernel);

}  // namespace screening
