// softplus and sigmoid of each value, on the CPU; contract in kernels.hpp. Compiled once a SIMD level.
// Why by hand: torch takes the last few values of a thread's share through other functions, so bits depend on the
// batch. Here every value takes the same steps. Bound: arithmetic, some 20 operations a value.

#include "kernels/edge_terms.hpp"
#include "runtime/threads.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

constexpr std::int64_t kBlock = 16384;

template <class T, class Function>
void for_each_value(const View<const T>& values, const View<T>& result, int threads, const Function& function) {
  const std::int64_t count = values.rows();
  for_each_task((count + kBlock - 1) / kBlock, threads, [&](std::int64_t block, int) {
    const std::int64_t begin = block * kBlock;
    for_each_pack<T>(std::min(count - begin, kBlock), [&](auto pack, std::int64_t k) {
      using V = decltype(pack);
      store_pack<V>(result.data + begin + k, function(load_pack<V>(values.data + begin + k)));
    });
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

#define SCREENING_FOR(T)                                          \
  template void softplus<T>(View<const T>, View<T>, int threads); \
  template void sigmoid<T>(View<const T>, View<T>, int threads);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening::SCREENING_LEVEL
