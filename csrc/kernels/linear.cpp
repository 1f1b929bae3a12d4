// Rows times a matrix, on the CPU; contract in kernels.hpp. Compiled once a SIMD level. On a GPU that is the vendor's.
// Why by hand: libraries choose their order of summation by the number of rows, so a crystal's bits would depend on its
// batch. Here every element is one chain, bias first, then k ascending, however rows are grouped.
// Layout: a tile of up to kRows rows by kPacks packs of columns stays in registers while k runs.
// Bound: arithmetic; one load of the matrix serves kRows rows.

#include <array>
#include <vector>

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

// The last columns, too few for a pack, with zeros behind them: one pack then does them all, in the same order.
template <class T>
class LastColumns {
 public:
  LastColumns(View<const T> weight, const T* bias)
      : count_(static_cast<int>(weight.shape[1] % kWidth)), column_(weight.shape[1] - count_) {
    if (count_ == 0) {
      return;
    }
    weight_.resize(weight.rows() * kWidth);
    for (std::int64_t k = 0; k < weight.rows(); ++k) {
      std::copy_n(row_of(weight, k) + column_, count_, weight_.data() + k * kWidth);
    }
    std::copy_n(bias + column_, count_, bias_.data());
  }

  template <int Rows>
  void multiply(const T* rows, std::int64_t inner, std::int64_t columns, T* result) const {
    if (count_ == 0) {
      return;
    }
    T sums[Rows * kWidth];
    tile<Pack<T, kWidth>, Rows, 1>(rows, weight_.data(), bias_.data(), inner, kWidth, 0, sums);
    for (int r = 0; r < Rows; ++r) {
      std::copy_n(sums + r * kWidth, count_, result + r * columns + column_);
    }
  }

 private:
  static constexpr int kWidth = kPackWidth<T>;
  int count_;
  std::int64_t column_;
  std::vector<T> weight_;
  std::array<T, kWidth> bias_{};
};

template <int Rows, class T>
void strip(const T* rows, View<const T> weight, const T* bias, const LastColumns<T>& last, T* result) {
  constexpr int kWidth = kPackWidth<T>;
  const std::int64_t inner = weight.rows(), columns = weight.shape[1];
  std::int64_t column = 0;
  for (; column + kPacks * kWidth <= columns; column += kPacks * kWidth) {
    tile<Pack<T, kWidth>, Rows, kPacks>(rows, weight.data, bias, inner, columns, column, result);
  }
  for (; column + kWidth <= columns; column += kWidth) {
    tile<Pack<T, kWidth>, Rows, 1>(rows, weight.data, bias, inner, columns, column, result);
  }
  last.template multiply<Rows>(rows, inner, columns, result);
}

}  // namespace

template <class T>
void linear(View<const T> rows, View<const T> weight, View<const T> bias, View<T> result, int threads) {
  const LastColumns<T> last(weight, bias.data);
  for_each_task((rows.rows() + kRowBlock - 1) / kRowBlock, threads, [&](std::int64_t block, int) {
    std::int64_t row = block * kRowBlock;
    const std::int64_t end = std::min(rows.rows(), row + kRowBlock);
    for (; row + kRows <= end; row += kRows) {
      strip<kRows>(row_of(rows, row), weight, bias.data, last, row_of(result, row));
    }
    for (; row < end; ++row) {
      strip<1>(row_of(rows, row), weight, bias.data, last, row_of(result, row));
    }
  });
}

template void linear<float>(View<const float>, View<const float>, View<const float>, View<float>, int);
template void linear<double>(View<const double>, View<const double>, View<const double>, View<double>, int);

}  // namespace screening::SCREENING_LEVEL
