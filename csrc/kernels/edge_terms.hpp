// What the message kernels share on the CPU: the pre-activation of an edge, and who owns which crystals.
//
//   a_e = centre[i] + source[j] + sum over m < span of weight[e, m] * table[first[e] + m]
//
// Columns [0, C) are the gate's, [C, 2C) the core's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels.hpp"
#include "runtime/pack.hpp"

namespace screening::SCREENING_LEVEL {

// Calls body(std::integral_constant<int, span>): 4 for cubic splines and 8 for Gaussians are unrolled, 0 is any other.
template <class Body>
void with_span(std::int64_t span, const Body& body) {
  switch (span) {
    case 4:
      return body(std::integral_constant<int, 4>());
    case 8:
      return body(std::integral_constant<int, 8>());
    default:
      return body(std::integral_constant<int, 0>());
  }
}

// Calls body(V{}, column) for packs of columns, then for what is left one by one.
template <class T, class Body>
void for_each_pack(std::int64_t columns, const Body& body) {
  constexpr int kWidth = kPackWidth<T>;
  std::int64_t column = 0;
  for (; column + kWidth <= columns; column += kWidth) {
    body(Pack<T, kWidth>{}, column);
  }
  for (; column < columns; ++column) {
    body(Pack<T, 1>{}, column);
  }
}

template <class T>
T* row_of(const View<T>& view, std::int64_t row) {
  return view.data + row * view.shape[1];
}

template <class V>
void add_pack(ValueOf<V>* to, V pack) {
  store_pack(to, load_pack<V>(to) + pack);
}

// The distance term of one edge.
template <class T, int Span>
class RadialTerm {
 public:
  RadialTerm(const EdgeTerms<T>& terms, std::int64_t edge)
      : span_(terms.span()), stride_(2 * terms.channels()), weight_(terms.weight.data + edge * terms.span()) {
    for (int m = 0; m < Span; ++m) {
      wide_[m] = spread_pack<Wide>(weight_[m]);
    }
  }

  // base + sum of weight * table, at a column; the first table row of the edge starts at `rows`.
  template <class V>
  V add_to(V base, const T* rows, std::int64_t column) const {
    if constexpr (Span != 0 && std::is_same_v<V, Wide>) {
      for (int m = 0; m < Span; ++m) {
        base += wide_[m] * load_pack<V>(rows + m * stride_ + column);
      }
    } else {
      for (std::int64_t m = 0; m < span_; ++m) {
        base += weight_[m] * load_pack<V>(rows + m * stride_ + column);
      }
    }
    return base;
  }

 private:
  using Wide = Pack<T, kPackWidth<T>>;
  std::int64_t span_, stride_;
  const T* weight_;
  Wide wide_[Span != 0 ? Span : 1];
};

// The pre-activation of one edge, evaluated a pack of columns at a time.
template <class T, int Span>
class Preactivation {
 public:
  Preactivation(const EdgeTerms<T>& terms, std::int64_t edge, const T* centre)
      : radial_(terms, edge),
        centre_(centre),
        source_(row_of(terms.source, terms.graph.edge_source[edge])),
        rows_(row_of(terms.table, terms.first[edge])) {}

  const T* rows() const { return rows_; }

  template <class V>
  V at(std::int64_t column) const {
    return radial_.template add_to<V>(load_pack<V>(centre_ + column) + load_pack<V>(source_ + column), rows_, column);
  }

 private:
  RadialTerm<T, Span> radial_;
  const T *centre_, *source_, *rows_;
};

// Crystals in parts of about equally many edges. Their number does not depend on the threads, so neither do sums over
// parts; edges do not leave their crystal, so a part owns all it adds to.
inline std::vector<std::int64_t> crystal_parts(const EdgeTopology& graph) {
  constexpr std::int64_t kParts = 16;
  const std::int64_t crystals = graph.crystals(), edges = graph.edges();
  std::vector<std::int64_t> ends{0};
  for (std::int64_t c = 0; c < crystals; ++c) {
    const std::int64_t done = graph.edge_offsets[graph.atom_offsets[c + 1]];
    const auto part = static_cast<std::int64_t>(ends.size());
    if (c + 1 == crystals || (part < kParts && done * kParts >= edges * part && done > 0)) {
      ends.push_back(c + 1);
    }
  }
  return ends;
}

// Adds rows of (edges, 2C) into the table's gradient: table[first[e] + m] += weight[e, m] * rows[e]. Edges are taken in
// order of their first row, so that sums over edges with the same rows stay in registers and the table is stored once
// a row, not once an edge.
template <class T>
class TableSums {
 public:
  TableSums(std::int64_t table_rows, std::int64_t span, std::int64_t columns)
      : span_(span), columns_(columns), starts_(static_cast<std::size_t>(table_rows) + 1) {}

  // `first` and `weight` belong to `edges` consecutive edges, as `rows` does.
  void add(const T* rows, const std::int32_t* first, const T* weight, std::int64_t edges, T* table) {
    sort(first, edges);
    with_span(span_, [&](auto unrolled) {
      constexpr int kSpan = decltype(unrolled)::value;
      for_each_pack<T>(columns_, [&](auto pack, std::int64_t column) {
        if constexpr (kSpan != 0) {
          add_sorted<decltype(pack), kSpan>(rows, first, weight, edges, column, table);
        } else {
          add_plain<decltype(pack)>(rows, first, weight, edges, column, table);
        }
      });
    });
  }

 private:
  void sort(const std::int32_t* first, std::int64_t edges) {
    std::fill(starts_.begin(), starts_.end(), 0);
    order_.resize(static_cast<std::size_t>(edges));
    for (std::int64_t e = 0; e < edges; ++e) {
      ++starts_[static_cast<std::size_t>(first[e]) + 1];
    }
    for (std::size_t row = 1; row < starts_.size(); ++row) {
      starts_[row] += starts_[row - 1];
    }
    for (std::int64_t e = 0; e < edges; ++e) {
      order_[static_cast<std::size_t>(starts_[static_cast<std::size_t>(first[e])]++)] = static_cast<std::int32_t>(e);
    }
  }

  template <class V, int Span>
  void add_sorted(const T* rows, const std::int32_t* first, const T* weight, std::int64_t edges, std::int64_t column,
                  T* table) const {
    for (std::int64_t k = 0; k < edges;) {
      const std::int32_t row = first[order_[static_cast<std::size_t>(k)]];
      V sums[Span] = {};
      for (; k < edges && first[order_[static_cast<std::size_t>(k)]] == row; ++k) {
        const std::int64_t e = order_[static_cast<std::size_t>(k)];
        const V value = load_pack<V>(rows + e * columns_ + column);
        for (int m = 0; m < Span; ++m) {
          sums[m] += weight[e * Span + m] * value;
        }
      }
      for (int m = 0; m < Span; ++m) {
        T* to = table + (row + m) * columns_ + column;
        store_pack(to, load_pack<V>(to) + sums[m]);
      }
    }
  }

  template <class V>
  void add_plain(const T* rows, const std::int32_t* first, const T* weight, std::int64_t edges, std::int64_t column,
                 T* table) const {
    for (std::int64_t k = 0; k < edges; ++k) {
      const std::int64_t e = order_[static_cast<std::size_t>(k)];
      const V value = load_pack<V>(rows + e * columns_ + column);
      for (std::int64_t m = 0; m < span_; ++m) {
        T* to = table + (first[e] + m) * columns_ + column;
        store_pack(to, load_pack<V>(to) + weight[e * span_ + m] * value);
      }
    }
  }

  std::int64_t span_, columns_;
  std::vector<std::int32_t> starts_, order_;
};

}  // namespace screening::SCREENING_LEVEL
