// The edges of line graphs, CPU twin of line_graph.cu; contract in kernels.hpp. Compiled once a SIMD level.
// Ownership: a task owns the pairs that lead into its edges. Determinism: integers in order. Bound: 4 bytes a pair.

#include <algorithm>
#include <numeric>

#include "kernels.hpp"
#include "runtime/level.hpp"
#include "runtime/threads.hpp"

namespace screening::SCREENING_LEVEL {

void line_graph(const EdgeTopology& graph, View<const std::int32_t> line_offsets, View<std::int32_t> line_source,
                int threads) {
  constexpr std::int64_t kBlock = 1024;
  const std::int64_t edges = graph.edges();
  for_each_task((edges + kBlock - 1) / kBlock, threads, [&](std::int64_t block, int) {
    for (std::int64_t e = block * kBlock; e < std::min(edges, (block + 1) * kBlock); ++e) {
      std::iota(line_source.data + line_offsets[e], line_source.data + line_offsets[e + 1],
                graph.edge_offsets[graph.edge_source[e]]);
    }
  });
}

}  // namespace screening::SCREENING_LEVEL
