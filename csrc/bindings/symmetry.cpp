// expand_sites, site_coordinates and cell_lattice for NumPy: check shapes, copy nothing in, copy the result out once.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cif_numbers.hpp"
#include "kernels/expand_symmetry.hpp"

namespace py = pybind11;

namespace screening {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;

std::string shape_of(const Doubles& array) { return py::cast<std::string>(py::str(array.attr("shape"))); }

// A size of -1 stands for any number of rows.
View<const double> viewed(const Doubles& array, const char* name, std::initializer_list<py::ssize_t> shape) {
  bool right = array.ndim() == static_cast<py::ssize_t>(shape.size());
  py::ssize_t axis = 0;
  std::string expected;
  for (const py::ssize_t size : shape) {
    right = right && (size < 0 || array.shape(axis) == size);
    expected += (axis++ ? ", " : "") + (size < 0 ? std::string("n") : std::to_string(size));
  }
  if (!right) {
    throw std::invalid_argument(std::string("expand_sites: ") + name + " must have shape (" + expected + "), got " +
                                shape_of(array));
  }
  View<const double> view{array.data()};
  for (axis = 0; axis < array.ndim(); ++axis) {
    view.shape[axis] = array.shape(axis);
  }
  return view;
}

py::tuple expand(const Doubles& fractional, const Doubles& rotations, const Doubles& translations,
                 const Doubles& lattice, double tolerance) {
  const auto operations = viewed(rotations, "rotations", {-1, 3, 3});
  const auto expanded = expand_sites(viewed(fractional, "fractional", {-1, 3}), operations,
                                     viewed(translations, "translations", {operations.rows(), 3}),
                                     viewed(lattice, "lattice", {3, 3}), tolerance);
  const auto atoms = static_cast<py::ssize_t>(expanded.site.size());
  return py::make_tuple(Doubles({atoms, py::ssize_t{3}}, expanded.fractional.data()),
                        py::array_t<std::int32_t>(atoms, expanded.site.data()));
}

std::string_view viewed(py::handle text) {
  Py_ssize_t size = 0;
  const char* const data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (data == nullptr) {
    throw py::error_already_set();
  }
  return {data, static_cast<std::size_t>(size)};
}

py::tuple coordinates(const py::list& texts, double limit) {
  std::vector<std::string_view> views;
  views.reserve(texts.size());
  for (const py::handle text : texts) {
    views.push_back(viewed(text));
  }
  if (views.size() % 3 != 0) {
    throw std::invalid_argument("site_coordinates: texts must hold every x, then every y, then every z, got " +
                                std::to_string(views.size()) + " texts");
  }
  const SiteCoordinates out = site_coordinates(views, limit);
  const auto sites = static_cast<py::ssize_t>(views.size() / 3);
  return py::make_tuple(Doubles({sites, py::ssize_t{3}}, out.rows.data()), out.unusable, out.repeated);
}

// A value that the file leaves out is None, and as unusable as a text that is no number.
py::tuple cell(const py::list& texts, double limit) {
  std::array<std::string_view, 6> views;
  if (texts.size() != views.size()) {
    throw std::invalid_argument("cell_lattice: texts must hold three lengths and three angles, got " +
                                std::to_string(texts.size()) + " texts");
  }
  for (std::size_t k = 0; k < views.size(); ++k) {
    const py::handle text = texts[k];
    views[k] = text.is_none() ? std::string_view{} : viewed(text);
  }
  const CellLattice out = cell_lattice(views, limit);
  return py::make_tuple(py::cast(out.parameters), Doubles({3, 3}, out.lattice.data()), out.unusable, out.exists);
}

}  // namespace

void bind_symmetry(py::module_& module) {
  module.def("expand_sites", &expand, py::arg("fractional").noconvert(), py::arg("rotations").noconvert(),
             py::arg("translations").noconvert(), py::arg("lattice").noconvert(), py::arg("tolerance"),
             "Apply symmetry operations to sites: (fractional (atoms, 3), site (atoms,)); see expand_symmetry.hpp.");
  module.def("site_coordinates", &coordinates, py::arg("texts"), py::arg("limit"),
             "Read numbers with uncertainties: (rows (sites, 3), first unusable text or -1, whether rows repeat).");
  module.def("cell_lattice", &cell, py::arg("texts"), py::arg("limit"),
             "Read a cell: (parameters, lattice (3, 3), first unusable text or -1, whether there is such a cell).");
}

}  // namespace screening
