// softplus, sigmoid and SiLU of each value, on the CPU; contracts in kernels.hpp and steady.hpp. Compiled once a SIMD
// level.
// Why by hand: torch takes the last few values of a thread's share through other functions, so bits depend on the
// batch. Here every value takes the same steps. And the derivatives of SiLU are one pass each, of torch's products five
// and a dozen. Bound: arithmetic, some 20 operations a value; memory with several threads.

#include "kernels/edge_terms.hpp"
#include "math/silu.hpp"
#include "runtime/threads.hpp"
#include "steady.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

constexpr std::int64_t kBlock = 16384;

// Calls body(pack, k) for packs of values from the k-th on.
template <class T, class Body>
void for_each_place(std::int64_t count, int threads, const Body& body) {
  for_each_task((count + kBlock - 1) / kBlock, threads, [&](std::int64_t block, int) {
    const std::int64_t begin = block * kBlock;
    for_each_pack<T>(std::min(count - begin, kBlock), [&](auto pack, std::int64_t k) { body(pack, begin + k); });
  });
}

template <class T, class Function>
void for_each_value(const View<const T>& values, const View<T>& result, int threads, const Function& function) {
  for_each_place<T>(values.rows(), threads, [&](auto pack, std::int64_t k) {
    using V = decltype(pack);
    store_pack<V>(result.data + k, function(load_pack<V>(values.data + k)));
  });
}

}  // namespace

template <class T>
void softplus(View<const T> values, View<T> result, int threads) {
  for_each_value<T>(values, result, threads, [](auto x) {
    const auto u = exponential(x < 0 ? x : -x);
    return (x < 0 ? decltype(x){} : x) + log_of_one_plus(u, u * reciprocal(2 + u));
  });
}

template <class T>
void sigmoid(View<const T> values, View<T> result, int threads) {
  for_each_value<T>(values, result, threads, [](auto x) { return reciprocal(1 + exponential(-x)); });
}

template <class T>
void silu(View<const T> values, View<T> result, int threads) {
  for_each_value<T>(values, result, threads, [](auto x) { return x * sigmoid_of(x); });
}

template <class T>
void silu_backward(View<const T> values, View<const T> grad, View<T> result, int threads) {
  for_each_place<T>(values.rows(), threads, [&](auto pack, std::int64_t k) {
    using V = decltype(pack);
    store_pack<V>(result.data + k, load_pack<V>(grad.data + k) * silu_slope(load_pack<V>(values.data + k)));
  });
}

template <class T>
void silu_second(View<const T> values, View<const T> grad, View<const T> direction, View<T> of_values, View<T> of_grad,
                 int threads) {
  for_each_place<T>(values.rows(), threads, [&](auto pack, std::int64_t k) {
    using V = decltype(pack);
    const SiluCurve<V> at = silu_curve(load_pack<V>(values.data + k));
    const V along = load_pack<V>(direction.data + k);
    store_pack<V>(of_values.data + k, load_pack<V>(grad.data + k) * at.second * along);
    store_pack<V>(of_grad.data + k, at.first * along);
  });
}

#define SCREENING_FOR(T)                                          \
  template void softplus<T>(View<const T>, View<T>, int threads); \
  template void sigmoid<T>(View<const T>, View<T>, int threads);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR
SCREENING_STEADY_SILU(float)
SCREENING_STEADY_SILU(double)

}  // namespace screening::SCREENING_LEVEL
