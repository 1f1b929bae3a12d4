// Attention with vectors, for arrays of floats (`_f32`) and doubles (`_f64`).
#include <pybind11/pybind11.h>

#include <string>
#include <type_traits>

#include "bindings/dlpack.hpp"
#include "bindings/graph.hpp"
#include "kernels.hpp"

namespace py = pybind11;

namespace screening {
namespace {

// (query, key, value, vectors, table, weight, scale), of which a derivative has the last two without rows where they
// are not wanted.
template <class T>
class BorrowedTerms {
 public:
  explicit BorrowedTerms(const py::tuple& arrays)
      : query_(arrays[0], "query", {kAny}),
        key_(arrays[1], "key", {kAny}),
        value_(arrays[2], "value", {kAny}),
        vectors_(arrays[3], "vectors", {kAny}),
        table_(arrays[4], "table", {kAny}),
        weight_(arrays[5], "weight", {kAny}),
        scale_(arrays[6], "scale", {kAny}) {}
  AttentionTermsOf<T> views() const {
    return {query_.view(), key_.view(), value_.view(), vectors_.view(), table_.view(), weight_.view(), scale_.view()};
  }
  AttentionTerms<std::remove_const_t<T>> terms(const Borrowed<const std::int32_t>& first, const BorrowedGraph& graph,
                                               std::int64_t heads) const {
    return {query_.view(),  key_.view(),   value_.view(), vectors_.view(),  table_.view(),
            weight_.view(), scale_.view(), first.view(),  graph.topology(), heads};
  }

 private:
  Borrowed<T> query_, key_, value_, vectors_, table_, weight_, scale_;
};

template <class T>
void attend(const py::tuple& terms, const py::object& first, const py::tuple& graph, std::int64_t heads,
            const py::object& result, int threads, std::uintptr_t stream) {
  const BorrowedGraph edges(graph);
  const BorrowedTerms<const T> in(terms);
  const Borrowed<const std::int32_t> rows(first, "first");
  const Borrowed<T> out(result, "result", {kAny});
  const py::gil_scoped_release unlocked;
  vector_attention<T>(in.terms(rows, edges, heads), out.view(), threads, reinterpret_cast<void*>(stream));
}

template <class T>
void attend_backward(const py::tuple& terms, const py::object& first, const py::tuple& graph, std::int64_t heads,
                     const py::object& grad, const py::tuple& out, int threads, std::uintptr_t stream) {
  const BorrowedGraph edges(graph);
  const BorrowedTerms<const T> in(terms);
  const Borrowed<const std::int32_t> rows(first, "first");
  const Borrowed<const T> upstream(grad, "grad", {kAny});
  const BorrowedTerms<T> derivatives(out);
  const py::gil_scoped_release unlocked;
  vector_attention_backward<T>(in.terms(rows, edges, heads), upstream.view(), derivatives.views(), threads,
                               reinterpret_cast<void*>(stream));
}

template <class T>
void attend_curve(const py::tuple& terms, const py::object& first, const py::tuple& graph, std::int64_t heads,
                  const py::object& grad, const py::tuple& direction, const py::object& out_grad, const py::tuple& out,
                  int threads, std::uintptr_t stream) {
  const BorrowedGraph edges(graph);
  const BorrowedTerms<const T> in(terms), along(direction);
  const Borrowed<const std::int32_t> rows(first, "first");
  const Borrowed<const T> upstream(grad, "grad", {kAny});
  const Borrowed<T> of_grad(out_grad, "out_grad", {kAny});
  const BorrowedTerms<T> derivatives(out);
  const py::gil_scoped_release unlocked;
  vector_attention_curve<T>(in.terms(rows, edges, heads), upstream.view(), along.views(), of_grad.view(),
                            derivatives.views(), threads, reinterpret_cast<void*>(stream));
}

template <class T>
void bind(py::module_& module, const std::string& suffix) {
  const auto named = [&](const char* name) { return name + suffix; };
  module.def(named("vector_attention").c_str(), &attend<T>, py::arg("terms"), py::arg("first"), py::arg("graph"),
             py::arg("heads"), py::arg("result"), py::arg("threads"), py::arg("stream"));
  module.def(named("vector_attention_backward").c_str(), &attend_backward<T>, py::arg("terms"), py::arg("first"),
             py::arg("graph"), py::arg("heads"), py::arg("grad"), py::arg("out"), py::arg("threads"),
             py::arg("stream"));
  module.def(named("vector_attention_curve").c_str(), &attend_curve<T>, py::arg("terms"), py::arg("first"),
             py::arg("graph"), py::arg("heads"), py::arg("grad"), py::arg("direction"), py::arg("out_grad"),
             py::arg("out"), py::arg("threads"), py::arg("stream"));
}

}  // namespace

void bind_attention(py::module_& module) {
  bind<float>(module, "_f32");
  bind<double>(module, "_f64");
}

}  // namespace screening
