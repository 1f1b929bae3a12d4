// The fronts of what exists on the CPU alone: see dispatch.cpp.
#include "steady.hpp"
#include "twins.hpp"

namespace screening {
namespace {

template <class T, class... Others>
void check_rows(const char* kernel, const View<T>& rows, const Others&... others) {
  require_on_cpu(kernel, rows, others...);
  require(((others.shape == rows.shape) && ...), kernel, "all arrays of rows must have one shape");
}

template <class... Values>
void check_columns(const char* kernel, std::int64_t columns, const Values&... values) {
  require_on_cpu(kernel, values...);
  require(((values.rows() == columns) && ...), kernel, "what belongs to columns must have a value a column");
}

template <class T, class U>
void check_sums(const char* kernel, const View<const T>& rows, const View<U>& sums) {
  require_on_cpu(kernel, sums);
  require(sums.rows() == 2 && sums.shape[1] == rows.shape[1], kernel, "there are two sums a column");
}

// That there is a length for each degree, all of whose sums are there.
template <class T, class... Lengths>
void check_lengths(const char* kernel, const View<const T>& sums, const Lengths&... lengths) {
  require_on_cpu(kernel, sums, lengths...);
  require(((lengths.rows() == sums.rows() && lengths.shape[1] * lengths.shape[1] == sums.shape[1] &&
            lengths.shape[2] == sums.shape[2]) &&
           ...),
          kernel, "there must be (degree + 1)^2 sums of an atom, and degree + 1 lengths");
}

template <class T, class U>
void check_windows(const char* kernel, const View<const T>& weight, const View<const std::int32_t>& first,
                   const View<U>& table, std::int64_t places, std::int64_t columns) {
  require_on_cpu(kernel, weight, first, table);
  require(weight.shape[1] >= 1 && weight.shape[1] <= table.rows() && weight.rows() == first.rows() &&
              places == first.rows() && columns == table.shape[1],
          kernel, "weight and first must have a row a place, no more columns than the table has rows");
  bool within = true;
  for (std::int64_t e = 0; e < first.rows(); ++e) {
    within = within && first[e] >= 0 && first[e] + weight.shape[1] <= table.rows();
  }
  require(within, kernel, "first must leave room for the columns of weight within the table");
}

}  // namespace

#define SCREENING_CALL_LEVEL(name, ...)                 \
  do {                                                  \
    switch (current_level().load()->kind) {             \
      SCREENING_WIDE_LEVELS(name(__VA_ARGS__, threads)) \
      default:                                          \
        return baseline::name(__VA_ARGS__, threads);    \
    }                                                   \
  } while (false)

template <class T>
void linear_weight(View<const T> rows, View<const T> grad, View<T> weight, View<T> bias, int threads) {
  require_on_cpu("linear_weight", rows, grad, weight, bias);
  require(grad.rows() == rows.rows() && weight.rows() == grad.shape[1] && weight.shape[1] == rows.shape[1] &&
              bias.rows() == grad.shape[1],
          "linear_weight", "weight must have a row a column of grad, and the columns of rows");
  SCREENING_CALL_LEVEL(linear_weight, rows, grad, weight, bias);
}

template <class T>
void silu(View<const T> values, View<T> result, int threads) {
  check_rows("silu", values, result);
  SCREENING_CALL_LEVEL(silu, values, result);
}

template <class T>
void silu_backward(View<const T> values, View<const T> grad, View<T> result, int threads) {
  check_rows("silu_backward", values, grad, result);
  SCREENING_CALL_LEVEL(silu_backward, values, grad, result);
}

template <class T>
void silu_second(View<const T> values, View<const T> grad, View<const T> direction, View<T> of_values, View<T> of_grad,
                 int threads) {
  check_rows("silu_second", values, grad, direction, of_values, of_grad);
  SCREENING_CALL_LEVEL(silu_second, values, grad, direction, of_values, of_grad);
}

template <class T>
void sum_lengths(View<const T> sums, T softening, View<T> result, int threads) {
  check_lengths("sum_lengths", sums, result);
  SCREENING_CALL_LEVEL(sum_lengths, sums, softening, result);
}

template <class T>
void sum_lengths_backward(View<const T> sums, View<const T> lengths, View<const T> grad, View<T> of_sums, int threads) {
  check_rows("sum_lengths_backward", sums, of_sums);
  check_lengths("sum_lengths_backward", sums, lengths, grad);
  SCREENING_CALL_LEVEL(sum_lengths_backward, sums, lengths, grad, of_sums);
}

template <class T>
void sum_lengths_second(View<const T> sums, View<const T> lengths, View<const T> grad, View<const T> direction,
                        View<T> of_sums, View<T> of_grad, int threads) {
  check_rows("sum_lengths_second", sums, direction, of_sums);
  check_lengths("sum_lengths_second", sums, lengths, grad, of_grad);
  SCREENING_CALL_LEVEL(sum_lengths_second, sums, lengths, grad, direction, of_sums, of_grad);
}

template <class T>
void column_moments(View<const T> rows, View<T> mean, View<T> variance, int threads) {
  check_rows("column_moments", rows);
  check_columns("column_moments", rows.shape[1], mean, variance);
  SCREENING_CALL_LEVEL(column_moments, rows, mean, variance);
}

template <class T>
void normal_silu(View<const T> rows, View<const T> factor, View<const T> shift, View<const T> onto, View<T> result,
                 int threads) {
  check_rows("normal_silu", rows, result);
  require_on_cpu("normal_silu", onto);
  require(onto.rows() == 0 || onto.shape == rows.shape, "normal_silu", "all arrays of rows must have one shape");
  check_columns("normal_silu", rows.shape[1], factor, shift);
  SCREENING_CALL_LEVEL(normal_silu, rows, factor, shift, onto, result);
}

template <class T>
void normal_silu_sums(View<const T> rows, View<const T> grad, View<const T> factor, View<const T> shift,
                      View<const T> mean, View<T> sums, int threads) {
  check_rows("normal_silu_sums", rows, grad);
  check_columns("normal_silu_sums", rows.shape[1], factor, shift, mean);
  check_sums("normal_silu_sums", rows, sums);
  SCREENING_CALL_LEVEL(normal_silu_sums, rows, grad, factor, shift, mean, sums);
}

template <class T>
void normal_silu_backward(View<const T> rows, View<const T> grad, View<const T> factor, View<const T> shift,
                          View<const T> mean, View<const T> offset, View<const T> slope, View<T> result, int threads) {
  check_rows("normal_silu_backward", rows, grad, result);
  check_columns("normal_silu_backward", rows.shape[1], factor, shift, mean, offset, slope);
  SCREENING_CALL_LEVEL(normal_silu_backward, rows, grad, factor, shift, mean, offset, slope, result);
}

template <class T>
void normal_silu_second(View<const T> rows, View<const T> grad, View<const T> factor, View<const T> shift,
                        View<const T> mean, View<const T> direction, View<const T> scaled, View<const T> shifted,
                        View<T> of_rows, View<T> of_grad, View<T> sums, int threads) {
  check_rows("normal_silu_second", rows, grad, direction, of_rows, of_grad);
  check_columns("normal_silu_second", rows.shape[1], factor, shift, mean, scaled, shifted);
  check_sums("normal_silu_second", rows, sums);
  SCREENING_CALL_LEVEL(normal_silu_second, rows, grad, factor, shift, mean, direction, scaled, shifted, of_rows,
                       of_grad, sums);
}

template <class T>
void window_rows(View<const T> weight, View<const std::int32_t> first, View<const T> table, View<T> result,
                 int threads) {
  require_on_cpu("window_rows", result);
  check_windows("window_rows", weight, first, table, result.rows(), result.shape[1]);
  SCREENING_CALL_LEVEL(window_rows, weight, first, table, result);
}

template <class T>
void window_rows_backward(View<const T> weight, View<const std::int32_t> first, View<const T> grad, View<T> of_table,
                          int threads) {
  require_on_cpu("window_rows_backward", grad);
  check_windows("window_rows_backward", weight, first, of_table, grad.rows(), grad.shape[1]);
  SCREENING_CALL_LEVEL(window_rows_backward, weight, first, grad, of_table);
}

#define SCREENING_FRONTS(T)    \
  SCREENING_STEADY_PRODUCTS(T) \
  SCREENING_STEADY_SILU(T)     \
  SCREENING_STEADY_LENGTHS(T)  \
  SCREENING_STEADY_NORMAL(T)   \
  SCREENING_STEADY_WINDOWS(T)
SCREENING_FRONTS(float)
SCREENING_FRONTS(double)
#undef SCREENING_FRONTS

}  // namespace screening
