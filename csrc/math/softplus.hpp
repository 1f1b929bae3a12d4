// softplus(x) = log(1 + e^x) and its slope, the sigmoid. Host packs, and single values on the device: see gate.hpp.
#pragma once

#include "runtime/level.hpp"
#ifdef __CUDACC__
#include "runtime/elementary.cuh"
#else
#include "runtime/pack.hpp"
#endif

namespace screening::SCREENING_LEVEL {

template <class V>
SCREENING_HD V softplus_of(V x) {
  const V u = exponential(x < 0 ? x : -x);
  return (x < 0 ? V{} : x) + log_of_one_plus(u, u * reciprocal(2 + u));
}

template <class V>
struct SoftplusSlope {
  V value, slope;
};

template <class V>
SCREENING_HD SoftplusSlope<V> softplus_slope(V x) {
  const V u = exponential(x < 0 ? x : -x);
  const V inverse = reciprocal((1 + u) * (2 + u));  // one for both
  const V larger = (2 + u) * inverse;
  return {(x < 0 ? V{} : x) + log_of_one_plus(u, u * (1 + u) * inverse), x < 0 ? u * larger : larger};
}

}  // namespace screening::SCREENING_LEVEL
