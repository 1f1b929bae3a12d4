// The mean of values v weighed by s = sigmoid(m), o = sum(s v) / D with D = sum(s) + a floor, and its derivatives, one
// edge and channel at a time. Host packs, and single values on the device: see gate.hpp.
#pragma once

#include "runtime/level.hpp"
#ifdef __CUDACC__
#include "runtime/elementary.cuh"
#else
#include "runtime/pack.hpp"
#endif

namespace screening::SCREENING_LEVEL {

// sigmoid(m), and its first two derivatives, none losing digits where it is small.
template <class V>
struct SigmoidCurve {
  V s, first, second;
};

template <class V>
SCREENING_HD V sigmoid_of(V m) {
  return reciprocal(1 + exponential(-m));
}

template <class V>
SCREENING_HD SigmoidCurve<V> sigmoid_curve(V m) {
  const V e = exponential(-m), s = reciprocal(1 + e), rest = e * s;
  return {s, s * rest, s * rest * (rest - s)};
}

// What is the same for all edges of a row in one channel. `share` is what comes from above over D.
template <class V>
struct MeanRow {
  V mean, share;
};

// With D' and o' the changes of D and of the mean along a direction that moves m by t and v by u.
template <class V>
struct MeanCurve {
  V mean, share, drift, moved;  // `drift` is D' / D, `moved` is o'
};

// Derivative of share * D * o with respect to m.
template <class V>
SCREENING_HD V of_gate(const MeanRow<V>& row, const SigmoidCurve<V>& at, V v) {
  return row.share * at.first * (v - row.mean);
}

// Derivatives of share * D * o' with respect to m and v, where o' = (sum(s' t v + s u) - o D') / D.
template <class V>
SCREENING_HD V curve_of_gate(const MeanCurve<V>& row, const SigmoidCurve<V>& at, V v, V t, V u) {
  const V off = v - row.mean;
  return row.share * (at.second * t * off + at.first * (u - off * row.drift - row.moved));
}
template <class V>
SCREENING_HD V curve_of_value(V share, V drift, const SigmoidCurve<V>& at, V t) {
  return share * (at.first * t - at.s * drift);
}

}  // namespace screening::SCREENING_LEVEL
