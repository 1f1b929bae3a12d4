// From the derivatives with respect to the pre-activation of each edge to those with respect to its terms, on the CPU:
// to the centre's row, the source's row, the table and the weights, without storing more than a block of edges.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/edge_terms.hpp"
#include "runtime/threads.hpp"

namespace screening::SCREENING_LEVEL {

inline constexpr std::int64_t kEdgeBlock = 256;  // edges that wait for the table: 128 KiB of floats at 64 channels

template <class T>
void add_row(T* to, const T* row, std::int64_t columns) {
  for_each_pack<T>(columns, [&](auto pack, std::int64_t c) {
    using V = decltype(pack);
    add_pack<V>(to + c, load_pack<V>(row + c));
  });
}

// Sums lanes of packs of either width.
template <class T>
struct LaneSum {
  Pack<T, kPackWidth<T>> wide{};
  Pack<T, 1> single{};

  template <class V>
  void add(V pack) {
    if constexpr (std::is_same_v<V, Pack<T, kPackWidth<T>>>) {
      wide += pack;
    } else {
      single += pack;
    }
  }
  T total() const { return sum_pack(wide) + single[0]; }
};

// to[k] = sums[k].total() for `Count` sums.
template <int Count, class T>
void store_totals(const LaneSum<T>* sums, T* to) {
  using V = Pack<T, kPackWidth<T>>;
  constexpr int kNow = std::min(Count, kPackWidth<T>);
  V packs[kNow];
  for (int k = 0; k < kNow; ++k) {
    packs[k] = sums[k].wide;
  }
  sum_lanes<kNow, kPackWidth<T>>(packs);
  for (int k = 0; k < kNow; ++k) {
    to[k] = packs[0][k] + sums[k].single[0];
  }
  if constexpr (Count > kNow) {
    store_totals<Count - kNow>(sums + kNow, to + kNow);
  }
}

template <class T>
T dot_rows(const T* left, const T* right, std::int64_t columns) {
  LaneSum<T> sum;
  for_each_pack<T>(columns, [&](auto pack, std::int64_t c) {
    using V = decltype(pack);
    sum.add(load_pack<V>(left + c) * load_pack<V>(right + c));
  });
  return sum.total();
}

// to[m] = row . rows[m] for `span` rows; Span is that number, or 0 where it is not known.
template <int Span, class T>
void dot_each(const T* row, const T* rows, std::int64_t span, std::int64_t columns, T* to) {
  if constexpr (Span == 0) {
    for (std::int64_t m = 0; m < span; ++m) {
      to[m] = dot_rows<T>(row, rows + m * columns, columns);
    }
  } else {
    LaneSum<T> sums[Span];
    for_each_pack<T>(columns, [&](auto pack, std::int64_t c) {
      using V = decltype(pack);
      const V value = load_pack<V>(row + c);
      for (int m = 0; m < Span; ++m) {
        sums[m].add(value * load_pack<V>(rows + m * columns + c));
      }
    });
    store_totals<Span>(sums, to);
  }
}

// A table for each part, and their sum in the order of the parts.
template <class T>
class PartTables {
 public:
  PartTables(std::size_t parts, std::int64_t rows, std::int64_t columns)
      : parts_(parts), size_(static_cast<std::size_t>(rows * columns)), all_(parts * size_) {}

  T* of(std::size_t part) { return all_.data() + part * size_; }

  void sum_into(T* table, int threads) const {
    constexpr std::size_t kBlock = 4096;
    for_each_task(static_cast<std::int64_t>((size_ + kBlock - 1) / kBlock), threads, [&](std::int64_t block, int) {
      const std::size_t begin = static_cast<std::size_t>(block) * kBlock, end = std::min(size_, begin + kBlock);
      std::fill(table + begin, table + end, T{});
      for (std::size_t part = 0; part < parts_; ++part) {
        const T* one = all_.data() + part * size_;
        for (std::size_t k = begin; k < end; ++k) {
          table[k] += one[k];
        }
      }
    });
  }

