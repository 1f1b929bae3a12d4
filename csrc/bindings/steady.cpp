// Products and functions of rows on the CPU, for floats (`_f32`) and doubles (`_f64`).
#include <pybind11/pybind11.h>

#include <string>

#include "bindings/dlpack.hpp"
#include "kernels.hpp"

namespace py = pybind11;

namespace screening {
namespace {

template <class T>
void multiply(const py::object& rows, const py::object& weight, const py::object& bias, const py::object& result,
              int threads) {
  const Borrowed<const T> in(rows, "rows", {kAny}), matrix(weight, "weight", {kAny}), start(bias, "bias");
  const Borrowed<T> out(result, "result", {kAny});
  const py::gil_scoped_release unlocked;
  linear<T>(in.view(), matrix.view(), start.view(), out.view(), threads);
}

template <class T, void (*function)(View<const T>, View<T>, int)>
void map_values(const py::object& values, const py::object& result, int threads) {
  const Borrowed<const T> in(values, "values");
  const Borrowed<T> out(result, "result");
  const py::gil_scoped_release unlocked;
  function(in.view(), out.view(), threads);
}

template <class T>
void bind(py::module_& module, const std::string& suffix) {
  const auto named = [&](const char* name) { return name + suffix; };
  module.def(named("linear").c_str(), &multiply<T>, py::arg("rows"), py::arg("weight"), py::arg("bias"),
             py::arg("result"), py::arg("threads"));
  module.def(named("softplus").c_str(), &map_values<T, softplus<T>>, py::arg("values"), py::arg("result"),
             py::arg("threads"));
  module.def(named("sigmoid").c_str(), &map_values<T, sigmoid<T>>, py::arg("values"), py::arg("result"),
             py::arg("threads"));
}

}  // namespace

void bind_steady(py::module_& module) {
  bind<float>(module, "_f32");
  bind<double>(module, "_f64");
}

}  // namespace screening
