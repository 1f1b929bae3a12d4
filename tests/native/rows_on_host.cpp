// The CUDA twins of the kernels that walk along rows, as message_on_host.cpp has those of messages.
#include "kernels.hpp"
#include "kernels/gated_mean.cu"
#include "kernels/head_attention.cu"
#include "kernels/line_graph.cu"
#include "kernels/row_softmax.cu"

namespace screening {

template <class T>
void row_softmax(View<const T> scores, View<const std::int32_t> offsets, View<T> result, int, void* stream) {
  cuda::row_softmax<T>(scores, offsets, result, stream);
}
template <class T>
void row_softmax_backward(View<const T> result, View<const std::int32_t> offsets, View<const T> grad, View<T> out, int,
                          void* stream) {
  cuda::row_softmax_backward<T>(result, offsets, grad, out, stream);
}
template <class T>
void row_softmax_curve(View<const T> result, View<const std::int32_t> offsets, View<const T> grad,
                       View<const T> direction, View<T> out_result, View<T> out_grad, int, void* stream) {
  cuda::row_softmax_curve<T>(result, offsets, grad, direction, out_result, out_grad, stream);
}
void line_graph(const EdgeTopology& graph, View<const std::int32_t> line_offsets, View<std::int32_t> line_source, int,
                void* stream) {
  cuda::line_graph(graph, line_offsets, line_source, stream);
}
template <class T>
void gated_mean(const GateTerms<T>& terms, View<T> result, View<T> gates, int, void* stream) {
  cuda::gated_mean<T>(terms, result, gates, stream);
}
template <class T>
void gated_mean_backward(const GateTerms<T>& terms, View<const T> grad, View<const T> of_gates,
                         const GateTermsOf<T>& out, int, void* stream) {
  cuda::gated_mean_backward<T>(terms, grad, of_gates, out, stream);
}
template <class T>
void gated_mean_curve(const GateTerms<T>& terms, View<const T> grad, const GateTermsOf<const T>& direction,
                      View<T> out_grad, const GateTermsOf<T>& out, int, void* stream) {
  cuda::gated_mean_curve<T>(terms, grad, direction, out_grad, out, stream);
}
template <class T>
void head_scores(const HeadTerms<T>& terms, View<const T> to_centre, View<const T> to_source, View<T> result, int,
                 void* stream) {
  cuda::head_scores<T>(terms, to_centre, to_source, result, stream);
}
template <class T>
void head_scores_backward(const HeadTerms<T>& terms, View<const T> to_centre, View<const T> to_source,
                          View<const T> grad, View<T> of_atom, View<T> of_edge, View<T> of_to_centre,
                          View<T> of_to_source, int, void* stream) {
  cuda::head_scores_backward<T>(terms, to_centre, to_source, grad, of_atom, of_edge, of_to_centre, of_to_source,
                                stream);
}
template <class T>
void head_sum(const HeadTerms<T>& terms, View<const T> weight, View<T> result, int, void* stream) {
  cuda::head_sum<T>(terms, weight, result, stream);
}
template <class T>
void head_sum_backward(const HeadTerms<T>& terms, View<const T> weight, View<const T> grad, View<T> of_atom,
                       View<T> of_edge, View<T> of_weight, int, void* stream) {
  cuda::head_sum_backward<T>(terms, weight, grad, of_atom, of_edge, of_weight, stream);
}
#define SCREENING_FOR(T)                                                                                              \
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
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening
