// Lengths of sums with harmonics, degree by degree, and their derivatives, on the CPU; contract in steady.hpp. Compiled
// once a SIMD level.
// Why by hand: torch goes over memory for every square, sum and root, and once more to lay the degrees side by side.
// Layout: sums (atoms, (degree + 1)^2, width) and lengths (atoms, degree + 1, width), row-major. Ownership: a task owns
// a block of atoms. Bound: memory, 4 bytes a value of either tensor.

#include <cmath>

#include "kernels/edge_terms.hpp"
#include "runtime/threads.hpp"
#include "steady.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

constexpr std::int64_t kAtomBlock = 64;

template <class V>
V root_of(V x) {
  for (int lane = 0; lane < kWidthOf<V>; ++lane) {
    x[lane] = std::sqrt(x[lane]);
  }
  return x;
}

// Calls body(pack, first value of the degree's sums, how many of them, their step, the value of its length) for every
// atom, degree and pack of channels; places are counted from the beginning of either tensor.
template <class T, class Body>
void for_each_length(const View<const T>& sums, std::int64_t degrees, int threads, const Body& body) {
  const std::int64_t atoms = sums.rows(), width = sums.shape[2];
  for_each_task((atoms + kAtomBlock - 1) / kAtomBlock, threads, [&](std::int64_t block, int) {
    for (std::int64_t i = block * kAtomBlock; i < std::min(atoms, (block + 1) * kAtomBlock); ++i) {
      for (std::int64_t degree = 0; degree < degrees; ++degree) {
        const std::int64_t first = (i * sums.shape[1] + degree * degree) * width;
        for_each_pack<T>(width, [&](auto pack, std::int64_t c) {
          body(pack, degree, first + c, (i * degrees + degree) * width + c);
        });
      }
    }
  });
}

}  // namespace

template <class T>
void sum_lengths(View<const T> sums, T softening, View<T> result, int threads) {
  const std::int64_t width = sums.shape[2];
  for_each_length<T>(sums, result.shape[1], threads,
                     [&](auto pack, std::int64_t degree, std::int64_t s, std::int64_t l) {
                       using V = decltype(pack);
                       V found = load_pack<V>(sums.data + s);
                       if (degree > 0) {
                         found = found * found;
                         for (std::int64_t k = 1; k < 2 * degree + 1; ++k) {
                           const V one = load_pack<V>(sums.data + s + k * width);
                           found += one * one;
                         }
                         found = root_of<V>(found + softening);
                       }
                       store_pack<V>(result.data + l, found);
                     });
}

template <class T>
void sum_lengths_backward(View<const T> sums, View<const T> lengths, View<const T> grad, View<T> of_sums, int threads) {
  const std::int64_t width = sums.shape[2];
  for_each_length<T>(sums, grad.shape[1], threads, [&](auto pack, std::int64_t degree, std::int64_t s, std::int64_t l) {
    using V = decltype(pack);
    const V above = load_pack<V>(grad.data + l);
    if (degree == 0) {
      store_pack<V>(of_sums.data + s, above);
      return;
    }
    const V share = above / load_pack<V>(lengths.data + l);
    for (std::int64_t k = 0; k < 2 * degree + 1; ++k, s += width) {
      store_pack<V>(of_sums.data + s, share * load_pack<V>(sums.data + s));
    }
  });
}

template <class T>
void sum_lengths_second(View<const T> sums, View<const T> lengths, View<const T> grad, View<const T> direction,
                        View<T> of_sums, View<T> of_grad, int threads) {
  const std::int64_t width = sums.shape[2];
  for_each_length<T>(sums, grad.shape[1], threads, [&](auto pack, std::int64_t degree, std::int64_t s, std::int64_t l) {
    using V = decltype(pack);
    if (degree == 0) {
      store_pack<V>(of_sums.data + s, V{});
      store_pack<V>(of_grad.data + l, load_pack<V>(direction.data + s));
      return;
    }
    const V length = load_pack<V>(lengths.data + l), share = load_pack<V>(grad.data + l) / length;
    V along{};
    for (std::int64_t k = 0; k < 2 * degree + 1; ++k) {
      along += load_pack<V>(direction.data + s + k * width) * load_pack<V>(sums.data + s + k * width);
    }
    along = along / length;
    store_pack<V>(of_grad.data + l, along);
    const V turned = along / length;
    for (std::int64_t k = 0; k < 2 * degree + 1; ++k, s += width) {
      const V off = load_pack<V>(direction.data + s) - load_pack<V>(sums.data + s) * turned;
      store_pack<V>(of_sums.data + s, share * off);
    }
  });
}

SCREENING_STEADY_LENGTHS(float)
SCREENING_STEADY_LENGTHS(double)

}  // namespace screening::SCREENING_LEVEL
