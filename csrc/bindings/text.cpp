// scan_rows and scan_lines for NumPy: shapes are checked by the kernels, nothing is copied.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string_view>

#include "kernels/scan_text.hpp"

namespace py = pybind11;

namespace screening {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
View<const T> input(const Array<T>& array) {
  return {array.data(), {array.size()}};
}

View<const char> input(const py::bytes& text) {
  const std::string_view bytes = text;
  return {bytes.data(), {static_cast<std::int64_t>(bytes.size())}};
}

template <class T>
View<T> output(Array<T>& array) {
  View<T> view{array.mutable_data(), {}};
  for (py::ssize_t axis = 0; axis < array.ndim() && axis < 3; ++axis) {
    view.shape[static_cast<std::size_t>(axis)] = array.shape(axis);
  }
  return view;
}

void rows(const py::bytes& text, const Array<std::int64_t>& starts, const Array<std::int64_t>& row_offsets,
          const Array<std::int32_t>& targets, bool exact, Array<std::uint8_t> numbers, Array<double> values,
          Array<std::int64_t> faults) {
  const TextRows in{input(text), input(starts), input(row_offsets), input(targets), exact};
  const ScannedRows out{output(numbers), output(values), output(faults)};
  const py::gil_scoped_release unlocked;
  scan_rows(in, out);
}

void lines(const py::bytes& text, const Array<std::int64_t>& begins, const Array<std::int64_t>& ends,
           const py::bytes& literals, const Array<std::int64_t>& literal_offsets, const Array<std::int32_t>& kinds,
           Array<bool> fits, Array<double> numbers, Array<std::int64_t> spans) {
  const LineOutline outline{input(literals), input(literal_offsets), input(kinds)};
  const ScannedLines out{output(fits), output(numbers), output(spans)};
  const View<const char> bytes = input(text);
  const View<const std::int64_t> first = input(begins), last = input(ends);
  const py::gil_scoped_release unlocked;
  scan_lines(bytes, first, last, outline, out);
}

}  // namespace

void bind_text(py::module_& module) {
  module.def("scan_rows", &rows, py::arg("text"), py::arg("starts").noconvert(), py::arg("row_offsets").noconvert(),
             py::arg("targets").noconvert(), py::arg("exact"), py::arg("numbers").noconvert(),
             py::arg("values").noconvert(), py::arg("faults").noconvert(),
             "Read rows of words into columns of numbers; see scan_text.hpp.");
  module.def("scan_lines", &lines, py::arg("text"), py::arg("begins").noconvert(), py::arg("ends").noconvert(),
             py::arg("literals"), py::arg("literal_offsets").noconvert(), py::arg("kinds").noconvert(),
             py::arg("fits").noconvert(), py::arg("numbers").noconvert(), py::arg("spans").noconvert(),
             "Read lines that fit an outline into fields; see scan_text.hpp.");
}

}  // namespace screening
