// The edges that leave each atom, on the device: the transpose of rows of edges.
#pragma once

#include "kernels.hpp"
#include "runtime/groups.cuh"
#include "runtime/warp.cuh"

namespace screening::cuda {
namespace {

struct SourceOf {
  const std::int32_t* edge_source;
  __device__ std::int64_t operator()(std::int64_t e) const { return edge_source[e]; }
};

// The atom that each edge leads into.
__global__ void __launch_bounds__(kBlock)
    number_centres(const std::int32_t* edge_offsets, std::int64_t atoms, std::int32_t* edge_centre) {
  const std::int64_t i = warp_in_grid();
  if (i < atoms) {
    for (std::int64_t e = edge_offsets[i] + lane(); e < edge_offsets[i + 1]; e += kWarp) {
      edge_centre[e] = static_cast<std::int32_t>(i);
    }
  }
}

struct Leaving {
  Groups groups;              // the edges that leave an atom, ascending
  std::int32_t* edge_centre;  // (edges,)
};

inline Leaving leaving_edges(const EdgeTopology& graph, Workspace& memory) {
  auto* edge_centre = memory.take<std::int32_t>(graph.edges());
  launch(number_centres, graph.atoms() * kWarp, memory.stream(), graph.edge_offsets.data, graph.atoms(), edge_centre);
  return {group_by(SourceOf{graph.edge_source.data}, graph.edges(), graph.atoms(), memory), edge_centre};
}

}  // namespace
}  // namespace screening::cuda
