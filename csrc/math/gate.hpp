// The gate of a message: h(x, y) = sigmoid(x) softplus(y), with its first and second derivatives. Host packs, and
// single values on the device: both have `exponential`, `reciprocal` and
// `log_of_one_plus`.
#pragma once

#include "runtime/level.hpp"
#ifdef __CUDACC__
#include "runtime/elementary.cuh"
#else
#include "runtime/pack.hpp"
#endif

namespace screening::SCREENING_LEVEL {

template <class V>
SCREENING_HD V gate(V x, V y) {
  const V e = exponential(-x), u = exponential(y < 0 ? y : -y);
  const V inverse = reciprocal((1 + e) * (2 + u));  // one for both
  return (2 + u) * inverse * ((y < 0 ? V{} : y) + log_of_one_plus(u, u * (1 + e) * inverse));
}

// sigmoid(x), sigmoid(y), what they lack to one, none losing digits where it is small, and softplus(y).
template <class V>
struct GateParts {
  V s, s_rest, r, r_rest, t;
};

template <class V>
SCREENING_HD GateParts<V> gate_parts(V x, V y) {
  const V e = exponential(-x), u = exponential(y < 0 ? y : -y);
  const V inverse = reciprocal((1 + e) * ((1 + u) * (2 + u)));
  const V s = (1 + u) * (2 + u) * inverse;
  const V larger = (1 + e) * (2 + u) * inverse, smaller = u * larger;
  const V t = (y < 0 ? V{} : y) + log_of_one_plus(u, u * (1 + e) * (1 + u) * inverse);
  return {s, e * s, y < 0 ? smaller : larger, y < 0 ? larger : smaller, t};
}

template <class V>
struct GateSlope {
  V h, x, y;  // h, dh/dx, dh/dy
};

template <class V>
SCREENING_HD GateSlope<V> gate_slope(V x, V y) {
  const GateParts<V> g = gate_parts(x, y);
  return {g.s * g.t, g.s * g.s_rest * g.t, g.s * g.r};
}

template <class V>
struct GateCurve {
  V h, x, y, xx, xy, yy;
};

template <class V>
SCREENING_HD GateCurve<V> gate_curve(V x, V y) {
  const GateParts<V> g = gate_parts(x, y);
  const V slope = g.s * g.s_rest;
  return {g.s * g.t, slope * g.t, g.s * g.r, slope * (g.s_rest - g.s) * g.t, slope * g.r, g.s * g.r * g.r_rest};
}

}  // namespace screening::SCREENING_LEVEL
