// A graph as Python passes it: a tuple of three arrays.
#pragma once

#include <pybind11/pybind11.h>

#include "bindings/dlpack.hpp"
#include "kernels.hpp"

namespace screening {

// (edge_offsets, edge_source, atom_offsets)
class BorrowedGraph {
 public:
  explicit BorrowedGraph(const pybind11::tuple& graph)
      : edge_offsets_(graph[0], "edge_offsets"),
        edge_source_(graph[1], "edge_source"),
        atom_offsets_(graph[2], "atom_offsets") {}
  EdgeTopology topology() const { return {edge_offsets_.view(), edge_source_.view(), atom_offsets_.view()}; }

 private:
  Borrowed<const std::int32_t> edge_offsets_, edge_source_, atom_offsets_;
};

}  // namespace screening
