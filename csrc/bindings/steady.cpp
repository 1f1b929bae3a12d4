// Products and functions of rows on the CPU, for floats (`_f32`) and doubles (`_f64`).
#include "steady.hpp"

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
void multiply_back(const py::object& rows, const py::object& grad, const py::object& weight, const py::object& bias,
                   int threads) {
  const Borrowed<const T> in(rows, "rows", {kAny}), above(grad, "grad", {kAny});
  const Borrowed<T> of_weight(weight, "weight", {kAny}), of_bias(bias, "bias");
  const py::gil_scoped_release unlocked;
  linear_weight<T>(in.view(), above.view(), of_weight.view(), of_bias.view(), threads);
}

template <class T>
void bend_back(const py::object& values, const py::object& grad, const py::object& result, int threads) {
  const Borrowed<const T> in(values, "values"), above(grad, "grad");
  const Borrowed<T> out(result, "result");
  const py::gil_scoped_release unlocked;
  silu_backward<T>(in.view(), above.view(), out.view(), threads);
}

template <class T>
void bend_again(const py::object& values, const py::object& grad, const py::object& direction,
                const py::object& of_values, const py::object& of_grad, int threads) {
  const Borrowed<const T> in(values, "values"), above(grad, "grad"), along(direction, "direction");
  const Borrowed<T> out(of_values, "of_values"), of_above(of_grad, "of_grad");
  const py::gil_scoped_release unlocked;
  silu_second<T>(in.view(), above.view(), along.view(), out.view(), of_above.view(), threads);
}

template <class T>
void measure(const py::object& sums, T softening, const py::object& result, int threads) {
  const Borrowed<const T> in(sums, "sums", {kAny, kAny});
  const Borrowed<T> out(result, "result", {kAny, kAny});
  const py::gil_scoped_release unlocked;
  sum_lengths<T>(in.view(), softening, out.view(), threads);
}

template <class T>
void measure_back(const py::object& sums, const py::object& lengths, const py::object& grad, const py::object& of_sums,
                  int threads) {
  const Borrowed<const T> in(sums, "sums", {kAny, kAny}), known(lengths, "lengths", {kAny, kAny}),
      above(grad, "grad", {kAny, kAny});
  const Borrowed<T> out(of_sums, "of_sums", {kAny, kAny});
  const py::gil_scoped_release unlocked;
  sum_lengths_backward<T>(in.view(), known.view(), above.view(), out.view(), threads);
}

template <class T>
void measure_again(const py::object& sums, const py::object& lengths, const py::object& grad,
                   const py::object& direction, const py::object& of_sums, const py::object& of_grad, int threads) {
  const Borrowed<const T> in(sums, "sums", {kAny, kAny}), known(lengths, "lengths", {kAny, kAny}),
      above(grad, "grad", {kAny, kAny}), along(direction, "direction", {kAny, kAny});
  const Borrowed<T> out(of_sums, "of_sums", {kAny, kAny}), of_above(of_grad, "of_grad", {kAny, kAny});
  const py::gil_scoped_release unlocked;
  sum_lengths_second<T>(in.view(), known.view(), above.view(), along.view(), out.view(), of_above.view(), threads);
}

template <class T>
void moments(const py::object& rows, const py::object& mean, const py::object& variance, int threads) {
  const Borrowed<const T> in(rows, "rows", {kAny});
  const Borrowed<T> centre(mean, "mean"), spread(variance, "variance");
  const py::gil_scoped_release unlocked;
  column_moments<T>(in.view(), centre.view(), spread.view(), threads);
}

template <class T>
void normalise(const py::object& rows, const py::object& factor, const py::object& shift, const py::object& onto,
               const py::object& result, int threads) {
  const Borrowed<const T> in(rows, "rows", {kAny}), by(factor, "factor"), plus(shift, "shift"),
      start(onto, "onto", {kAny});
  const Borrowed<T> out(result, "result", {kAny});
  const py::gil_scoped_release unlocked;
  normal_silu<T>(in.view(), by.view(), plus.view(), start.view(), out.view(), threads);
}

template <class T>
void normalise_sums(const py::object& rows, const py::object& grad, const py::object& factor, const py::object& shift,
                    const py::object& mean, const py::object& sums, int threads) {
  const Borrowed<const T> in(rows, "rows", {kAny}), above(grad, "grad", {kAny}), by(factor, "factor"),
      plus(shift, "shift"), centre(mean, "mean");
  const Borrowed<T> out(sums, "sums", {kAny});
  const py::gil_scoped_release unlocked;
  normal_silu_sums<T>(in.view(), above.view(), by.view(), plus.view(), centre.view(), out.view(), threads);
}

template <class T>
void normalise_back(const py::object& rows, const py::object& grad, const py::object& factor, const py::object& shift,
                    const py::object& mean, const py::object& offset, const py::object& slope, const py::object& result,
                    int threads) {
  const Borrowed<const T> in(rows, "rows", {kAny}), above(grad, "grad", {kAny}), by(factor, "factor"),
      plus(shift, "shift"), centre(mean, "mean"), constant(offset, "offset"), along(slope, "slope");
  const Borrowed<T> out(result, "result", {kAny});
  const py::gil_scoped_release unlocked;
  normal_silu_backward<T>(in.view(), above.view(), by.view(), plus.view(), centre.view(), constant.view(), along.view(),
                          out.view(), threads);
}

