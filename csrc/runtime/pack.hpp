// Packs of floats or doubles as wide as the level has them, or of one for what is left over at the end of a row, with
// the elementary functions that a gate needs. One algorithm for every width: a channel's bits depend on its level only.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

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

// Halves every group of `Group` lanes of two packs, as sum_pack does; the groups of `a` come first.
template <int Group, class V>
V halve_lanes(V a, V b) {
  return [&]<int... P>(std::integer_sequence<int, P...>) {
    constexpr int kHalf = Group / 2;
    return __builtin_shufflevector(a, b, (P / kHalf * Group + P % kHalf)...) +
           __builtin_shufflevector(a, b, (P / kHalf * Group + P % kHalf + kHalf)...);
  }(std::make_integer_sequence<int, kWidthOf<V>>());
}

// Sums the lanes of `Count` packs, in the order of sum_pack, into the first lanes of packs[0]; Count <= width. Packs
// share their shuffles: one by one, the 13 sums of an edge with harmonics took an eighth of the time of its
// derivatives.
template <int Count, int Group, class V>
void sum_lanes(V* packs) {
  if constexpr (Group > 1) {
    constexpr int kLeft = (Count + 1) / 2;
    for (int k = 0; k < kLeft; ++k) {
      packs[k] = halve_lanes<Group>(packs[2 * k], packs[2 * k + 1 < Count ? 2 * k + 1 : 2 * k]);
    }
    sum_lanes<kLeft, Group / 2>(packs);
  }
}

#if defined(__AVX512F__)
// The masked forms with all lanes on are the same instructions; GCC 12 warns about the plain ones' undefined operand.
inline constexpr __mmask16 kAllLanes = 0xffff;
inline constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

// Runs a function of whole registers on a pack of any width, so that all widths take the same instructions.
template <class V, class Function>
V in_register(V pack, const Function& function) {
  __m512 wide;
  if constexpr (kWidthOf<V> == kLanes) {
    wide = reinterpret_cast<__m512>(pack);
  } else {
    wide = _mm512_set1_ps(pack[0]);
  }
  wide = function(wide);
  V result;
  std::memcpy(&result, &wide, sizeof result);
  return result;
}
#endif

// 1 / x. Where there is an estimate: that, and one step of Newton's, 1e-7 relative; x must be normal, and so must 1 /
// x.
template <class V>
V reciprocal(V x) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<ValueOf<V>, float>) {
    return in_register(x, [](__m512 v) {
      const __m512 estimate = _mm512_maskz_rcp14_ps(kAllLanes, v);
      const __m512 off = _mm512_fnmadd_ps(v, estimate, _mm512_set1_ps(1.0f));
      return _mm512_fmadd_ps(estimate, off, estimate);
    });
  }
#endif
  return 1 / x;
}

// e^x. Float: x = (n + f) ln 2 with |f| <= 1/2, a polynomial for 2^f (3e-9 relative), n into the exponent; beyond 80
// in size x stays there, which no gate tells from infinity. A NaN stays one.
template <class V>
V exponential(V x) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<ValueOf<V>, float>) {
    return in_register(x, [](__m512 v) {
      // The second operand is what comes out when one is a NaN.
      v = _mm512_maskz_min_ps(kAllLanes, _mm512_set1_ps(80.0f), v);
      v = _mm512_maskz_max_ps(kAllLanes, _mm512_set1_ps(-80.0f), v);
      const __m512 scale = _mm512_set1_ps(1.44269504f);
      const __m512 n = _mm512_maskz_roundscale_ps(kAllLanes, v * scale, kNearest);
      const __m512 f = _mm512_fmsub_ps(v, scale, n);
      __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(0.00015469736f), _mm512_set1_ps(0.0013400437f));
      p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.009618025f));
      p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.05550327f));
      p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24022651f));
      p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69314718f));
      p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
      return _mm512_maskz_scalef_ps(kAllLanes, p, n);
    });
  }
#endif
  if constexpr (std::is_same_v<ValueOf<V>, float>) {
    typedef Pack<std::int32_t, kWidthOf<V>> Integers;
    x = x > 80.0f ? spread_pack<V>(80.0f) : x;
    x = x < -80.0f ? spread_pack<V>(-80.0f) : x;
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
