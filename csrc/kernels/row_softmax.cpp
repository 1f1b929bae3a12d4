// Softmax along rows of edges, CPU twin of row_softmax.cu; contract in kernels.hpp. Compiled once a SIMD level.
// Layout: (edges, H) row-major, H the heads of an attention: a row of edges is one run of memory.
// Ownership: a task owns whole rows. Determinism: sums run in edge order. Bound: arithmetic, an exponential a value.

#include <vector>

#include "kernels/edge_terms.hpp"
#include "runtime/threads.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

constexpr std::int64_t kRowBlock = 256;

// Calls body(first value, last value, totals) for each row that has edges; `totals` are H values of scratch.
template <class T, class Body>
void for_each_row(const View<const std::int32_t>& offsets, std::int64_t heads, int threads, const Body& body) {
  const std::int64_t rows = offsets.rows() - 1;
  for_each_task((rows + kRowBlock - 1) / kRowBlock, threads, [&](std::int64_t block, int) {
    std::vector<T> totals(static_cast<std::size_t>(2 * heads));
    for (std::int64_t i = block * kRowBlock; i < std::min(rows, (block + 1) * kRowBlock); ++i) {
      if (offsets[i] < offsets[i + 1]) {
        body(heads * offsets[i], heads * offsets[i + 1], totals.data());
      }
    }
  });
}

// totals[h] = sum over the row of term(value).
template <class T, class Term>
void sum_row(std::int64_t begin, std::int64_t end, std::int64_t heads, T* totals, const Term& term) {
  std::fill_n(totals, heads, T{});
  for (std::int64_t k = begin; k < end; k += heads) {
    for (std::int64_t h = 0; h < heads; ++h) {
      totals[h] += term(k + h);
    }
  }
}

// Calls body(value, head) for each value of a row.
template <class Body>
void for_each_value(std::int64_t begin, std::int64_t end, std::int64_t heads, const Body& body) {
  for (std::int64_t k = begin; k < end; k += heads) {
    for (std::int64_t h = 0; h < heads; ++h) {
      body(k + h, h);
    }
  }
}

}  // namespace

template <class T>
void row_softmax(View<const T> scores, View<const std::int32_t> offsets, View<T> result, int threads) {
  const std::int64_t heads = scores.shape[1];
  for_each_row<T>(offsets, heads, threads, [&](std::int64_t begin, std::int64_t end, T* totals) {
    std::copy_n(scores.data + begin, heads, totals);
    for_each_value(begin, end, heads,
                   [&](std::int64_t k, std::int64_t h) { totals[h] = scores[k] > totals[h] ? scores[k] : totals[h]; });
    for_each_value(begin, end, heads, [&](std::int64_t k, std::int64_t h) { result[k] = scores[k] - totals[h]; });
    for_each_pack<T>(end - begin, [&](auto pack, std::int64_t k) {
      using V = decltype(pack);
      store_pack<V>(result.data + begin + k, exponential(load_pack<V>(result.data + begin + k)));
    });
    sum_row(begin, end, heads, totals, [&](std::int64_t k) { return result[k]; });
    for_each_value(begin, end, heads, [&](std::int64_t k, std::int64_t h) { result[k] /= totals[h]; });
  });
}

template <class T>
void row_softmax_backward(View<const T> result, View<const std::int32_t> offsets, View<const T> grad, View<T> out,
                          int threads) {
  const std::int64_t heads = result.shape[1];
  for_each_row<T>(offsets, heads, threads, [&](std::int64_t begin, std::int64_t end, T* totals) {
    sum_row(begin, end, heads, totals, [&](std::int64_t k) { return result[k] * grad[k]; });
    for_each_value(begin, end, heads,
                   [&](std::int64_t k, std::int64_t h) { out[k] = result[k] * (grad[k] - totals[h]); });
  });
}

// With t = direction and y = result, sum(t * y (g - sum y g)) = sum t y g - (sum t y)(sum y g), a row at a time.
template <class T>
void row_softmax_curve(View<const T> result, View<const std::int32_t> offsets, View<const T> grad,
                       View<const T> direction, View<T> out_result, View<T> out_grad, int threads) {
  const std::int64_t heads = result.shape[1];
  for_each_row<T>(offsets, heads, threads, [&](std::int64_t begin, std::int64_t end, T* of_grad) {
    T* of_direction = of_grad + heads;
    sum_row(begin, end, heads, of_grad, [&](std::int64_t k) { return result[k] * grad[k]; });
    sum_row(begin, end, heads, of_direction, [&](std::int64_t k) { return result[k] * direction[k]; });
    for_each_value(begin, end, heads, [&](std::int64_t k, std::int64_t h) {
      const T turned = direction[k] - of_direction[h];
      out_result[k] = grad[k] * turned - direction[k] * of_grad[h];
      out_grad[k] = result[k] * turned;
    });
  });
}

#define SCREENING_FOR(T)                                                                                             \
  template void row_softmax<T>(View<const T>, View<const std::int32_t>, View<T>, int);                               \
  template void row_softmax_backward<T>(View<const T>, View<const std::int32_t>, View<const T>, View<T>, int);       \
  template void row_softmax_curve<T>(View<const T>, View<const std::int32_t>, View<const T>, View<const T>, View<T>, \
                                     View<T>, int);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening::SCREENING_LEVEL
