// Normalisation of columns, SiLU and a sum in one pass over rows, on the CPU; contract in steady.hpp. Compiled once a
// SIMD level.
// Why by hand: torch goes over the rows for each of the three, and over half a dozen tensors of their size on the way
// back. Layout: rows (n, columns) row-major. Ownership: a task owns a block of rows, or the sums of one. Determinism:
// blocks are cut by the number of rows alone and added up in order; threads change nothing.
// Bound: memory, 12 bytes a value forward and 16 in derivatives, against some 30 operations.

#include <vector>

#include "kernels/edge_terms.hpp"
#include "math/silu.hpp"
#include "runtime/threads.hpp"
#include "steady.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

constexpr std::int64_t kRowBlock = 128;

// Calls body(block, first row, last row).
template <class Body>
void for_each_block(std::int64_t rows, int threads, const Body& body) {
  for_each_task((rows + kRowBlock - 1) / kRowBlock, threads, [&](std::int64_t block, int) {
    body(block, block * kRowBlock, std::min(rows, (block + 1) * kRowBlock));
  });
}

std::size_t blocks_of(std::int64_t rows) { return static_cast<std::size_t>((rows + kRowBlock - 1) / kRowBlock); }

// grad times the slope of silu at row * factor + shift
template <class V, class T>
V slope_at(const T* row, const T* grad, const View<const T>& factor, const View<const T>& shift, std::int64_t c) {
  const V z = load_pack<V>(row + c) * load_pack<V>(factor.data + c) + load_pack<V>(shift.data + c);
  return load_pack<V>(grad + c) * silu_slope(z);
}

// Calls body(pack, row, column, plain sum, weighed sum) for each pack of each row and puts both sums of each column
// into `sums`: those of blocks, one after the other.
template <class T, class Body>
void sum_columns(std::int64_t rows, const View<T>& sums, int threads, const Body& body) {
  const std::int64_t columns = sums.shape[1];
  std::vector<T> found(2 * blocks_of(rows) * static_cast<std::size_t>(columns));
  for_each_block(rows, threads, [&](std::int64_t block, std::int64_t begin, std::int64_t end) {
    T *plain = found.data() + 2 * block * columns, *weighed = plain + columns;
    for (std::int64_t r = begin; r < end; ++r) {
      for_each_pack<T>(columns, [&](auto pack, std::int64_t c) { body(pack, r, c, plain + c, weighed + c); });
    }
  });
  std::vector<double> total(static_cast<std::size_t>(sums.rows() * columns));
  for (std::size_t k = 0; k < found.size(); ++k) {
    total[k % total.size()] += found[k];
  }
  std::copy(total.begin(), total.end(), sums.data);
}

}  // namespace

template <class T>
void column_moments(View<const T> rows, View<T> mean, View<T> variance, int threads) {
  const std::int64_t columns = rows.shape[1];
  const auto width = static_cast<std::size_t>(columns);
  std::vector<T> found(2 * blocks_of(rows.rows()) * width);
  for_each_block(rows.rows(), threads, [&](std::int64_t block, std::int64_t begin, std::int64_t end) {
    T *centre = found.data() + 2 * block * columns, *spread = centre + columns;
    for (std::int64_t r = begin; r < end; ++r) {
      for_each_pack<T>(columns, [&](auto pack, std::int64_t c) {
        using V = decltype(pack);
        add_pack<V>(centre + c, load_pack<V>(row_of(rows, r) + c));
      });
    }
    for (std::int64_t c = 0; c < columns; ++c) {
      centre[c] /= static_cast<T>(end - begin);
    }
    for (std::int64_t r = begin; r < end; ++r) {
      for_each_pack<T>(columns, [&](auto pack, std::int64_t c) {
        using V = decltype(pack);
        const V off = load_pack<V>(row_of(rows, r) + c) - load_pack<V>(centre + c);
        add_pack<V>(spread + c, off * off);
      });
    }
  });
  // Means and squares of blocks joined: Chan, Golub and LeVeque's update.
  std::vector<double> centre(width), spread(width);
  for (std::int64_t block = 0, done = 0; done < rows.rows(); ++block) {
    const std::int64_t more = std::min(kRowBlock, rows.rows() - done);
    const T* one = found.data() + 2 * block * columns;
    const double share = static_cast<double>(more) / static_cast<double>(done + more);
    for (std::size_t c = 0; c < width; ++c) {
      const double off = one[c] - centre[c];
      centre[c] += off * share;
      spread[c] += one[width + c] + off * off * share * static_cast<double>(done);
    }
    done += more;
  }
  const double count = static_cast<double>(std::max<std::int64_t>(rows.rows(), 1));
  for (std::size_t c = 0; c < width; ++c) {
    mean.data[c] = static_cast<T>(centre[c]);
    variance.data[c] = static_cast<T>(spread[c] / count);
  }
}

