// Where a row is cut at `max_neighbors`: at the end of the shell that holds the last neighbour, or inside it.
//
// A shell is a run of distances in which each follows the one before by at most a factor 1 + tolerance. Its ends
// depend on the distances alone, so neither the order of atoms nor rounding in a file moves the cut; only a gap that
// happens to equal the tolerance could.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "runtime/level.hpp"

namespace screening::SCREENING_LEVEL {

inline constexpr double kEndless = std::numeric_limits<double>::infinity();

struct RowCut {
  double below;  // squares below this are kept
  double upto;   // squares from `below` up to and including this are kept until `quota` of them are
  double quota;
  std::int32_t count;
};

// Every edge with a square up to `limit`.
SCREENING_HD RowCut keep_all(double limit, std::int32_t count) { return {limit, limit, kEndless, count}; }

// The end of the shell that starts at or before `square`, which must be one of the squares.
SCREENING_HD double shell_end(const double* squares, std::int32_t n, double square, double factor) {
  for (;;) {
    double next = kEndless;
    for (std::int32_t m = 0; m < n; ++m) {
      next = squares[m] > square && squares[m] < next ? squares[m] : next;
    }
    if (!(next <= square * factor)) {
      return square;
    }
    square = next;
  }
}

SCREENING_HD double shell_start(const double* squares, std::int32_t n, double square, double factor) {
  for (;;) {
    double last = -1;
    for (std::int32_t m = 0; m < n; ++m) {
      last = squares[m] < square && squares[m] > last ? squares[m] : last;
    }
    if (last < 0 || !(square <= last * factor)) {
      return square;
    }
    square = last;
  }
}

SCREENING_HD std::int32_t count_below(const double* squares, std::int32_t n, double bound) {
  std::int32_t count = 0;
  for (std::int32_t m = 0; m < n; ++m) {
    count += squares[m] < bound ? 1 : 0;
  }
  return count;
}

// The cut of a row with at least `max_neighbors` squares, of which `nth` is the max_neighbors-th smallest.
SCREENING_HD RowCut cut_row(const double* squares, std::int32_t n, double nth, std::int32_t max_neighbors,
                            bool whole_shells, double tolerance) {
  const double factor = (1 + tolerance) * (1 + tolerance);
  const double end = shell_end(squares, n, nth, factor);
  if (whole_shells) {
    return keep_all(end, count_below(squares, n, nextafter(end, 1e300)));
  }
  const double start = shell_start(squares, n, nth, factor);
  return {start, end, static_cast<double>(max_neighbors - count_below(squares, n, start)), max_neighbors};
}

// The same for squares in ascending order, of which there are at least `max_neighbors`: one walk from the last
// neighbour to either end of its shell.
SCREENING_HD RowCut cut_sorted_row(const double* squares, std::int32_t n, std::int32_t max_neighbors, bool whole_shells,
                                   double tolerance) {
  const double factor = (1 + tolerance) * (1 + tolerance);
  std::int32_t last = max_neighbors - 1, first = last;
  while (last + 1 < n && squares[last + 1] <= squares[last] * factor) {
    ++last;
  }
  if (whole_shells) {
    return keep_all(squares[last], last + 1);
  }
  while (first > 0 && squares[first] <= squares[first - 1] * factor) {
    --first;
  }
  return {squares[first], squares[last], static_cast<double>(max_neighbors - first), max_neighbors};
}

}  // namespace screening::SCREENING_LEVEL
