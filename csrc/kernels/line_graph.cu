// The edges of line graphs, CUDA twin of line_graph.cpp; contract in kernels.hpp.
// Layout: no scratch. Ownership: a warp owns the pairs that lead into an edge. Determinism: integers in order.
// Bound: 4 bytes a pair to DRAM.
#include "kernels.hpp"
#include "runtime/launch.hpp"
#include "runtime/warp.cuh"

namespace screening::cuda {
namespace {

__global__ void __launch_bounds__(kBlock)
    fill_line(const std::int32_t* edge_offsets, const std::int32_t* edge_source, std::int64_t edges,
              const std::int32_t* line_offsets, std::int32_t* line_source) {
  const std::int64_t e = warp_in_grid();
  if (e >= edges) {
    return;
  }
  const std::int32_t first = edge_offsets[edge_source[e]], begin = line_offsets[e];
  for (std::int32_t k = begin + lane(); k < line_offsets[e + 1]; k += kWarp) {
    line_source[k] = first + (k - begin);
  }
}

}  // namespace

void line_graph(const EdgeTopology& graph, View<const std::int32_t> line_offsets, View<std::int32_t> line_source,
                void* stream) {
  const DeviceGuard guard(graph.edge_source.device_index);
  launch(fill_line, graph.edges() * kWarp, static_cast<cudaStream_t>(stream), graph.edge_offsets.data,
         graph.edge_source.data, graph.edges(), line_offsets.data, line_source.data);
}

}  // namespace screening::cuda
