// The Python module `screening._core`: one line a function, checks of dtype and shape in dlpack.hpp.
// screening/ops/core.py is the only importer.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/dlpack.hpp"
#include "kernels.hpp"
#include "runtime/blocks.hpp"

namespace py = pybind11;

namespace screening {

void bind_message(py::module_&);
void bind_rows(py::module_&);
void bind_attention(py::module_&);
void bind_steady(py::module_&);
void bind_symmetry(py::module_&);
void bind_text(py::module_&);

namespace {

struct BorrowedBatch {
  Borrowed<const double> positions, lattice;
  Borrowed<const bool> pbc;
  Borrowed<const std::int32_t> atom_offsets;

  BorrowedBatch(const py::object& positions, const py::object& lattice, const py::object& pbc,
                const py::object& atom_offsets)
      : positions(positions, "positions", {3}),
        lattice(lattice, "lattice", {3, 3}),
        pbc(pbc, "pbc", {3}),
        atom_offsets(atom_offsets, "atom_offsets") {
    require_same_device(this->lattice.view(), "lattice");
    require_same_device(this->pbc.view(), "pbc");
    require_same_device(this->atom_offsets.view(), "atom_offsets");
  }

  template <class T>
  void require_same_device(const View<T>& view, const char* name) const {
    if (!on_one_device(view, positions.view())) {
      throw py::value_error(std::string(name) + ": must lie on the same device as positions");
    }
  }

  CrystalBatch batch() const { return {positions.view(), lattice.view(), pbc.view(), atom_offsets.view()}; }
};

void require_rows(std::int64_t rows, std::int64_t expected, const char* name) {
  if (rows != expected) {
    throw py::value_error(std::string(name) + ": expected " + std::to_string(expected) + " rows, got " +
                          std::to_string(rows));
  }
}

void count(const py::object& positions, const py::object& lattice, const py::object& pbc,
           const py::object& atom_offsets, double cutoff, int max_neighbors, bool whole_shells, double shell_tolerance,
           const py::object& edge_count, const py::object& row_cut, int threads, std::uintptr_t stream) {
  const BorrowedBatch in(positions, lattice, pbc, atom_offsets);
  const Borrowed<std::int32_t> out_count(edge_count, "edge_count");
  const Borrowed<double> out_cut(row_cut, "row_cut", {3});
  require_rows(out_count.view().rows(), in.batch().atoms(), "edge_count");
  require_rows(out_cut.view().rows(), in.batch().atoms(), "row_cut");
  in.require_same_device(out_count.view(), "edge_count");
  in.require_same_device(out_cut.view(), "row_cut");
  const py::gil_scoped_release unlocked;
  neighbor_count(in.batch(), {cutoff, max_neighbors, whole_shells, shell_tolerance}, {out_count.view(), out_cut.view()},
                 threads, reinterpret_cast<void*>(stream));
}

void fill(const py::object& positions, const py::object& lattice, const py::object& pbc, const py::object& atom_offsets,
          double cutoff, const py::object& edge_offsets, const py::object& row_cut, const py::object& edge_source,
          const py::object& edge_shift, const py::object& edge_vector, const py::object& edge_distance, int threads,
          std::uintptr_t stream) {
  const BorrowedBatch in(positions, lattice, pbc, atom_offsets);
  const Borrowed<const std::int32_t> offsets(edge_offsets, "edge_offsets");
  const Borrowed<const double> cut(row_cut, "row_cut", {3});
  const Borrowed<std::int32_t> source(edge_source, "edge_source"), shift(edge_shift, "edge_shift", {3});
  const Borrowed<double> vector(edge_vector, "edge_vector", {3}), distance(edge_distance, "edge_distance");
  require_rows(offsets.view().rows(), in.batch().atoms() + 1, "edge_offsets");
  require_rows(cut.view().rows(), in.batch().atoms(), "row_cut");
  const std::int64_t edges = source.view().rows();
  require_rows(shift.view().rows(), edges, "edge_shift");
  require_rows(vector.view().rows(), edges, "edge_vector");
  require_rows(distance.view().rows(), edges, "edge_distance");
  in.require_same_device(offsets.view(), "edge_offsets");
  in.require_same_device(cut.view(), "row_cut");
  in.require_same_device(source.view(), "edge_source");
  in.require_same_device(shift.view(), "edge_shift");
  in.require_same_device(vector.view(), "edge_vector");
  in.require_same_device(distance.view(), "edge_distance");
  const py::gil_scoped_release unlocked;
  neighbor_fill(in.batch(), cutoff,
                {offsets.view(), cut.view(), source.view(), shift.view(), vector.view(), distance.view()}, threads,
                reinterpret_cast<void*>(stream));
}

std::string unusable(const py::object& positions, const py::object& lattice, const py::object& pbc,
                     const py::object& atom_offsets) {
  const BorrowedBatch in(positions, lattice, pbc, atom_offsets);
  if (in.batch().pbc.rows() != in.batch().crystals() || in.batch().atom_offsets.rows() != in.batch().crystals() + 1) {
    return "pbc must have a row and atom_offsets an end for every lattice";
  }
  return unusable_crystal(in.batch());
}

py::array_t<std::uint8_t> block(std::size_t bytes) {
  void* taken = take_block(bytes);
  const py::capsule owner(taken, [](void* returned) { return_block(returned); });
  return py::array_t<std::uint8_t>(static_cast<py::ssize_t>(bytes), static_cast<const std::uint8_t*>(taken), owner);
}

}  // namespace

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
  module.doc() = "The native core of screening: see csrc/kernels.hpp for the contracts.";
  module.def("neighbor_count", &count, py::arg("positions"), py::arg("lattice"), py::arg("pbc"),
             py::arg("atom_offsets"), py::arg("cutoff"), py::arg("max_neighbors"), py::arg("whole_shells"),
             py::arg("shell_tolerance"), py::arg("edge_count"), py::arg("row_cut"), py::arg("threads"),
             py::arg("stream"));
  module.def("neighbor_fill", &fill, py::arg("positions"), py::arg("lattice"), py::arg("pbc"), py::arg("atom_offsets"),
             py::arg("cutoff"), py::arg("edge_offsets"), py::arg("row_cut"), py::arg("edge_source"),
             py::arg("edge_shift"), py::arg("edge_vector"), py::arg("edge_distance"), py::arg("threads"),
             py::arg("stream"));
  module.def("unusable_crystal", &unusable, py::arg("positions"), py::arg("lattice"), py::arg("pbc"),
             py::arg("atom_offsets"));
  module.def("block", &block, py::arg("bytes"));
  module.def("simd_levels", &simd_levels);
  module.def("simd_level", &simd_level);
  module.def("set_simd_level", &set_simd_level, py::arg("name"));
  module.def("cuda_compiled", &cuda_compiled);
  module.def("cuda_device_count", &cuda_device_count);
  bind_message(module);
  bind_rows(module);
  bind_attention(module);
  bind_steady(module);
  bind_symmetry(module);
  bind_text(module);
}

}  // namespace screening
