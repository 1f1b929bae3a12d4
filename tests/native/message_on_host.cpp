// The CUDA twins of the message kernels behind the fronts of the native module, so that its bindings and the operators
// above them run on the twins. Arguments are not checked here: the twins may assume that they are.
#include "kernels.hpp"
#include "kernels/edge_conv.cu"
#include "kernels/edge_moments.cu"
#include "kernels/segment_sum.cu"

namespace screening {

template <class T>
void edge_conv(const EdgeTerms<T>& terms, View<const T> scale, View<T> result, int, void* stream) {
  cuda::edge_conv<T>(terms, scale, result, stream);
}
template <class T>
void edge_conv_backward(const EdgeTerms<T>& terms, View<const T> scale, View<const T> grad, const EdgeTermsOf<T>& out,
                        int, void* stream) {
  cuda::edge_conv_backward<T>(terms, scale, grad, out, stream);
}
template <class T>
void edge_conv_curve(const EdgeTerms<T>& terms, View<const T> scale, View<const T> grad,
                     const EdgeTermsOf<const T>& direction, View<T> out_grad, const EdgeTermsOf<T>& out, int,
                     void* stream) {
  cuda::edge_conv_curve<T>(terms, scale, grad, direction, out_grad, out, stream);
}
template <class T>
void edge_moments(const EdgeTerms<T>& terms, View<T> mean, View<T> variance, int, void* stream) {
  cuda::edge_moments<T>(terms, mean, variance, stream);
}
template <class T>
void edge_moments_backward(const EdgeTerms<T>& terms, View<const T> mean, View<const T> grad_mean,
                           View<const T> grad_variance, const EdgeTermsOf<T>& out, int, void* stream) {
  cuda::edge_moments_backward<T>(terms, mean, grad_mean, grad_variance, out, stream);
}
template <class T>
void segment_sum(View<const T> rows, View<const std::int32_t> offsets, View<T> result, int, void* stream) {
  cuda::segment_sum<T>(rows, offsets, result, stream);
}
#define SCREENING_FOR(T)                                                                                             \
  template void edge_conv<T>(const EdgeTerms<T>&, View<const T>, View<T>, int, void*);                               \
  template void edge_conv_backward<T>(const EdgeTerms<T>&, View<const T>, View<const T>, const EdgeTermsOf<T>&, int, \
                                      void*);                                                                        \
  template void edge_conv_curve<T>(const EdgeTerms<T>&, View<const T>, View<const T>, const EdgeTermsOf<const T>&,   \
                                   View<T>, const EdgeTermsOf<T>&, int, void*);                                      \
  template void edge_moments<T>(const EdgeTerms<T>&, View<T>, View<T>, int, void*);                                  \
  template void edge_moments_backward<T>(const EdgeTerms<T>&, View<const T>, View<const T>, View<const T>,           \
                                         const EdgeTermsOf<T>&, int, void*);                                         \
  template void segment_sum<T>(View<const T>, View<const std::int32_t>, View<T>, int, void*);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening
