// silu(x) = x sigmoid(x): its first two derivatives, none losing digits where it is small.
#pragma once

#include "math/gated_mean.hpp"

namespace screening::SCREENING_LEVEL {

template <class V>
V silu_slope(V x) {
  const V s = sigmoid_of(x);
  return s * (1 + x * (1 - s));
}

template <class V>
struct SiluCurve {
  V first, second;
};

template <class V>
SiluCurve<V> silu_curve(V x) {
  const SigmoidCurve<V> at = sigmoid_curve(x);
  return {at.s + x * at.first, at.first + at.first + x * at.second};
}

}  // namespace screening::SCREENING_LEVEL
