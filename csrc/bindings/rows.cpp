// The kernels that walk along rows of edges, for arrays of floats (`_f32`) and doubles (`_f64`).
#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <type_traits>

#include "bindings/dlpack.hpp"
#include "bindings/graph.hpp"
#include "kernels.hpp"

namespace py = pybind11;

namespace screening {
namespace {

void* stream_of(std::uintptr_t stream) { return reinterpret_cast<void*>(stream); }

template <class T>
void softmax(const py::object& scores, const py::object& offsets, const py::object& result, int threads,
             std::uintptr_t stream) {
  const Borrowed<const T> in(scores, "scores", {kAny});
  const Borrowed<const std::int32_t> ends(offsets, "offsets");
  const Borrowed<T> out(result, "result", {kAny});
  const py::gil_scoped_release unlocked;
  row_softmax<T>(in.view(), ends.view(), out.view(), threads, stream_of(stream));
}

template <class T>
void softmax_backward(const py::object& result, const py::object& offsets, const py::object& grad,
                      const py::object& out, int threads, std::uintptr_t stream) {
  const Borrowed<const T> at(result, "result", {kAny}), upstream(grad, "grad", {kAny});
  const Borrowed<const std::int32_t> ends(offsets, "offsets");
  const Borrowed<T> derivative(out, "out", {kAny});
  const py::gil_scoped_release unlocked;
  row_softmax_backward<T>(at.view(), ends.view(), upstream.view(), derivative.view(), threads, stream_of(stream));
}

template <class T>
void softmax_curve(const py::object& result, const py::object& offsets, const py::object& grad,
                   const py::object& direction, const py::object& out_result, const py::object& out_grad, int threads,
                   std::uintptr_t stream) {
  const Borrowed<const T> at(result, "result", {kAny}), upstream(grad, "grad", {kAny}),
      along(direction, "direction", {kAny});
  const Borrowed<const std::int32_t> ends(offsets, "offsets");
  const Borrowed<T> of_result(out_result, "out_result", {kAny}), of_grad(out_grad, "out_grad", {kAny});
  const py::gil_scoped_release unlocked;
  row_softmax_curve<T>(at.view(), ends.view(), upstream.view(), along.view(), of_result.view(), of_grad.view(), threads,
                       stream_of(stream));
}

// (centre, source, value, edge)
template <class T>
class BorrowedGates {
 public:
  explicit BorrowedGates(const py::tuple& arrays)
      : centre_(arrays[0], "centre", {kAny}),
        source_(arrays[1], "source", {kAny}),
        value_(arrays[2], "value", {kAny}),
        edge_(arrays[3], "edge", {kAny}) {}
  GateTermsOf<T> views() const { return {centre_.view(), source_.view(), value_.view(), edge_.view()}; }
  GateTerms<std::remove_const_t<T>> terms(const BorrowedGraph& graph) const {
    return {centre_.view(), source_.view(), value_.view(), edge_.view(), graph.topology()};
  }

 private:
  Borrowed<T> centre_, source_, value_, edge_;
};

// None for an empty view.
template <class T>
class Optional {
 public:
  Optional(const py::object& array, const char* name) {
    if (!array.is_none()) {
      borrowed_.emplace(array, name, std::initializer_list<std::int64_t>{kAny});
    }
  }
  View<T> view() const { return borrowed_ ? borrowed_->view() : View<T>{}; }