 private:
  std::size_t parts_, size_;
  std::vector<T> all_;
};

// What is added through other weights and rows than the terms' own; empty views add nothing.
template <class T>
struct SecondPath {
  View<const T> weight;  // (edges, span): table gradient += weight * second row
  View<const T> table;   // (rows, 2C): weight gradient += table . second row
};

// The derivatives of an edge with respect to its weights: its row, and what goes the second way, along the table.
template <class T>
void store_weights(const EdgeTerms<T>& terms, const View<const T>& second_table, std::int64_t e, const T* row,
                   const T* second, T* scratch, T* to) {
  const std::int64_t columns = 2 * terms.channels(), span = terms.span();
  with_span(span, [&](auto unrolled) {
    constexpr int kSpan = decltype(unrolled)::value;
    dot_each<kSpan>(row, row_of(terms.table, terms.first[e]), span, columns, to);
    if (second_table.rows() > 0) {
      dot_each<kSpan>(second, row_of(second_table, terms.first[e]), span, columns, scratch);
      for (std::int64_t m = 0; m < span; ++m) {
        to[m] += scratch[m];
      }
    }
  });
}

// Calls derive(i, j, e, row, second) for every edge e into i from j; it writes the (2C,) derivative with respect to the
// pre-activation to `row`, and to `second` (null without a second path) what goes that way.
template <class T, class Derive>
void scatter_edges(const EdgeTerms<T>& terms, const EdgeTermsOf<T>& out, const SecondPath<T>* path, int threads,
                   const Derive& derive) {
  const EdgeTopology& graph = terms.graph;
  const std::int64_t columns = 2 * terms.channels(), span = terms.span();
  const std::vector<std::int64_t> ends = crystal_parts(graph);
  PartTables<T> tables(ends.size() - 1, terms.table.rows(), columns);
  for_each_task(static_cast<std::int64_t>(ends.size()) - 1, threads, [&](std::int64_t part, int) {
    const std::int64_t first_atom = graph.atom_offsets[ends[static_cast<std::size_t>(part)]];
    const std::int64_t last_atom = graph.atom_offsets[ends[static_cast<std::size_t>(part) + 1]];
    std::fill(row_of(out.centre, first_atom), row_of(out.centre, last_atom), T{});
    std::fill(row_of(out.source, first_atom), row_of(out.source, last_atom), T{});
    TableSums<T> sums(terms.table.rows(), span, columns);
    std::vector<T> rows(static_cast<std::size_t>(kEdgeBlock * columns));
    std::vector<T> seconds(path != nullptr ? rows.size() : 0), turned(static_cast<std::size_t>(span));
    std::int64_t begin = graph.edge_offsets[first_atom];
    const auto flush = [&](std::int64_t end) {
      T* table = tables.of(static_cast<std::size_t>(part));
      sums.add(rows.data(), terms.first.data + begin, terms.weight.data + begin * span, end - begin, table);
      if (path != nullptr && path->weight.rows() > 0) {
        sums.add(seconds.data(), terms.first.data + begin, path->weight.data + begin * span, end - begin, table);
      }
      begin = end;
    };
    for (std::int64_t i = first_atom; i < last_atom; ++i) {
      for (std::int64_t e = graph.edge_offsets[i]; e < graph.edge_offsets[i + 1]; ++e) {
        if (e - begin == kEdgeBlock) {
          flush(e);
        }
        const std::int64_t j = graph.edge_source[e];
        T* row = rows.data() + (e - begin) * columns;
        T* second = path != nullptr ? seconds.data() + (e - begin) * columns : nullptr;
        derive(i, j, e, row, second);
        add_row(row_of(out.centre, i), row, columns);
        add_row(row_of(out.source, j), row, columns);
        if (out.weight.rows() > 0) {
          const View<const T> table = path != nullptr ? path->table : View<const T>{};
          store_weights(terms, table, e, row, second, turned.data(), row_of(out.weight, e));
        }
      }
    }
    flush(graph.edge_offsets[last_atom]);
  });
  tables.sum_into(out.table.data, threads);
}

}  // namespace screening::SCREENING_LEVEL
