// Float lanes as wide as the level has them: arithmetic, a comparison to bits, and packing of the chosen lanes.
// Everything here is exact or used only where an error bound is kept, so levels of different width agree.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "runtime/level.hpp"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace screening::SCREENING_LEVEL {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef std::int32_t IntLanes __attribute__((vector_size(kLanes * sizeof(std::int32_t))));

inline Lanes load(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

inline Lanes spread(float value) { return value - Lanes{}; }

// a * b + c, fused where the level can: for estimates with an error bound only.
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// One bit a lane: lane < bound.
inline std::uint32_t bits_below(Lanes lanes, Lanes bound) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(lanes, bound, _CMP_LT_OQ);
#elif defined(__AVX2__)
  return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(lanes, bound, _CMP_LT_OQ)));
#else
  std::uint32_t bits = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    bits |= static_cast<std::uint32_t>(lanes[lane] < bound[lane]) << lane;
  }
  return bits;
#endif
}

inline Lanes absolute(Lanes lanes) { return lanes < 0.0f ? -lanes : lanes; }

inline Lanes at_least_zero(Lanes lanes) { return lanes > 0.0f ? lanes : Lanes{}; }

inline IntLanes counting_from(std::int32_t first) {
  IntLanes lanes;
  for (int lane = 0; lane < kLanes; ++lane) {
    lanes[lane] = first + lane;
  }
  return lanes;
}

// Packs 32-bit lanes chosen by `bits` to `to`, in order; may write kLanes values, of which popcount(bits) count.
class Packing {
 public:
  explicit Packing(std::uint32_t bits) : bits_(bits) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    std::uint64_t spread_bits = _pdep_u64(bits, 0x0101010101010101ull) * 0xffull;
    order_ =
        _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(_pext_u64(0x0706050403020100ull, spread_bits))));
#endif
  }

  int count() const { return std::popcount(bits_); }

  template <class Vector, class Value>
  void store(Vector lanes, Value* to) const {
    static_assert(sizeof(Value) == 4 && sizeof(Vector) == kLanes * 4);
#if defined(__AVX512F__)
    _mm512_storeu_si512(to,
                        _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits_), reinterpret_cast<__m512i>(lanes)));
#elif defined(__AVX2__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_permutevar8x32_epi32(reinterpret_cast<__m256i>(lanes), order_));
#else
    for (std::uint32_t rest = bits_; rest != 0; rest &= rest - 1) {
      *to++ = lanes[std::countr_zero(rest)];
    }
#endif
  }

 private:
  std::uint32_t bits_;
#if defined(__AVX2__) && !defined(__AVX512F__)
  __m256i order_;
#endif
};

}  // namespace screening::SCREENING_LEVEL
