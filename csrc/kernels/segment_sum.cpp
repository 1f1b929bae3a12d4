// Sums of consecutive rows, CPU twin of segment_sum.cu; contract in kernels.hpp. Compiled once a SIMD level.
// Ownership: a task owns whole segments. Determinism: rows in their order. Bound: each value is read once.

#include "kernels/edge_scatter.hpp"
#include "runtime/threads.hpp"

namespace screening::SCREENING_LEVEL {

template <class T>
void segment_sum(View<const T> rows, View<const std::int32_t> offsets, View<T> result, int threads) {
  constexpr std::int64_t kBlock = 64;
  const std::int64_t columns = rows.shape[1];
  for_each_task((result.rows() + kBlock - 1) / kBlock, threads, [&](std::int64_t block, int) {
    for (std::int64_t s = block * kBlock; s < std::min(result.rows(), (block + 1) * kBlock); ++s) {
      T* sum = row_of(result, s);
      std::fill_n(sum, columns, T{});
      for (std::int64_t row = offsets[s]; row < offsets[s + 1]; ++row) {
        add_row(sum, row_of(rows, row), columns);
      }
    }
  });
}

template void segment_sum<float>(View<const float>, View<const std::int32_t>, View<float>, int);
template void segment_sum<double>(View<const double>, View<const std::int32_t>, View<double>, int);

}  // namespace screening::SCREENING_LEVEL
