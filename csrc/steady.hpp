// Products, functions, normalisation and tables of rows whose bits depend on no thread, on the CPU alone: on a GPU they
// are torch's. Fronts check their arguments and pick the level, as those of kernels.hpp, where `linear` and single
// functions stand.
#pragma once

#include <cstdint>

#include "runtime/view.hpp"

// linear_weight: what linear's derivative gives of its matrix and bias, weight[c] = sum over rows r of grad[r, c]
// rows[r], (columns, inner), and bias[c] = sum of grad[r, c].
//
// silu: x sigmoid(x) of each value. silu_backward: grad silu'(x). silu_second: the derivatives of sum(direction grad
// silu'(x)) with respect to x and grad.
//
// sum_lengths: of sums (atoms, (degree + 1)^2, width), those of degree 0 and the lengths of those of each other degree,
// sqrt(softening + squares), (atoms, degree + 1, width). sum_lengths_backward: derivative of sum(grad * lengths), given
// the lengths. sum_lengths_second: those of sum(direction * that) with respect to the sums and grad.
//
// column_moments: mean and biased variance of each column, by blocks of rows and then over these; zeros without rows.
//
// normal_silu: result = onto + silu(row * factor + shift), with a factor and a shift a column; `onto` may have no rows:
// zero. With d = grad silu'(row * factor + shift), normal_silu_sums gives sums (2, columns) of d and of d (row - mean),
// and normal_silu_backward gives factor d + offset + slope (row - mean). normal_silu_second, where no moment is of
// these rows: derivatives of the sum of d q with respect to rows and grad, where q = factor direction + scaled (row -
// mean) + shifted is how row * factor + shift changes; and sums (2, columns), of grad silu''(..) q and of that times
// (row - mean) plus d direction / grad.
//
// window_rows: result[e] = sum over m < span of weight[e, m] table[first[e] + m]. window_rows_backward: derivative of
// sum(grad * result) with respect to the table.
#define SCREENING_STEADY_FRONTS                                                                                       \
  template <class T>                                                                                                  \
  void linear_weight(View<const T> rows, View<const T> grad, View<T> weight, View<T> bias, int threads);              \
  template <class T>                                                                                                  \
  void silu(View<const T> values, View<T> result, int threads);                                                       \
  template <class T>                                                                                                  \
  void silu_backward(View<const T> values, View<const T> grad, View<T> result, int threads);                          \
  template <class T>                                                                                                  \
  void silu_second(View<const T> values, View<const T> grad, View<const T> direction, View<T> of_values,              \
                   View<T> of_grad, int threads);                                                                     \
  template <class T>                                                                                                  \
  void sum_lengths(View<const T> sums, T softening, View<T> result, int threads);                                     \
  template <class T>                                                                                                  \
  void sum_lengths_backward(View<const T> sums, View<const T> lengths, View<const T> grad, View<T> of_sums,           \
                            int threads);                                                                             \
  template <class T>                                                                                                  \
  void sum_lengths_second(View<const T> sums, View<const T> lengths, View<const T> grad, View<const T> direction,     \
                          View<T> of_sums, View<T> of_grad, int threads);                                             \
  template <class T>                                                                                                  \
  void column_moments(View<const T> rows, View<T> mean, View<T> variance, int threads);                               \
  template <class T>                                                                                                  \
  void normal_silu(View<const T> rows, View<const T> factor, View<const T> shift, View<const T> onto, View<T> result, \
                   int threads);                                                                                      \
  template <class T>                                                                                                  \
  void normal_silu_sums(View<const T> rows, View<const T> grad, View<const T> factor, View<const T> shift,            \
                        View<const T> mean, View<T> sums, int threads);                                               \
  template <class T>                                                                                                  \
  void normal_silu_backward(View<const T> rows, View<const T> grad, View<const T> factor, View<const T> shift,        \
                            View<const T> mean, View<const T> offset, View<const T> slope, View<T> result,            \
                            int threads);                                                                             \
  template <class T>                                                                                                  \
  void normal_silu_second(View<const T> rows, View<const T> grad, View<const T> factor, View<const T> shift,          \
                          View<const T> mean, View<const T> direction, View<const T> scaled, View<const T> shifted,   \
                          View<T> of_rows, View<T> of_grad, View<T> sums, int threads);                               \
  template <class T>                                                                                                  \
  void window_rows(View<const T> weight, View<const std::int32_t> first, View<const T> table, View<T> result,         \
                   int threads);                                                                                      \
  template <class T>                                                                                                  \
  void window_rows_backward(View<const T> weight, View<const std::int32_t> first, View<const T> grad,                 \
                            View<T> of_table, int threads);

namespace screening {
SCREENING_STEADY_FRONTS
namespace baseline {
SCREENING_STEADY_FRONTS
}
namespace avx2 {
SCREENING_STEADY_FRONTS
}
namespace avx512 {
SCREENING_STEADY_FRONTS
}
}  // namespace screening

// Instances of all of them for a type.
#define SCREENING_STEADY_PRODUCTS(T) \
  template void linear_weight<T>(View<const T>, View<const T>, View<T>, View<T>, int);
#define SCREENING_STEADY_SILU(T)                                              \
  template void silu<T>(View<const T>, View<T>, int);                         \
  template void silu_backward<T>(View<const T>, View<const T>, View<T>, int); \
  template void silu_second<T>(View<const T>, View<const T>, View<const T>, View<T>, View<T>, int);
#define SCREENING_STEADY_LENGTHS(T)                                                                                 \
  template void sum_lengths<T>(View<const T>, T, View<T>, int);                                                     \
  template void sum_lengths_backward<T>(View<const T>, View<const T>, View<const T>, View<T>, int);                 \
  template void sum_lengths_second<T>(View<const T>, View<const T>, View<const T>, View<const T>, View<T>, View<T>, \
                                      int);
#define SCREENING_STEADY_NORMAL(T)                                                                                 \
  template void column_moments<T>(View<const T>, View<T>, View<T>, int);                                           \
  template void normal_silu<T>(View<const T>, View<const T>, View<const T>, View<const T>, View<T>, int);          \
  template void normal_silu_sums<T>(View<const T>, View<const T>, View<const T>, View<const T>, View<const T>,     \
                                    View<T>, int);                                                                 \
  template void normal_silu_backward<T>(View<const T>, View<const T>, View<const T>, View<const T>, View<const T>, \
                                        View<const T>, View<const T>, View<T>, int);                               \
  template void normal_silu_second<T>(View<const T>, View<const T>, View<const T>, View<const T>, View<const T>,   \
                                      View<const T>, View<const T>, View<const T>, View<T>, View<T>, View<T>, int);
#define SCREENING_STEADY_WINDOWS(T)                                                                   \
  template void window_rows<T>(View<const T>, View<const std::int32_t>, View<const T>, View<T>, int); \
  template void window_rows_backward<T>(View<const T>, View<const std::int32_t>, View<const T>, View<T>, int);
