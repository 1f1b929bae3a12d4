// The fronts of the kernels that walk along rows of edges: see dispatch.cpp.
#include "twins.hpp"

namespace screening {
namespace {

// That every array of values has the shape of the first, and that the offsets ascend within it.
template <class T, class... Others>
void check_rows(const char* kernel, const View<T>& values, const View<const std::int32_t>& offsets,
                const Others&... others) {
  require(((others.shape == values.shape) && ...), kernel, "all arrays of values must have one shape");
  require(values.shape[1] > 0 && offsets.rows() > 0, kernel, "there must be a column of values, and offsets");
  require_one_device(kernel, values, offsets, others...);
  if (values.device == Device::cuda) {
    return;
  }
  require(ascend_to(values.rows(), offsets), kernel, "offsets must ascend from 0 to the number of edges");
}

template <class T>
void check(const GateTerms<T>& terms, const char* kernel) {
  const EdgeTopology& graph = terms.graph;
  check(graph, kernel);
  require(terms.centre.shape == terms.source.shape && terms.centre.shape == terms.value.shape, kernel,
          "centre, source and value must have one shape");
  require(terms.channels() > 0 && terms.centre.rows() == graph.atoms(), kernel,
          "centre, source and value must have a row an atom, edge_offsets one more");
  require(terms.edge.rows() == graph.edges() && terms.edge.shape[1] == terms.channels(), kernel,
          "edge must have a row an edge, as wide as centre");
  require_one_device(kernel, terms.centre, terms.source, terms.value, terms.edge, graph.edge_offsets, graph.edge_source,
                     graph.atom_offsets);
  if (terms.centre.device == Device::cpu) {
    check_on_host(graph, kernel);
  }
}

template <class T, class U>
void check(const GateTerms<T>& terms, const GateTermsOf<U>& of, const char* kernel) {
  require(of.centre.shape == terms.centre.shape && of.source.shape == terms.source.shape &&
              of.value.shape == terms.value.shape && of.edge.shape == terms.edge.shape,
          kernel, "derivatives and directions must have the shapes of what they belong to");
  require_one_device(kernel, terms.centre, of.centre, of.source, of.value, of.edge);
}

// `rows` belong to atoms; `gates` to edges, or are empty.
template <class T, class Rows, class Gates>
void check(const GateTerms<T>& terms, const Rows& rows, const Gates& gates, const char* kernel) {
  require(rows.shape == terms.centre.shape && (gates.rows() == 0 || gates.shape == terms.edge.shape), kernel,
          "result, gates and what comes from above must have the shapes of centre and edge");
  require_one_device(kernel, terms.centre, rows, gates);
}

template <class T>
void check(const HeadTerms<T>& terms, std::int64_t heads, const char* kernel) {
  const EdgeTopology& graph = terms.graph;
  check(graph, kernel);
  require(terms.columns() > 0 && heads > 0 && terms.columns() % heads == 0, kernel,
          "the columns of atom must divide into the heads");
  require(terms.atom.rows() == graph.atoms() && terms.edge.rows() == graph.edges() &&
              terms.edge.shape[1] == terms.columns(),
          kernel, "atom must have a row an atom, edge a row an edge, both of the same columns");
  require_one_device(kernel, terms.atom, terms.edge, graph.edge_offsets, graph.edge_source, graph.atom_offsets);
  if (terms.atom.device == Device::cpu) {
    check_on_host(graph, kernel);
  }
}

template <class T, class... Rows>
void check_factors(const HeadTerms<T>& terms, const View<const T>& factors, const char* kernel, const Rows&... rows) {
  require(factors.rows() * factors.shape[1] == terms.columns() && ((rows.shape == factors.shape) && ...), kernel,
          "the factors of the two ends must have a row a head, and a column a channel");
  require_one_device(kernel, terms.atom, factors, rows...);
}

// `sums` belong to atoms and channels, `scores` to edges and heads, derivatives to what they are of.
template <class T, class... Scores>
void check_scores(const HeadTerms<T>& terms, std::int64_t heads, const char* kernel, const Scores&... scores) {
  require(((scores.rows() == terms.graph.edges() && scores.shape[1] == heads) && ...), kernel,
          "scores and weights must have a row an edge and a column a head");
  require_one_device(kernel, terms.atom, scores...);
}

template <class T, class Sums>
void check_sums(const HeadTerms<T>& terms, std::int64_t heads, const Sums& sums, const char* kernel) {
  require(sums.rows() == terms.graph.atoms() && sums.shape[1] * heads == terms.columns(), kernel,
          "sums must have a row an atom and a column a channel of a head");
  require_one_device(kernel, terms.atom, sums);
}

template <class T>
void check_derivatives(const HeadTerms<T>& terms, const View<T>& of_atom, const View<T>& of_edge, const char* kernel) {
  require(of_atom.shape == terms.atom.shape && of_edge.shape == terms.edge.shape, kernel,
          "derivatives must have the shapes of what they belong to");
  require_one_device(kernel, terms.atom, of_atom, of_edge);
}

}  // namespace

template <class T>
void row_softmax(View<const T> scores, View<const std::int32_t> offsets, View<T> result, int threads, void* stream) {
  check_rows("row_softmax", scores, offsets, result);
  SCREENING_CALL_TWIN(scores, row_softmax, scores, offsets, result);
}

template <class T>
void row_softmax_backward(View<const T> result, View<const std::int32_t> offsets, View<const T> grad, View<T> out,
                          int threads, void* stream) {
  check_rows("row_softmax_backward", result, offsets, grad, out);
  SCREENING_CALL_TWIN(result, row_softmax_backward, result, offsets, grad, out);
}

template <class T>
void row_softmax_curve(View<const T> result, View<const std::int32_t> offsets, View<const T> grad,
                       View<const T> direction, View<T> out_result, View<T> out_grad, int threads, void* stream) {
  check_rows("row_softmax_curve", result, offsets, grad, direction, out_result, out_grad);
  SCREENING_CALL_TWIN(result, row_softmax_curve, result, offsets, grad, direction, out_result, out_grad);
}

void line_graph(const EdgeTopology& graph, View<const std::int32_t> line_offsets, View<std::int32_t> line_source,
                int threads, void* stream) {
  check(graph, "line_graph");
  require(line_offsets.rows() == graph.edges() + 1, "line_graph", "line_offsets must have one row more than edges");
  require_one_device("line_graph", graph.edge_offsets, graph.edge_source, graph.atom_offsets, line_offsets,
                     line_source);
  if (graph.edge_offsets.device == Device::cpu) {
    check_on_host(graph, "line_graph");
    bool counted = line_offsets[0] == 0 && line_offsets[graph.edges()] == line_source.rows();
    for (std::int64_t e = 0; e < graph.edges(); ++e) {
      const std::int32_t j = graph.edge_source[e];
      counted = counted && line_offsets[e + 1] - line_offsets[e] == graph.edge_offsets[j + 1] - graph.edge_offsets[j];
    }
    require(counted, "line_graph", "line_offsets must count the edges into the source of each edge");
  }
  SCREENING_CALL_TWIN(graph.edge_offsets, line_graph, graph, line_offsets, line_source);
}

template <class T>
void gated_mean(const GateTerms<T>& terms, View<T> result, View<T> gates, int threads, void* stream) {
  check(terms, "gated_mean");
  check(terms, result, gates, "gated_mean");
  SCREENING_CALL_TWIN(terms.centre, gated_mean, terms, result, gates);
}

template <class T>
void gated_mean_backward(const GateTerms<T>& terms, View<const T> grad, View<const T> of_gates,
                         const GateTermsOf<T>& out, int threads, void* stream) {
  check(terms, "gated_mean_backward");
  check(terms, grad, of_gates, "gated_mean_backward");
  check(terms, out, "gated_mean_backward");
  SCREENING_CALL_TWIN(terms.centre, gated_mean_backward, terms, grad, of_gates, out);
}

template <class T>
void gated_mean_curve(const GateTerms<T>& terms, View<const T> grad, const GateTermsOf<const T>& direction,
                      View<T> out_grad, const GateTermsOf<T>& out, int threads, void* stream) {
  check(terms, "gated_mean_curve");
  check(terms, grad, View<const T>{}, "gated_mean_curve");
  check(terms, out_grad, View<const T>{}, "gated_mean_curve");
  check(terms, direction, "gated_mean_curve");
  check(terms, out, "gated_mean_curve");
  SCREENING_CALL_TWIN(terms.centre, gated_mean_curve, terms, grad, direction, out_grad, out);
}

template <class T>
void head_scores(const HeadTerms<T>& terms, View<const T> to_centre, View<const T> to_source, View<T> result,
                 int threads, void* stream) {
  check(terms, to_centre.rows(), "head_scores");
  check_factors(terms, to_centre, "head_scores", to_source);
  check_scores(terms, to_centre.rows(), "head_scores", result);
  SCREENING_CALL_TWIN(terms.atom, head_scores, terms, to_centre, to_source, result);
}

template <class T>
void head_scores_backward(const HeadTerms<T>& terms, View<const T> to_centre, View<const T> to_source,
                          View<const T> grad, View<T> of_atom, View<T> of_edge, View<T> of_to_centre,
                          View<T> of_to_source, int threads, void* stream) {
  check(terms, to_centre.rows(), "head_scores_backward");
  check_factors(terms, to_centre, "head_scores_backward", to_source, of_to_centre, of_to_source);
  check_scores(terms, to_centre.rows(), "head_scores_backward", grad);
  check_derivatives(terms, of_atom, of_edge, "head_scores_backward");
  SCREENING_CALL_TWIN(terms.atom, head_scores_backward, terms, to_centre, to_source, grad, of_atom, of_edge,
                      of_to_centre, of_to_source);
}

template <class T>
void head_sum(const HeadTerms<T>& terms, View<const T> weight, View<T> result, int threads, void* stream) {
  check(terms, weight.shape[1], "head_sum");
  check_scores(terms, weight.shape[1], "head_sum", weight);
  check_sums(terms, weight.shape[1], result, "head_sum");
  SCREENING_CALL_TWIN(terms.atom, head_sum, terms, weight, result);
}

template <class T>
void head_sum_backward(const HeadTerms<T>& terms, View<const T> weight, View<const T> grad, View<T> of_atom,
                       View<T> of_edge, View<T> of_weight, int threads, void* stream) {
  check(terms, weight.shape[1], "head_sum_backward");
  check_scores(terms, weight.shape[1], "head_sum_backward", weight, of_weight);
  check_sums(terms, weight.shape[1], grad, "head_sum_backward");
  check_derivatives(terms, of_atom, of_edge, "head_sum_backward");
  SCREENING_CALL_TWIN(terms.atom, head_sum_backward, terms, weight, grad, of_atom, of_edge, of_weight);
}

#define SCREENING_FRONTS(T)                                                                                           \
  template void row_softmax<T>(View<const T>, View<const std::int32_t>, View<T>, int, void*);                         \
  template void row_softmax_backward<T>(View<const T>, View<const std::int32_t>, View<const T>, View<T>, int, void*); \
  template void row_softmax_curve<T>(View<const T>, View<const std::int32_t>, View<const T>, View<const T>, View<T>,  \
                                     View<T>, int, void*);                                                            \
  template void gated_mean<T>(const GateTerms<T>&, View<T>, View<T>, int, void*);                                     \
  template void gated_mean_backward<T>(const GateTerms<T>&, View<const T>, View<const T>, const GateTermsOf<T>&, int, \
                                       void*);                                                                        \
  template void gated_mean_curve<T>(const GateTerms<T>&, View<const T>, const GateTermsOf<const T>&, View<T>,         \
                                    const GateTermsOf<T>&, int, void*);                                               \
  template void head_scores<T>(const HeadTerms<T>&, View<const T>, View<const T>, View<T>, int, void*);               \
  template void head_scores_backward<T>(const HeadTerms<T>&, View<const T>, View<const T>, View<const T>, View<T>,    \
                                        View<T>, View<T>, View<T>, int, void*);                                       \
  template void head_sum<T>(const HeadTerms<T>&, View<const T>, View<T>, int, void*);                                 \
  template void head_sum_backward<T>(const HeadTerms<T>&, View<const T>, View<const T>, View<T>, View<T>, View<T>,    \
                                     int, void*);
SCREENING_FRONTS(float)
SCREENING_FRONTS(double)
#undef SCREENING_FRONTS

}  // namespace screening
