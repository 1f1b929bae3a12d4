// The CUDA twins as a Python module that needs no GPU: see cuda_on_host.hpp. Here is the neighbour list, and what
// counts and orders; message_on_host.cpp has the other kernels.
#include <pybind11/pybind11.h>

#include <string>

#include "bindings/dlpack.hpp"
#include "kernels/neighbor_list.cu"

namespace py = pybind11;

namespace screening {
void bind_message(py::module_& module);
void bind_rows(py::module_& module);
void bind_attention(py::module_& module);
}

namespace {

using screening::Borrowed;
using screening::View;

struct Batch {
  Borrowed<const double> positions, lattice;
  Borrowed<const bool> pbc;
  Borrowed<const std::int32_t> atom_offsets;

  explicit Batch(const py::args& arrays)
      : positions(arrays[0], "positions", {3}),
        lattice(arrays[1], "lattice", {3, 3}),
        pbc(arrays[2], "pbc", {3}),
        atom_offsets(arrays[3], "atom_offsets") {}
  screening::CrystalBatch view() const { return {positions.view(), lattice.view(), pbc.view(), atom_offsets.view()}; }
};

void count(const py::args& arrays, double cutoff, int max_neighbors, bool whole_shells, double shell_tolerance,
           const py::object& edge_count, const py::object& row_cut) {
  const Borrowed<std::int32_t> counts(edge_count, "edge_count");
  const Borrowed<double> cut(row_cut, "row_cut", {3});
  screening::cuda::neighbor_count(Batch(arrays).view(), {cutoff, max_neighbors, whole_shells, shell_tolerance},
                                  {counts.view(), cut.view()}, nullptr);
}

void fill(const py::args& arrays, double cutoff, const py::object& edge_offsets, const py::object& row_cut,
          const py::object& edge_source, const py::object& edge_shift, const py::object& edge_vector,
          const py::object& edge_distance) {
  const Borrowed<const std::int32_t> offsets(edge_offsets, "edge_offsets");
  const Borrowed<const double> cut(row_cut, "row_cut", {3});
  const Borrowed<std::int32_t> source(edge_source, "edge_source"), shift(edge_shift, "edge_shift", {3});
  const Borrowed<double> vector(edge_vector, "edge_vector", {3}), distance(edge_distance, "edge_distance");
  screening::cuda::neighbor_fill(
      Batch(arrays).view(), cutoff,
      {offsets.view(), cut.view(), source.view(), shift.view(), vector.view(), distance.view()}, nullptr);
}

void scan_counts(const py::object& counts, const py::object& sums) {
  const Borrowed<const std::int32_t> in(counts, "counts");
  const Borrowed<std::int64_t> out(sums, "sums");
  screening::cuda::Workspace memory(0, nullptr);
  screening::cuda::scan(in.view().data, in.view().rows(), out.view().data, memory);
}

__global__ void sort_kernel(std::int32_t* values, std::uint32_t n) {
  if (screening::cuda::warp_in_grid() == 0) {
    screening::cuda::sort_by_warp(values, n);
  }
}

void sort_values(const py::object& values) {
  const Borrowed<std::int32_t> in(values, "values");
  screening::cuda::launch(sort_kernel, screening::cuda::kWarp, nullptr, in.view().data,
                          static_cast<std::uint32_t>(in.view().rows()));
}

// Kernels that break the rules, so that the rules can be seen to be kept.
__global__ void ballot_of_half_a_warp() {
  if (screening::cuda::lane() < 16) {
    screening::cuda::ballot(true);
  }
}
__global__ void barrier_of_half_a_block() {
  if (screening::cuda::warp_in_block() < 4) {
    __syncthreads();
  }
}
__global__ void reversal_without_barrier(std::int32_t* values) {
  __shared__ std::int32_t shared[screening::cuda::kWarp];
  if (screening::cuda::warp_in_grid() == 0) {
    shared[screening::cuda::lane()] = values[screening::cuda::lane()];
    values[screening::cuda::lane()] = shared[screening::cuda::kWarp - 1 - screening::cuda::lane()];
  }
}

void break_rule(const std::string& rule, const py::object& values) {
  const Borrowed<std::int32_t> in(values, "values");
  if (rule == "ballot") {
    screening::cuda::launch(ballot_of_half_a_warp, 32, nullptr);
  } else if (rule == "barrier") {
    screening::cuda::launch(barrier_of_half_a_block, 32, nullptr);
  } else {
    screening::cuda::launch(reversal_without_barrier, 32, nullptr, in.view().data);
  }
}

// Starts counting anew. `failing_call` >= 0 makes that call of the runtime fail with the CUDA error of that number.
void reset(std::int64_t failing_call, int error, std::uint64_t order) {
  const auto live = on_host::runtime().live;
  on_host::runtime() = {};
  on_host::runtime().live = live;
  on_host::runtime().failing_call = failing_call;
  on_host::runtime().error = static_cast<cudaError_t>(error);
  on_host::runtime().order = order;
}

py::dict counted() {
  const on_host::Runtime& now = on_host::runtime();
  py::dict counts;
  counts["calls"] = now.calls;
  counts["launches"] = now.launches;
  counts["waits"] = now.waits;
  counts["live"] = now.live;
  counts["bytes"] = now.bytes;
  return counts;
}

}  // namespace

PYBIND11_MODULE(cuda_on_host, module) {
  module.def("neighbor_count", &count, py::arg("cutoff"), py::arg("max_neighbors"), py::arg("whole_shells"),
             py::arg("shell_tolerance"), py::arg("edge_count"), py::arg("row_cut"));
  module.def("neighbor_fill", &fill, py::arg("cutoff"), py::arg("edge_offsets"), py::arg("row_cut"),
             py::arg("edge_source"), py::arg("edge_shift"), py::arg("edge_vector"), py::arg("edge_distance"));
  screening::bind_message(module);
  screening::bind_rows(module);
  screening::bind_attention(module);
  module.def("device_count", &screening::cuda::device_count);
  module.def("scan", &scan_counts);
  module.def("sort", &sort_values);
  module.def("break_rule", &break_rule);
  module.def("reset", &reset, py::kw_only(), py::arg("failing_call") = -1, py::arg("error") = 0, py::arg("order") = 0);
  module.def("counted", &counted);
}