template <class T>
void normal_silu(View<const T> rows, View<const T> factor, View<const T> shift, View<const T> onto, View<T> result,
                 int threads) {
  for_each_block(rows.rows(), threads, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      for_each_pack<T>(rows.shape[1], [&](auto pack, std::int64_t c) {
        using V = decltype(pack);
        const V z = load_pack<V>(row_of(rows, r) + c) * load_pack<V>(factor.data + c) + load_pack<V>(shift.data + c);
        const V bent = z * sigmoid_of<V>(z);
        store_pack<V>(row_of(result, r) + c, onto.rows() > 0 ? load_pack<V>(row_of(onto, r) + c) + bent : bent);
      });
    }
  });
}

template <class T>
void normal_silu_sums(View<const T> rows, View<const T> grad, View<const T> factor, View<const T> shift,
                      View<const T> mean, View<T> sums, int threads) {
  sum_columns(rows.rows(), sums, threads, [&](auto pack, std::int64_t r, std::int64_t c, T* plain, T* weighed) {
    using V = decltype(pack);
    const V slope = slope_at<V>(row_of(rows, r), row_of(grad, r), factor, shift, c);
    add_pack<V>(plain, slope);
    add_pack<V>(weighed, slope * (load_pack<V>(row_of(rows, r) + c) - load_pack<V>(mean.data + c)));
  });
}

template <class T>
void normal_silu_backward(View<const T> rows, View<const T> grad, View<const T> factor, View<const T> shift,
                          View<const T> mean, View<const T> offset, View<const T> slope, View<T> result, int threads) {
  for_each_block(rows.rows(), threads, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      for_each_pack<T>(rows.shape[1], [&](auto pack, std::int64_t c) {
        using V = decltype(pack);
        const V at = slope_at<V>(row_of(rows, r), row_of(grad, r), factor, shift, c);
        const V off = load_pack<V>(row_of(rows, r) + c) - load_pack<V>(mean.data + c);
        store_pack<V>(row_of(result, r) + c, load_pack<V>(factor.data + c) * at + load_pack<V>(offset.data + c) +
                                                 load_pack<V>(slope.data + c) * off);
      });
    }
  });
}

template <class T>
void normal_silu_second(View<const T> rows, View<const T> grad, View<const T> factor, View<const T> shift,
                        View<const T> mean, View<const T> direction, View<const T> scaled, View<const T> shifted,
                        View<T> of_rows, View<T> of_grad, View<T> sums, int threads) {
  sum_columns(rows.rows(), sums, threads, [&](auto pack, std::int64_t r, std::int64_t c, T* plain, T* weighed) {
    using V = decltype(pack);
    const V row = load_pack<V>(row_of(rows, r) + c), above = load_pack<V>(row_of(grad, r) + c);
    const V along = load_pack<V>(row_of(direction, r) + c), off = row - load_pack<V>(mean.data + c);
    const V by = load_pack<V>(factor.data + c), scale = load_pack<V>(scaled.data + c);
    const SiluCurve<V> at = silu_curve<V>(row * by + load_pack<V>(shift.data + c));
    const V change = by * along + scale * off + load_pack<V>(shifted.data + c);
    const V bend = above * at.second * change, slope = above * at.first;
    store_pack<V>(row_of(of_rows, r) + c, bend * by + slope * scale);
    store_pack<V>(row_of(of_grad, r) + c, at.first * change);
    add_pack<V>(plain, bend);
    add_pack<V>(weighed, bend * off + slope * along);
  });
}

SCREENING_STEADY_NORMAL(float)
SCREENING_STEADY_NORMAL(double)

}  // namespace screening::SCREENING_LEVEL