 private:
  std::optional<Borrowed<T>> borrowed_;
};

void pair_edges(const py::tuple& graph, const py::object& line_offsets, const py::object& line_source, int threads,
                std::uintptr_t stream) {
  const BorrowedGraph in(graph);
  const Borrowed<const std::int32_t> ends(line_offsets, "line_offsets");
  const Borrowed<std::int32_t> out(line_source, "line_source");
  const py::gil_scoped_release unlocked;
  line_graph(in.topology(), ends.view(), out.view(), threads, stream_of(stream));
}

template <class T>
void mean(const py::tuple& terms, const py::tuple& graph, const py::object& result, const py::object& gates,
          int threads, std::uintptr_t stream) {
  const BorrowedGraph edges(graph);
  const BorrowedGates<const T> in(terms);
  const Borrowed<T> out(result, "result", {kAny});
  const Optional<T> of_edges(gates, "gates");
  const py::gil_scoped_release unlocked;
  gated_mean<T>(in.terms(edges), out.view(), of_edges.view(), threads, stream_of(stream));
}

template <class T>
void mean_backward(const py::tuple& terms, const py::tuple& graph, const py::object& grad, const py::object& of_gates,
                   const py::tuple& out, int threads, std::uintptr_t stream) {
  const BorrowedGraph edges(graph);
  const BorrowedGates<const T> in(terms);
  const Borrowed<const T> upstream(grad, "grad", {kAny});
  const Optional<const T> of_edges(of_gates, "of_gates");
  const BorrowedGates<T> derivatives(out);
  const py::gil_scoped_release unlocked;
  gated_mean_backward<T>(in.terms(edges), upstream.view(), of_edges.view(), derivatives.views(), threads,
                         stream_of(stream));
}

template <class T>
void mean_curve(const py::tuple& terms, const py::tuple& graph, const py::object& grad, const py::tuple& direction,
                const py::object& out_grad, const py::tuple& out, int threads, std::uintptr_t stream) {
  const BorrowedGraph edges(graph);
  const BorrowedGates<const T> in(terms), along(direction);
  const Borrowed<const T> upstream(grad, "grad", {kAny});
  const Borrowed<T> of_grad(out_grad, "out_grad", {kAny});
  const BorrowedGates<T> derivatives(out);
  const py::gil_scoped_release unlocked;
  gated_mean_curve<T>(in.terms(edges), upstream.view(), along.views(), of_grad.view(), derivatives.views(), threads,
                      stream_of(stream));
}

// (atom, edge)
template <class T>
class BorrowedHeads {
 public:
  BorrowedHeads(const py::tuple& arrays, const py::tuple& graph)
      : atom_(arrays[0], "atom", {kAny}), edge_(arrays[1], "edge", {kAny}), graph_(graph) {}
  HeadTerms<T> terms() const { return {atom_.view(), edge_.view(), graph_.topology()}; }

