// The CUDA twin of attention with vectors, as message_on_host.cpp has those of messages.
#include "kernels.hpp"
#include "kernels/vector_attention.cu"

namespace screening {

template <class T>
void vector_attention(const AttentionTerms<T>& terms, View<T> result, int, void* stream) {
  cuda::vector_attention<T>(terms, result, stream);
}
template <class T>
void vector_attention_backward(const AttentionTerms<T>& terms, View<const T> grad, const AttentionTermsOf<T>& out, int,
                               void* stream) {
  cuda::vector_attention_backward<T>(terms, grad, out, stream);
}
template <class T>
void vector_attention_curve(const AttentionTerms<T>& terms, View<const T> grad,
                            const AttentionTermsOf<const T>& direction, View<T> out_grad,
                            const AttentionTermsOf<T>& out, int, void* stream) {
  cuda::vector_attention_curve<T>(terms, grad, direction, out_grad, out, stream);
}
#define SCREENING_FOR(T)                                                                                               \
  template void vector_attention<T>(const AttentionTerms<T>&, View<T>, int, void*);                                    \
  template void vector_attention_backward<T>(const AttentionTerms<T>&, View<const T>, const AttentionTermsOf<T>&, int, \
                                             void*);                                                                   \
  template void vector_attention_curve<T>(const AttentionTerms<T>&, View<const T>, const AttentionTermsOf<const T>&,   \
                                          View<T>, const AttentionTermsOf<T>&, int, void*);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening
