// The scales of an edge on the CPU: K factors that one message is summed with, into K rows of C channels.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "kernels/edge_scatter.hpp"

namespace screening::SCREENING_LEVEL {

// Calls body(std::integral_constant<int, span>, std::integral_constant<int, scales>). What models have is unrolled:
// Gaussians or splines with one scale, splines with the 9 harmonics up to the second; 0 and 0 are any others.
template <class Body>
void with_sizes(std::int64_t span, std::int64_t scales, const Body& body) {
  const auto call = [&]<int Span, int Scales>() {
    body(std::integral_constant<int, Span>(), std::integral_constant<int, Scales>());
  };
  if (span == 8 && scales == 1) {
    call.template operator()<8, 1>();
  } else if (span == 4 && scales == 1) {
    call.template operator()<4, 1>();
  } else if (span == 4 && scales == 9) {
    call.template operator()<4, 9>();
  } else {
    call.template operator()<0, 0>();
  }
}

template <class T, int Scales>
class EdgeScales {
 public:
  EdgeScales(const View<const T>& scale, std::int64_t edge, std::int64_t channels)
      : scale_(row_of(scale, edge)), count_(scale.shape[1]), channels_(channels) {}

  std::int64_t count() const { return Scales != 0 ? Scales : count_; }
  std::int64_t channels() const { return channels_; }
  T operator[](std::int64_t k) const { return scale_[k]; }

  // Calls body(k) for each scale.
  template <class Body>
  void for_each(const Body& body) const {
    for (std::int64_t k = 0; k < count(); ++k) {
      body(k);
    }
  }

  // sum over k of scale[k] * row[k, c]
  template <class V>
  V blend(const T* row, std::int64_t c) const {
    V sum = scale_[0] * load_pack<V>(row + c);
    for (std::int64_t k = 1; k < count(); ++k) {
      sum += scale_[k] * load_pack<V>(row + k * channels_ + c);
    }
    return sum;
  }

 private:
  const T* scale_;
  std::int64_t count_, channels_;
};

// result[k, c] += sum over edges e in [begin, end) of scale[e, k] * messages[e - begin, c], edge after edge.
template <class T, int Scales>
void add_scaled(const T* messages, std::int64_t channels, const View<const T>& scale, std::int64_t begin,
                std::int64_t end, T* result) {
  for_each_pack<T>(channels, [&](auto pack, std::int64_t c) {
    using V = decltype(pack);
    if constexpr (Scales != 0) {
      V sums[Scales];
      for (int k = 0; k < Scales; ++k) {
        sums[k] = load_pack<V>(result + k * channels + c);
      }
      for (std::int64_t e = begin; e < end; ++e) {
        const V message = load_pack<V>(messages + (e - begin) * channels + c);
        const T* factors = row_of(scale, e);
        for (int k = 0; k < Scales; ++k) {
          sums[k] += factors[k] * message;
        }
      }
      for (int k = 0; k < Scales; ++k) {
        store_pack<V>(result + k * channels + c, sums[k]);
      }
    } else {
      for (std::int64_t k = 0; k < scale.shape[1]; ++k) {
        V sum = load_pack<V>(result + k * channels + c);
        for (std::int64_t e = begin; e < end; ++e) {
          sum += row_of(scale, e)[k] * load_pack<V>(messages + (e - begin) * channels + c);
        }
        store_pack<V>(result + k * channels + c, sum);
      }
    }
  });
}

// For each scale of an edge, the sum over channels of row[k, c] * value[c].
template <class T, int Scales>
class ScaleSums {
 public:
  explicit ScaleSums(const EdgeScales<T, Scales>& scales) : scales_(scales) {
    if constexpr (Scales == 0) {
      sums_.resize(static_cast<std::size_t>(scales.count()));
    }
  }

  template <class V>
  void add(const T* row, std::int64_t c, V value) {
    scales_.for_each([&](std::int64_t k) {
      sums_[static_cast<std::size_t>(k)].add(load_pack<V>(row + k * scales_.channels() + c) * value);
    });
  }
  void store(T* to) const {
    if constexpr (Scales != 0) {
      store_totals<Scales>(sums_.data(), to);
    } else {
      scales_.for_each([&](std::int64_t k) { to[k] = sums_[static_cast<std::size_t>(k)].total(); });
    }
  }

 private:
  using Sums = std::conditional_t<Scales == 0, std::vector<LaneSum<T>>, std::array<LaneSum<T>, Scales>>;
  const EdgeScales<T, Scales>& scales_;
  Sums sums_;
};

}  // namespace screening::SCREENING_LEVEL
