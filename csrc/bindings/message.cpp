// The message kernels for arrays of floats (`_f32`) and doubles (`_f64`). None stands for what is not wanted or zero.
#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "bindings/dlpack.hpp"
#include "kernels.hpp"

namespace py = pybind11;

namespace screening {
namespace {

template <class T>
class BorrowedTerms {
 public:
  BorrowedTerms(const py::object& centre, const py::object& source, const py::object& table, const py::object& weight,
                const py::object& first, const py::tuple& graph)
      : centre_(centre, "centre", {kAny}),
        source_(source, "source", {kAny}),
        table_(table, "table", {kAny}),
        weight_(weight, "weight", {kAny}),
        first_(first, "first"),
        edge_offsets_(graph[0], "edge_offsets"),
        edge_source_(graph[1], "edge_source"),
        atom_offsets_(graph[2], "atom_offsets") {}

  EdgeTerms<T> terms() const {
    return {centre_.view(), source_.view(), table_.view(),
            weight_.view(), first_.view(),  {edge_offsets_.view(), edge_source_.view(), atom_offsets_.view()}};
  }

 private:
  Borrowed<const T> centre_, source_, table_, weight_;
  Borrowed<const std::int32_t> first_, edge_offsets_, edge_source_, atom_offsets_;
};

template <class T>
class Optional {
 public:
  Optional(const py::object& array, const char* name, std::initializer_list<std::int64_t> columns = {}) {
    if (!array.is_none()) {
      borrowed_.emplace(array, name, columns);
    }
  }
  View<T> view() const { return borrowed_ ? borrowed_->view() : View<T>{}; }

 private:
  std::optional<Borrowed<T>> borrowed_;
};

// (centre, source, table, weight or None, scale or None)
template <class T>
class BorrowedOf {
 public:
  explicit BorrowedOf(const py::tuple& arrays)
      : centre_(arrays[0], "centre", {kAny}),
        source_(arrays[1], "source", {kAny}),
        table_(arrays[2], "table", {kAny}),
        weight_(arrays[3], "weight", {kAny}),
        scale_(arrays[4], "scale", {kAny}) {}

  EdgeTermsOf<T> views() const {
    return {centre_.view(), source_.view(), table_.view(), weight_.view(), scale_.view()};
  }