 private:
  Borrowed<const T> atom_, edge_;
  BorrowedGraph graph_;
};

template <class T>
void scores(const py::tuple& terms, const py::tuple& graph, const py::object& to_centre, const py::object& to_source,
            const py::object& result, int threads, std::uintptr_t stream) {
  const BorrowedHeads<T> in(terms, graph);
  const Borrowed<const T> centre(to_centre, "to_centre", {kAny}), source(to_source, "to_source", {kAny});
  const Borrowed<T> out(result, "result", {kAny});
  const py::gil_scoped_release unlocked;
  head_scores<T>(in.terms(), centre.view(), source.view(), out.view(), threads, stream_of(stream));
}

// `out`: of atom, edge, to_centre and to_source.
template <class T>
void scores_backward(const py::tuple& terms, const py::tuple& graph, const py::object& to_centre,
                     const py::object& to_source, const py::object& grad, const py::tuple& out, int threads,
                     std::uintptr_t stream) {
  const BorrowedHeads<T> in(terms, graph);
  const Borrowed<const T> centre(to_centre, "to_centre", {kAny}), source(to_source, "to_source", {kAny}),
      upstream(grad, "grad", {kAny});
  const Borrowed<T> of_atom(out[0], "out", {kAny}), of_edge(out[1], "out", {kAny}), of_centre(out[2], "out", {kAny}),
      of_source(out[3], "out", {kAny});
  const py::gil_scoped_release unlocked;
  head_scores_backward<T>(in.terms(), centre.view(), source.view(), upstream.view(), of_atom.view(), of_edge.view(),
                          of_centre.view(), of_source.view(), threads, stream_of(stream));
}

template <class T>
void sum(const py::tuple& terms, const py::tuple& graph, const py::object& weight, const py::object& result,
         int threads, std::uintptr_t stream) {
  const BorrowedHeads<T> in(terms, graph);
  const Borrowed<const T> factors(weight, "weight", {kAny});
  const Borrowed<T> out(result, "result", {kAny});
  const py::gil_scoped_release unlocked;
  head_sum<T>(in.terms(), factors.view(), out.view(), threads, stream_of(stream));
}

// `out`: of atom, edge and weight.
template <class T>
void sum_backward(const py::tuple& terms, const py::tuple& graph, const py::object& weight, const py::object& grad,
                  const py::tuple& out, int threads, std::uintptr_t stream) {
  const BorrowedHeads<T> in(terms, graph);
  const Borrowed<const T> factors(weight, "weight", {kAny}), upstream(grad, "grad", {kAny});
  const Borrowed<T> of_atom(out[0], "out", {kAny}), of_edge(out[1], "out", {kAny}), of_weight(out[2], "out", {kAny});
  const py::gil_scoped_release unlocked;
  head_sum_backward<T>(in.terms(), factors.view(), upstream.view(), of_atom.view(), of_edge.view(), of_weight.view(),
                       threads, stream_of(stream));
}

template <class T>
void bind(py::module_& module, const std::string& suffix) {
  const auto named = [&](const char* name) { return name + suffix; };
  module.def(named("row_softmax").c_str(), &softmax<T>, py::arg("scores"), py::arg("offsets"), py::arg("result"),
             py::arg("threads"), py::arg("stream"));
  module.def(named("row_softmax_backward").c_str(), &softmax_backward<T>, py::arg("result"), py::arg("offsets"),
             py::arg("grad"), py::arg("out"), py::arg("threads"), py::arg("stream"));
  module.def(named("row_softmax_curve").c_str(), &softmax_curve<T>, py::arg("result"), py::arg("offsets"),
             py::arg("grad"), py::arg("direction"), py::arg("out_result"), py::arg("out_grad"), py::arg("threads"),
             py::arg("stream"));
  module.def(named("gated_mean").c_str(), &mean<T>, py::arg("terms"), py::arg("graph"), py::arg("result"),
             py::arg("gates"), py::arg("threads"), py::arg("stream"));
  module.def(named("gated_mean_backward").c_str(), &mean_backward<T>, py::arg("terms"), py::arg("graph"),
             py::arg("grad"), py::arg("of_gates"), py::arg("out"), py::arg("threads"), py::arg("stream"));
  module.def(named("gated_mean_curve").c_str(), &mean_curve<T>, py::arg("terms"), py::arg("graph"), py::arg("grad"),
             py::arg("direction"), py::arg("out_grad"), py::arg("out"), py::arg("threads"), py::arg("stream"));
  module.def(named("head_scores").c_str(), &scores<T>, py::arg("terms"), py::arg("graph"), py::arg("to_centre"),
             py::arg("to_source"), py::arg("result"), py::arg("threads"), py::arg("stream"));
  module.def(named("head_scores_backward").c_str(), &scores_backward<T>, py::arg("terms"), py::arg("graph"),
             py::arg("to_centre"), py::arg("to_source"), py::arg("grad"), py::arg("out"), py::arg("threads"),
             py::arg("stream"));
  module.def(named("head_sum").c_str(), &sum<T>, py::arg("terms"), py::arg("graph"), py::arg("weight"),
             py::arg("result"), py::arg("threads"), py::arg("stream"));
  module.def(named("head_sum_backward").c_str(), &sum_backward<T>, py::arg("terms"), py::arg("graph"),
             py::arg("weight"), py::arg("grad"), py::arg("out"), py::arg("threads"), py::arg("stream"));
}

}  // namespace

void bind_rows(py::module_& module) {
  module.def("line_graph", &pair_edges, py::arg("graph"), py::arg("line_offsets"), py::arg("line_source"),
             py::arg("threads"), py::arg("stream"));
  bind<float>(module, "_f32");
  bind<double>(module, "_f64");
}

}  // namespace screening