template <class T>
void normalise_again(const py::object& rows, const py::object& grad, const py::object& factor, const py::object& shift,
                     const py::object& mean, const py::object& direction, const py::object& scaled,
                     const py::object& shifted, const py::object& of_rows, const py::object& of_grad,
                     const py::object& sums, int threads) {
  const Borrowed<const T> in(rows, "rows", {kAny}), above(grad, "grad", {kAny}), by(factor, "factor"),
      plus(shift, "shift"), centre(mean, "mean"), along(direction, "direction", {kAny}), scale(scaled, "scaled"),
      constant(shifted, "shifted");
  const Borrowed<T> out(of_rows, "of_rows", {kAny}), of_above(of_grad, "of_grad", {kAny}), total(sums, "sums", {kAny});
  const py::gil_scoped_release unlocked;
  normal_silu_second<T>(in.view(), above.view(), by.view(), plus.view(), centre.view(), along.view(), scale.view(),
                        constant.view(), out.view(), of_above.view(), total.view(), threads);
}

template <class T>
void read_windows(const py::object& weight, const py::object& first, const py::object& table, const py::object& result,
                  int threads) {
  const Borrowed<const T> factors(weight, "weight", {kAny}), rows(table, "table", {kAny});
  const Borrowed<const std::int32_t> places(first, "first");
  const Borrowed<T> out(result, "result", {kAny});
  const py::gil_scoped_release unlocked;
  window_rows<T>(factors.view(), places.view(), rows.view(), out.view(), threads);
}

template <class T>
void read_windows_back(const py::object& weight, const py::object& first, const py::object& grad,
                       const py::object& of_table, int threads) {
  const Borrowed<const T> factors(weight, "weight", {kAny}), above(grad, "grad", {kAny});
  const Borrowed<const std::int32_t> places(first, "first");
  const Borrowed<T> out(of_table, "of_table", {kAny});
  const py::gil_scoped_release unlocked;
  window_rows_backward<T>(factors.view(), places.view(), above.view(), out.view(), threads);
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
  module.def(named("silu").c_str(), &map_values<T, silu<T>>, py::arg("values"), py::arg("result"), py::arg("threads"));
  module.def(named("silu_backward").c_str(), &bend_back<T>, py::arg("values"), py::arg("grad"), py::arg("result"),
             py::arg("threads"));
  module.def(named("silu_second").c_str(), &bend_again<T>, py::arg("values"), py::arg("grad"), py::arg("direction"),
             py::arg("of_values"), py::arg("of_grad"), py::arg("threads"));
  module.def(named("sum_lengths").c_str(), &measure<T>, py::arg("sums"), py::arg("softening"), py::arg("result"),
             py::arg("threads"));
  module.def(named("sum_lengths_backward").c_str(), &measure_back<T>, py::arg("sums"), py::arg("lengths"),
             py::arg("grad"), py::arg("of_sums"), py::arg("threads"));
  module.def(named("sum_lengths_second").c_str(), &measure_again<T>, py::arg("sums"), py::arg("lengths"),
             py::arg("grad"), py::arg("direction"), py::arg("of_sums"), py::arg("of_grad"), py::arg("threads"));
  module.def(named("linear_weight").c_str(), &multiply_back<T>, py::arg("rows"), py::arg("grad"), py::arg("weight"),
             py::arg("bias"), py::arg("threads"));
  module.def(named("column_moments").c_str(), &moments<T>, py::arg("rows"), py::arg("mean"), py::arg("variance"),
             py::arg("threads"));
  module.def(named("normal_silu").c_str(), &normalise<T>, py::arg("rows"), py::arg("factor"), py::arg("shift"),
             py::arg("onto"), py::arg("result"), py::arg("threads"));
  module.def(named("normal_silu_sums").c_str(), &normalise_sums<T>, py::arg("rows"), py::arg("grad"), py::arg("factor"),
             py::arg("shift"), py::arg("mean"), py::arg("sums"), py::arg("threads"));
  module.def(named("normal_silu_backward").c_str(), &normalise_back<T>, py::arg("rows"), py::arg("grad"),
             py::arg("factor"), py::arg("shift"), py::arg("mean"), py::arg("offset"), py::arg("slope"),
             py::arg("result"), py::arg("threads"));
  module.def(named("normal_silu_second").c_str(), &normalise_again<T>, py::arg("rows"), py::arg("grad"),
             py::arg("factor"), py::arg("shift"), py::arg("mean"), py::arg("direction"), py::arg("scaled"),
             py::arg("shifted"), py::arg("of_rows"), py::arg("of_grad"), py::arg("sums"), py::arg("threads"));
  module.def(named("window_rows").c_str(), &read_windows<T>, py::arg("weight"), py::arg("first"), py::arg("table"),
             py::arg("result"), py::arg("threads"));
  module.def(named("window_rows_backward").c_str(), &read_windows_back<T>, py::arg("weight"), py::arg("first"),
             py::arg("grad"), py::arg("of_table"), py::arg("threads"));
}

}  // namespace

void bind_steady(py::module_& module) {
  bind<float>(module, "_f32");
  bind<double>(module, "_f64");
}

}  // namespace screening
