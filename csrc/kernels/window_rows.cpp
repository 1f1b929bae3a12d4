// A few neighbouring rows of a table, weighed, for each of many places, on the CPU; contract in steady.hpp. Compiled
// once a SIMD level.
// Ownership: a task owns a block of places, or a part of them and a table of sums. Determinism: sums run in the order
// of a window, tables are added up part by part; parts are cut by the number of places alone, threads change nothing.
// Bound: memory, 4 bytes a value that is written; the table stays in the second cache.

#include "kernels/edge_scatter.hpp"
#include "runtime/threads.hpp"
#include "steady.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

constexpr std::int64_t kPlaces = 256, kSorted = 2048, kMostParts = 8;

}  // namespace

template <class T>
void window_rows(View<const T> weight, View<const std::int32_t> first, View<const T> table, View<T> result,
                 int threads) {
  const std::int64_t count = weight.rows(), span = weight.shape[1], columns = table.shape[1];
  for_each_task((count + kPlaces - 1) / kPlaces, threads, [&](std::int64_t block, int) {
    for (std::int64_t e = block * kPlaces; e < std::min(count, (block + 1) * kPlaces); ++e) {
      const T *factors = row_of(weight, e), *rows = row_of(table, first[e]);
      for_each_pack<T>(columns, [&](auto pack, std::int64_t c) {
        using V = decltype(pack);
        V sum = factors[0] * load_pack<V>(rows + c);
        for (std::int64_t m = 1; m < span; ++m) {
          sum += factors[m] * load_pack<V>(rows + m * columns + c);
        }
        store_pack<V>(row_of(result, e) + c, sum);
      });
    }
  });
}

template <class T>
void window_rows_backward(View<const T> weight, View<const std::int32_t> first, View<const T> grad, View<T> of_table,
                          int threads) {
  const std::int64_t count = weight.rows(), span = weight.shape[1], columns = of_table.shape[1];
  const std::int64_t length = std::max(kSorted, (count + kMostParts - 1) / kMostParts);
  const std::int64_t parts = (count + length - 1) / length;
  PartTables<T> tables(static_cast<std::size_t>(parts), of_table.rows(), columns);
  for_each_task(parts, threads, [&](std::int64_t part, int) {
    TableSums<T> sums(of_table.rows(), span, columns);
    const std::int64_t end = std::min(count, (part + 1) * length);
    for (std::int64_t e = part * length; e < end; e += kSorted) {
      sums.add(row_of(grad, e), first.data + e, row_of(weight, e), std::min(kSorted, end - e),
               tables.of(static_cast<std::size_t>(part)));
    }
  });
  tables.sum_into(of_table.data, threads);
}

SCREENING_STEADY_WINDOWS(float)
SCREENING_STEADY_WINDOWS(double)

}  // namespace screening::SCREENING_LEVEL