 private:
  Borrowed<T> centre_, source_, table_;
  Optional<T> weight_, scale_;
};

void* stream_of(std::uintptr_t stream) { return reinterpret_cast<void*>(stream); }

template <class T>
void conv(const py::tuple& terms, const py::tuple& graph, const py::object& scale, const py::object& result,
          int threads, std::uintptr_t stream) {
  const BorrowedTerms<T> in(terms[0], terms[1], terms[2], terms[3], terms[4], graph);
  const Borrowed<const T> factor(scale, "scale", {kAny});
  const Borrowed<T> out(result, "result", {kAny});
  const py::gil_scoped_release unlocked;
  edge_conv<T>(in.terms(), factor.view(), out.view(), threads, stream_of(stream));
}

template <class T>
void conv_backward(const py::tuple& terms, const py::tuple& graph, const py::object& scale, const py::object& grad,
                   const py::tuple& out, int threads, std::uintptr_t stream) {
  const BorrowedTerms<T> in(terms[0], terms[1], terms[2], terms[3], terms[4], graph);
  const Borrowed<const T> factor(scale, "scale", {kAny}), upstream(grad, "grad", {kAny});
  const BorrowedOf<T> derivatives(out);
  const py::gil_scoped_release unlocked;
  edge_conv_backward<T>(in.terms(), factor.view(), upstream.view(), derivatives.views(), threads, stream_of(stream));
}

template <class T>
void conv_curve(const py::tuple& terms, const py::tuple& graph, const py::object& scale, const py::object& grad,
                const py::tuple& direction, const py::object& out_grad, const py::tuple& out, int threads,
                std::uintptr_t stream) {
  const BorrowedTerms<T> in(terms[0], terms[1], terms[2], terms[3], terms[4], graph);
  const Borrowed<const T> factor(scale, "scale", {kAny}), upstream(grad, "grad", {kAny});
  const BorrowedOf<const T> along(direction);
  const Borrowed<T> of_grad(out_grad, "out_grad", {kAny});
  const BorrowedOf<T> derivatives(out);
  const py::gil_scoped_release unlocked;
  edge_conv_curve<T>(in.terms(), factor.view(), upstream.view(), along.views(), of_grad.view(), derivatives.views(),
                     threads, stream_of(stream));
}

template <class T>
void moments(const py::tuple& terms, const py::tuple& graph, const py::object& mean, const py::object& variance,
             int threads, std::uintptr_t stream) {
  const BorrowedTerms<T> in(terms[0], terms[1], terms[2], terms[3], terms[4], graph);
  const Borrowed<T> out_mean(mean, "mean"), out_variance(variance, "variance");
  const py::gil_scoped_release unlocked;
  edge_moments<T>(in.terms(), out_mean.view(), out_variance.view(), threads, stream_of(stream));
}

template <class T>
void moments_backward(const py::tuple& terms, const py::tuple& graph, const py::object& mean,
                      const py::object& grad_mean, const py::object& grad_variance, const py::tuple& out, int threads,
                      std::uintptr_t stream) {
  const BorrowedTerms<T> in(terms[0], terms[1], terms[2], terms[3], terms[4], graph);
  const Borrowed<const T> at(mean, "mean"), of_mean(grad_mean, "grad_mean"),
      of_variance(grad_variance, "grad_variance");
  const BorrowedOf<T> derivatives(out);
  const py::gil_scoped_release unlocked;
  edge_moments_backward<T>(in.terms(), at.view(), of_mean.view(), of_variance.view(), derivatives.views(), threads,
                           stream_of(stream));
}

template <class T>
void sum_segments(const py::object& rows, const py::object& offsets, const py::object& result, int threads,
                  std::uintptr_t stream) {
  const Borrowed<const T> in(rows, "rows", {kAny});
  const Borrowed<const std::int32_t> ends(offsets, "offsets");
  const Borrowed<T> out(result, "result", {kAny});
  const py::gil_scoped_release unlocked;
  segment_sum<T>(in.view(), ends.view(), out.view(), threads, stream_of(stream));
}

template <class T>
void bind(py::module_& module, const std::string& suffix) {
  const auto named = [&](const char* name) { return name + suffix; };
  module.def(named("edge_conv").c_str(), &conv<T>, py::arg("terms"), py::arg("graph"), py::arg("scale"),
             py::arg("result"), py::arg("threads"), py::arg("stream"));
  module.def(named("edge_conv_backward").c_str(), &conv_backward<T>, py::arg("terms"), py::arg("graph"),
             py::arg("scale"), py::arg("grad"), py::arg("out"), py::arg("threads"), py::arg("stream"));
  module.def(named("edge_conv_curve").c_str(), &conv_curve<T>, py::arg("terms"), py::arg("graph"), py::arg("scale"),
             py::arg("grad"), py::arg("direction"), py::arg("out_grad"), py::arg("out"), py::arg("threads"),
             py::arg("stream"));
  module.def(named("edge_moments").c_str(), &moments<T>, py::arg("terms"), py::arg("graph"), py::arg("mean"),
             py::arg("variance"), py::arg("threads"), py::arg("stream"));
  module.def(named("edge_moments_backward").c_str(), &moments_backward<T>, py::arg("terms"), py::arg("graph"),
             py::arg("mean"), py::arg("grad_mean"), py::arg("grad_variance"), py::arg("out"), py::arg("threads"),
             py::arg("stream"));
  module.def(named("segment_sum").c_str(), &sum_segments<T>, py::arg("rows"), py::arg("offsets"), py::arg("result"),
             py::arg("threads"), py::arg("stream"));
}

}  // namespace

void bind_message(py::module_& module) {
  bind<float>(module, "_f32");
  bind<double>(module, "_f64");
}

}  // namespace screening
