// Packs of floats or doubles as wide as the level has them, or of one for what is left over at the end of a row, with
// the elementary functions that a gate needs. One algorithm for every width: a channel's bits depend on its level only.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "runtime/lanes.hpp"
#include "runtime/level.hpp"

namespace screening::SCREENING_LEVEL {

template <class T, int N>
struct PackOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T, int N>
using Pack = typename PackOf<T, N>::type;

template <class T>
inline constexpr int kPackWidth = kLanes * 4 / static_cast<int>(sizeof(T));

template <class V>
inline constexpr int kWidthOf = static_cast<int>(sizeof(V) / sizeof(std::declval<V>()[0]));
template <class V>
using ValueOf = std::remove_cvref_t<decltype(std::declval<V>()[0])>;

template <class V>
V load_pack(const ValueOf<V>* from) {
  V pack;
  std::memcpy(&pack, from, sizeof pack);
  return pack;
}

template <class V>
void store_pack(ValueOf<V>* to, V pack) {
  std::memcpy(to, &pack, sizeof pack);
}

template <class V>
V spread_pack(ValueOf<V> value) {
  return value - V{};
}

// Sums lanes by halving, so that the order is that of the width.
template <class V>
ValueOf<V> sum_pack(V pack) {
  ValueOf<V> lanes[kWidthOf<V>];
  store_pack(lanes, pack);
  for (int half = kWidthOf<V> / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) {
      lanes[lane] += lanes[lane + half];
    }
  }
  return lanes[0];
}

// e^x. Float: x = (n + f) ln 2 with |f| <= 1/2, a polynomial for 2^f (3e-9 relative), n into the exponent; beyond 86
// in size x stays there, which no gate tells from infinity. A NaN stays one.
template <class V>
V exponential(V x) {
  if constexpr (std::is_same_v<ValueOf<V>, float>) {
    typedef Pack<std::int32_t, kWidthOf<V>> Integers;
    x = x > 86.0f ? spread_pack<V>(86.0f) : x;
    x = x < -86.0f ? spread_pack<V>(-86.0f) : x;
    constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to whole numbers
    const V z = x * 1.44269504f;
    const V shifted = z + kMagic;
    const V f = z - (shifted - kMagic);
    V p = f * 0.00015469736536033452f + 0.001340043731033802f;
    p = p * f + 0.00961802527308464f;
    p = p * f + 0.05550327152013779f;
    p = p * f + 0.24022650718688965f;
    p = p * f + 0.6931471824645996f;
    p = p * f + 1.0f;
    Integers bits, exponent;
    std::memcpy(&bits, &p, sizeof bits);
    std::memcpy(&exponent, &shifted, sizeof exponent);
    bits += exponent << 23;
    std::memcpy(&p, &bits, sizeof p);
    return p;
  } else {
    for (int lane = 0; lane < kWidthOf<V>; ++lane) {
      // Beyond 700 in size x stays there: squares of what comes out must not overflow where slopes are multiplied.
      x[lane] = std::exp(x[lane] > 700 ? 700 : x[lane] < -700 ? -700 : x[lane]);
    }
    return x;
  }
}

// log(1 + u) for u in [0, 1], given ratio = u / (2 + u). Float: 2 atanh(ratio), a polynomial in its square (4e-9
// relative).
template <class V>
V log_of_one_plus(V u, V ratio) {
  if constexpr (std::is_same_v<ValueOf<V>, float>) {
    const V t = ratio * ratio;
    V p = t * 1.4087332785e-1f + 1.3980713487e-1f;
    p = p * t + 2.0012426376e-1f;
    p = p * t + 3.3333158493e-1f;
    p = p * t + 1.0f;
    return (ratio + ratio) * p;
  } else {
    for (int lane = 0; lane < kWidthOf<V>; ++lane) {
      u[lane] = std::log1p(u[lane]);
    }
    return u;
  }
}

}  // namespace screening::SCREENING_LEVEL
