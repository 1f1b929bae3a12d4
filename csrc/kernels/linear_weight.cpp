// The derivative of a product of rows and a matrix with respect to the matrix, on the CPU; contract in steady.hpp.
// Compiled once a SIMD level.
// Why by hand: with all threads to native calls torch has one, which made this a third of a training step on two.
// Layout: kChunk rows at a time; a tile of up to kRows columns of grad by kPacks packs of rows stays in registers over
// a chunk. Ownership: a task owns a part of the rows and a matrix of sums. Determinism: parts are cut by the number of
// rows alone and added up in order; threads change nothing. Bound: arithmetic.

#include "kernels/edge_scatter.hpp"
#include "runtime/threads.hpp"
#include "steady.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

constexpr std::int64_t kChunk = 128, kPartRows = 2048, kMostParts = 16;
constexpr int kRows = 6;
constexpr int kPacks = kLanes == 16 ? 4 : 2;

// sums[k, column ...] += sum over rows of a chunk of grad[r, k] rows[r, column ...] for Rows values of k.
template <class V, int Rows, int Packs, class T>
void tile(const T* rows, std::int64_t inner, const T* grad, std::int64_t columns, std::int64_t count, T* sums) {
  constexpr int kWidth = kWidthOf<V>;
  V held[Rows][Packs];
  for (int k = 0; k < Rows; ++k) {
    for (int p = 0; p < Packs; ++p) {
      held[k][p] = load_pack<V>(sums + k * inner + p * kWidth);
    }
  }
  for (std::int64_t r = 0; r < count; ++r) {
    V values[Packs];
    for (int p = 0; p < Packs; ++p) {
      values[p] = load_pack<V>(rows + r * inner + p * kWidth);
    }
    for (int k = 0; k < Rows; ++k) {
      const V factor = spread_pack<V>(grad[r * columns + k]);
      for (int p = 0; p < Packs; ++p) {
        held[k][p] += factor * values[p];
      }
    }
  }
  for (int k = 0; k < Rows; ++k) {
    for (int p = 0; p < Packs; ++p) {
      store_pack<V>(sums + k * inner + p * kWidth, held[k][p]);
    }
  }
}

template <int Rows, class T>
void strip(const T* rows, std::int64_t inner, const T* grad, std::int64_t columns, std::int64_t count, T* sums) {
  constexpr int kWidth = kPackWidth<T>;
  std::int64_t column = 0;
  for (; column + kPacks * kWidth <= inner; column += kPacks * kWidth) {
    tile<Pack<T, kWidth>, Rows, kPacks>(rows + column, inner, grad, columns, count, sums + column);
  }
  for (; column + kWidth <= inner; column += kWidth) {
    tile<Pack<T, kWidth>, Rows, 1>(rows + column, inner, grad, columns, count, sums + column);
  }
  for (; column < inner; ++column) {
    tile<Pack<T, 1>, Rows, 1>(rows + column, inner, grad, columns, count, sums + column);
  }
}

}  // namespace

template <class T>
void linear_weight(View<const T> rows, View<const T> grad, View<T> weight, View<T> bias, int threads) {
  const std::int64_t count = rows.rows(), inner = rows.shape[1], columns = grad.shape[1];
  const std::int64_t length = std::max(kPartRows, (count + kMostParts - 1) / kMostParts);
  const std::int64_t parts = (count + length - 1) / length;
  PartTables<T> weights(static_cast<std::size_t>(parts), columns, inner),
      biases(static_cast<std::size_t>(parts), 1, columns);
  for_each_task(parts, threads, [&](std::int64_t part, int) {
    T *sums = weights.of(static_cast<std::size_t>(part)), *total = biases.of(static_cast<std::size_t>(part));
    const std::int64_t end = std::min(count, (part + 1) * length);
    for (std::int64_t row = part * length; row < end; row += kChunk) {
      const std::int64_t some = std::min(kChunk, end - row);
      const T *values = row_of(rows, row), *above = row_of(grad, row);
      for (std::int64_t r = 0; r < some; ++r) {
        add_row(total, above + r * columns, columns);
      }
      std::int64_t k = 0;
      for (; k + kRows <= columns; k += kRows) {
        strip<kRows>(values, inner, above + k, columns, some, sums + k * inner);
      }
      for (; k < columns; ++k) {
        strip<1>(values, inner, above + k, columns, some, sums + k * inner);
      }
    }
  });
  weights.sum_into(weight.data, threads);
  biases.sum_into(bias.data, threads);
}

SCREENING_STEADY_PRODUCTS(float)
SCREENING_STEADY_PRODUCTS(double)

}  // namespace screening::SCREENING_LEVEL
