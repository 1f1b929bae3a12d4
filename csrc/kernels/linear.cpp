// Rows times a matrix, on the CPU; contract in kernels.hpp. Compiled once a SIMD level. On a GPU that is the vendor's.
// Why by hand: libraries choose their order of summation by the number of rows, so a crystal's bits would depend on its
// batch. Here every element is one chain, bias first, then k ascending, however rows are grouped.
// Layout: a tile of up to kRows rows by kPacks packs of columns stays in registers while k runs.
// Bound: arithmetic; one load of the matrix serves kRows rows.

#include "kernels/edge_terms.hpp"
#include "runtime/threads.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

constexpr std::int64_t kRowBlock = 96;
constexpr int kRows = 6;
constexpr int kPacks = kLanes == 16 ? 4 : 2;

template <class V, int Rows, int Packs, class T>
void tile(const T* rows, const T* weight, const T* bias, std::int64_t inner, std::int64_t columns, std::int64_t column,
          T* result) {
  constexpr int kWidth = kWidthOf<V>;
  V sums[Rows][Packs];
  for (int p = 0; p < Packs; ++p) {
    const V start = load_pack<V>(bias + column + p * kWidth);
    for (int r = 0; r < Rows; ++r) {
      sums[r][p] = start;
    }
  }
  for (std::int64_t k = 0; k < inner; ++k) {
    V factors[Packs];
    for (int p = 0; p < Packs; ++p) {
      factors[p] = load_pack<V>(weight + k * columns + column + p * kWidth);
    }
    for (int r = 0; r < Rows; ++r) {
      const V value = spread_pack<V>(rows[r * inner + k]);
      for (int p = 0; p < Packs; ++p) {
        sums[r][p] += value * factors[p];
      }
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int p = 0; p < Packs; ++p) {
      store_pack<V>(result + r * columns + column + p * kWidth, sums[r][p]);
    }
  }
}

template <int Rows, class T>
void strip(const T* rows, const T* weight, const T* bias, std::int64_t inner, std::int64_t columns, T* result) {
  constexpr int kWidth = kPackWidth<T>;
  std::int64_t column = 0;
  for (; column + kPacks * kWidth <= columns; column += kPacks * kWidth) {
    tile<Pack<T, kWidth>, Rows, kPacks>(rows, weight, bias, inner, columns, column, result);
  }
  for (; column + kWidth <= columns; column += kWidth) {
    tile<Pack<T, kWidth>, Rows, 1>(rows, weight, bias, inner, columns, column, result);
  }
  for (; column < columns; ++column) {
    tile<Pack<T, 1>, Rows, 1>(rows, weight, bias, inner, columns, column, result);
  }
}

}  // namespace

template <class T>
void linear(View<const T> rows, View<const T> weight, View<const T> bias, View<T> result, int threads) {
  const std::int64_t inner = weight.rows(), columns = weight.shape[1];
  for_each_task((rows.rows() + kRowBlock - 1) / kRowBlock, threads, [&](std::int64_t block, int) {
    std::int64_t row = block * kRowBlock;
    const std::int64_t end = std::min(rows.rows(), row + kRowBlock);
    for (; row + kRows <= end; row += kRows) {
      strip<kRows>(row_of(rows, row), weight.data, bias.data, inner, columns, row_of(result, row));
    }
    for (; row < end; ++row) {
      strip<1>(row_of(rows, row), weight.data, bias.data, inner, columns, row_of(result, row));
    }
  });
}

template void linear<float>(View<const float>, View<const float>, View<const float>, View<float>, int);
template void linear<double>(View<const double>, View<const double>, View<const double>, View<double>, int);

}  // namespace screening::SCREENING_LEVEL
