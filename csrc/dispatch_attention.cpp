// The fronts of attention with vectors: see dispatch.cpp.
#include "twins.hpp"

namespace screening {
namespace {

template <class T>
void check(const AttentionTerms<T>& terms, const char* kernel) {
  const EdgeTopology& graph = terms.graph;
  const std::int64_t channels = terms.channels(), atoms = graph.atoms(), edges = graph.edges();
  check(graph, kernel);
  require(terms.heads > 0 && channels > 0 && channels % terms.heads == 0, kernel,
          "the columns of query must divide into the heads");
  require(terms.key.shape == terms.query.shape && terms.query.rows() == atoms && terms.value.rows() == atoms &&
              terms.vectors.rows() == atoms,
          kernel, "query, key, value and vectors must have a row an atom, edge_offsets one more");
  require(terms.value.shape[1] == 3 * channels && terms.vectors.shape[1] == 3 * channels &&
              terms.table.shape[1] == 4 * channels,
          kernel, "value and vectors must have three times the columns of query, table four times");
  require(terms.weight.rows() == edges && terms.first.rows() == edges && terms.scale.rows() == edges &&
              terms.scale.shape[1] == 4,
          kernel, "weight, first and scale must have a row an edge, scale four columns");
  require(terms.span() >= 1 && terms.span() <= terms.table.rows(), kernel,
          "weight must have between one column and as many as table has rows");
  require_one_device(kernel, terms.query, terms.key, terms.value, terms.vectors, terms.table, terms.weight, terms.scale,
                     terms.first, graph.edge_offsets, graph.edge_source, graph.atom_offsets);
  if (terms.query.device == Device::cuda) {
    return;
  }
  check_on_host(graph, kernel);
  bool within = true;
  for (std::int64_t e = 0; e < edges; ++e) {
    within = within && terms.first[e] >= 0 && terms.first[e] + terms.span() <= terms.table.rows();
  }
  require(within, kernel, "first must leave room for the columns of weight within the table");
}

template <class T, class U>
void check(const AttentionTerms<T>& terms, const AttentionTermsOf<U>& of, bool whole, const char* kernel) {
  const bool without_edges = !whole && of.weight.rows() == 0 && of.scale.rows() == 0;
  require(of.query.shape == terms.query.shape && of.key.shape == terms.key.shape &&
              of.value.shape == terms.value.shape && of.vectors.shape == terms.vectors.shape &&
              of.table.shape == terms.table.shape &&
              (without_edges || (of.weight.shape == terms.weight.shape && of.scale.shape == terms.scale.shape)),
          kernel, "derivatives and directions must have the shapes of what they belong to");
  require_one_device(kernel, terms.query, of.query, of.key, of.value, of.vectors, of.table, of.weight, of.scale);
}

template <class T, class Rows>
void check_sums(const AttentionTerms<T>& terms, const Rows& rows, const char* kernel) {
  require(rows.rows() == terms.graph.atoms() && rows.shape[1] == 4 * terms.channels(), kernel,
          "sums must have a row an atom and four times the columns of query");
  require_one_device(kernel, terms.query, rows);
}

}  // namespace

template <class T>
void vector_attention(const AttentionTerms<T>& terms, View<T> result, int threads, void* stream) {
  check(terms, "vector_attention");
  check_sums(terms, result, "vector_attention");
  SCREENING_CALL_TWIN(terms.query, vector_attention, terms, result);
}

template <class T>
void vector_attention_backward(const AttentionTerms<T>& terms, View<const T> grad, const AttentionTermsOf<T>& out,
                               int threads, void* stream) {
  check(terms, "vector_attention_backward");
  check_sums(terms, grad, "vector_attention_backward");
  check(terms, out, false, "vector_attention_backward");
  SCREENING_CALL_TWIN(terms.query, vector_attention_backward, terms, grad, out);
}

template <class T>
void vector_attention_curve(const AttentionTerms<T>& terms, View<const T> grad,
                            const AttentionTermsOf<const T>& direction, View<T> out_grad,
                            const AttentionTermsOf<T>& out, int threads, void* stream) {
  check(terms, "vector_attention_curve");
  check_sums(terms, grad, "vector_attention_curve");
  check_sums(terms, out_grad, "vector_attention_curve");
  check(terms, direction, true, "vector_attention_curve");
  check(terms, out, false, "vector_attention_curve");
  SCREENING_CALL_TWIN(terms.query, vector_attention_curve, terms, grad, direction, out_grad, out);
}

#define SCREENING_FRONTS(T)                                                                                            \
  template void vector_attention<T>(const AttentionTerms<T>&, View<T>, int, void*);                                    \
  template void vector_attention_backward<T>(const AttentionTerms<T>&, View<const T>, const AttentionTermsOf<T>&, int, \
                                             void*);                                                                   \
  template void vector_attention_curve<T>(const AttentionTerms<T>&, View<const T>, const AttentionTermsOf<const T>&,   \
                                          View<T>, const AttentionTermsOf<T>&, int, void*);
SCREENING_FRONTS(float)
SCREENING_FRONTS(double)
#undef SCREENING_FRONTS

}  // namespace screening
