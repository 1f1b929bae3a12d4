// The cuda:: twins of a build without a CUDA compiler: they say how to get them.
#include <stdexcept>

#include "kernels.hpp"

namespace screening::cuda {
namespace {

[[noreturn]] void absent() {
  throw std::runtime_error(
      "this build has no CUDA kernels: put nvcc on PATH and rebuild with `pip install . -C "
      "cmake.define.SCREENING_CUDA=ON`,"
      " or pass arrays on the CPU");
}

}  // namespace

void neighbor_count(const CrystalBatch&, const NeighborRule&, const NeighborRows&, void*) { absent(); }
void neighbor_fill(const CrystalBatch&, double, const NeighborEdges&, void*) { absent(); }
template <class T>
void edge_conv(const EdgeTerms<T>&, View<const T>, View<T>, void*) {
  absent();
}
template <class T>
void edge_conv_backward(const EdgeTerms<T>&, View<const T>, View<const T>, const EdgeTermsOf<T>&, void*) {
  absent();
}
template <class T>
void edge_conv_curve(const EdgeTerms<T>&, View<const T>, View<const T>, const EdgeTermsOf<const T>&, View<T>,
                     const EdgeTermsOf<T>&, void*) {
  absent();
}
template <class T>
void edge_moments(const EdgeTerms<T>&, View<T>, View<T>, void*) {
  absent();
}
template <class T>
void edge_moments_backward(const EdgeTerms<T>&, View<const T>, View<const T>, View<const T>, const EdgeTermsOf<T>&,
                           void*) {
  absent();
}
template <class T>
void segment_sum(View<const T>, View<const std::int32_t>, View<T>, void*) {
  absent();
}
template <class T>
void row_softmax(View<const T>, View<const std::int32_t>, View<T>, void*) {
  absent();
}
template <class T>
void row_softmax_backward(View<const T>, View<const std::int32_t>, View<const T>, View<T>, void*) {
  absent();
}
template <class T>
void row_softmax_curve(View<const T>, View<const std::int32_t>, View<const T>, View<const T>, View<T>, View<T>, void*) {
  absent();
}
void line_graph(const EdgeTopology&, View<const std::int32_t>, View<std::int32_t>, void*) { absent(); }
template <class T>
void gated_mean(const GateTerms<T>&, View<T>, View<T>, void*) {
  absent();
}
template <class T>
void gated_mean_backward(const GateTerms<T>&, View<const T>, View<const T>, const GateTermsOf<T>&, void*) {
  absent();
}
template <class T>
void gated_mean_curve(const GateTerms<T>&, View<const T>, const GateTermsOf<const T>&, View<T>, const GateTermsOf<T>&,
                      void*) {
  absent();
}
template <class T>
void head_scores(const HeadTerms<T>&, View<const T>, View<const T>, View<T>, void*) {
  absent();
}
template <class T>
void head_scores_backward(const HeadTerms<T>&, View<const T>, View<const T>, View<const T>, View<T>, View<T>, View<T>,
                          View<T>, void*) {
  absent();
}
template <class T>
void head_sum(const HeadTerms<T>&, View<const T>, View<T>, void*) {
  absent();
}
template <class T>
void head_sum_backward(const HeadTerms<T>&, View<const T>, View<const T>, View<T>, View<T>, View<T>, void*) {
  absent();
}
template <class T>
void vector_attention(const AttentionTerms<T>&, View<T>, void*) {
  absent();
}
template <class T>
void vector_attention_backward(const AttentionTerms<T>&, View<const T>, const AttentionTermsOf<T>&, void*) {
  absent();
}
template <class T>
void vector_attention_curve(const AttentionTerms<T>&, View<const T>, const AttentionTermsOf<const T>&, View<T>,
                            const AttentionTermsOf<T>&, void*) {
  absent();
}

#define SCREENING_FOR(T)                                                                                             \
  template void edge_conv<T>(const EdgeTerms<T>&, View<const T>, View<T>, void*);                                    \
  template void edge_conv_backward<T>(const EdgeTerms<T>&, View<const T>, View<const T>, const EdgeTermsOf<T>&,      \
                                      void*);                                                                        \
  template void edge_conv_curve<T>(const EdgeTerms<T>&, View<const T>, View<const T>, const EdgeTermsOf<const T>&,   \
                                   View<T>, const EdgeTermsOf<T>&, void*);                                           \
  template void edge_moments<T>(const EdgeTerms<T>&, View<T>, View<T>, void*);                                       \
  template void edge_moments_backward<T>(const EdgeTerms<T>&, View<const T>, View<const T>, View<const T>,           \
                                         const EdgeTermsOf<T>&, void*);                                              \
  template void segment_sum<T>(View<const T>, View<const std::int32_t>, View<T>, void*);                             \
  template void row_softmax<T>(View<const T>, View<const std::int32_t>, View<T>, void*);                             \
  template void row_softmax_backward<T>(View<const T>, View<const std::int32_t>, View<const T>, View<T>, void*);     \
  template void row_softmax_curve<T>(View<const T>, View<const std::int32_t>, View<const T>, View<const T>, View<T>, \
                                     View<T>, void*);                                                                \
  template void gated_mean<T>(const GateTerms<T>&, View<T>, View<T>, void*);                                         \
  template void gated_mean_backward<T>(const GateTerms<T>&, View<const T>, View<const T>, const GateTermsOf<T>&,     \
                                       void*);                                                                       \
  template void gated_mean_curve<T>(const GateTerms<T>&, View<const T>, const GateTermsOf<const T>&, View<T>,        \
                                    const GateTermsOf<T>&, void*);                                                   \
  template void head_scores<T>(const HeadTerms<T>&, View<const T>, View<const T>, View<T>, void*);                   \
  template void head_scores_backward<T>(const HeadTerms<T>&, View<const T>, View<const T>, View<const T>, View<T>,   \
                                        View<T>, View<T>, View<T>, void*);                                           \
  template void head_sum<T>(const HeadTerms<T>&, View<const T>, View<T>, void*);                                     \
  template void head_sum_backward<T>(const HeadTerms<T>&, View<const T>, View<const T>, View<T>, View<T>, View<T>,   \
                                     void*);                                                                         \
  template void vector_attention<T>(const AttentionTerms<T>&, View<T>, void*);                                       \
  template void vector_attention_backward<T>(const AttentionTerms<T>&, View<const T>, const AttentionTermsOf<T>&,    \
                                             void*);                                                                 \
  template void vector_attention_curve<T>(const AttentionTerms<T>&, View<const T>, const AttentionTermsOf<const T>&, \
                                          View<T>, const AttentionTermsOf<T>&, void*);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

int device_count() { return 0; }

}  // namespace screening::cuda
