// Attention with vectors along rows of edges, CPU twin of vector_attention.cu; contract in kernels.hpp. Compiled once a
// SIMD level.
// Layout: all terms row-major, C channels; scratch of 4C filters a task (8C where they move) and, for derivatives, a
// block of edges.
// Ownership: forward, a task owns rows of atoms; derivatives, a task owns whole crystals and a table of its own.
// Determinism: sums run in edge order; parts are cut by the edges alone, and tables added in their order.
// Bound: arithmetic; with splines (span 4) some 30 multiply-adds an edge and channel, three times that for derivatives.

#include "math/vector_attention.hpp"

#include <type_traits>
#include <vector>

#include "kernels/edge_scatter.hpp"
#include "runtime/threads.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

constexpr std::int64_t kRowBlock = 64;

// A row of numbers, and of dual numbers: where its values lie, and where their changes.
template <class T>
struct Still {
  const T* at;

  template <class V>
  V load(std::int64_t c) const {
    return load_pack<V>(at + c);
  }
  T one(std::int64_t k) const { return at[k]; }
};
template <class T>
struct Moving {
  const T *at, *turn;

  template <class V>
  Dual<V> load(std::int64_t c) const {
    return {load_pack<V>(at + c), load_pack<V>(turn + c)};
  }
  Dual<T> one(std::int64_t k) const { return {at[k], turn[k]}; }
};

template <class Row, class V>
using NumberIn = decltype(std::declval<Row>().template load<V>(0));
template <class Row>
using SingleIn = decltype(std::declval<Row>().one(0));

// Rows of the terms, and of a direction where there is one.
template <class T>
struct StillTerms {
  using Row = Still<T>;
  const AttentionTerms<T>& terms;

  static Row row(const View<const T>& view, const View<const T>&, std::int64_t r) { return {row_of(view, r)}; }
  const AttentionTermsOf<const T>& direction() const {
    static const AttentionTermsOf<const T> none;
    return none;
  }
};
template <class T>
struct MovingTerms {
  using Row = Moving<T>;
  const AttentionTerms<T>& terms;
  const AttentionTermsOf<const T>& turned;

  static Row row(const View<const T>& view, const View<const T>& turn, std::int64_t r) {
    return {row_of(view, r), row_of(turn, r)};
  }
  const AttentionTermsOf<const T>& direction() const { return turned; }
};

// An edge from j into i, of which the filters are worked out once into scratch of 4C values, or 8C.
template <class T, class Terms, int Span>
class AttentionEdge {
 public:
  using Row = typename Terms::Row;
  using Single = SingleIn<Row>;

  AttentionEdge(const Terms& given, std::int64_t i, std::int64_t e, T* filters)
      : channels_(given.terms.channels()), filters_(rows_in(filters, 4 * channels_)) {
    const AttentionTerms<T>& terms = given.terms;
    const AttentionTermsOf<const T>& turn = given.direction();
    const std::int64_t j = terms.graph.edge_source[e];
    query_ = Terms::row(terms.query, turn.query, i);
    key_ = Terms::row(terms.key, turn.key, j);
    value_ = Terms::row(terms.value, turn.value, j);
    vectors_ = Terms::row(terms.vectors, turn.vectors, j);
    const Row scale = Terms::row(terms.scale, turn.scale, e);
    for (int k = 0; k < 4; ++k) {
      scale_[k] = scale.one(k);
    }
    work_out(Terms::row(terms.table, turn.table, terms.first[e]), Terms::row(terms.weight, turn.weight, e),
             terms.span(), filters);
  }

  template <class V>
  Heard<NumberIn<Row, V>> at(std::int64_t c) const {
    const std::int64_t n = channels_;
    return {query_.template load<V>(c),
            key_.template load<V>(c),
            {value_.template load<V>(c), value_.template load<V>(n + c), value_.template load<V>(2 * n + c)},
            {vectors_.template load<V>(c), vectors_.template load<V>(n + c), vectors_.template load<V>(2 * n + c)},
            {filters_.template load<V>(c), filters_.template load<V>(n + c), filters_.template load<V>(2 * n + c),
             filters_.template load<V>(3 * n + c)}};
  }
  const Single* scale() const { return scale_; }

 private:
  static Row rows_in(T* scratch, std::int64_t columns) {
    if constexpr (std::is_same_v<Row, Still<T>>) {
      return {scratch};
    } else {
      return {scratch, scratch + columns};
    }
  }

  void work_out(const Row& table, const Row& weight, std::int64_t given_span, T* filters) const {
    const std::int64_t columns = 4 * channels_, span = Span != 0 ? Span : given_span;
    for_each_pack<T>(columns, [&](auto pack, std::int64_t c) {
      using V = decltype(pack);
      NumberIn<Row, V> sum{};
      for (std::int64_t m = 0; m < span; ++m) {
        sum = sum + table.template load<V>(m * columns + c) * weight.one(m);
      }
      if constexpr (std::is_same_v<Row, Still<T>>) {
        store_pack<V>(filters + c, sum);
      } else {
        store_pack<V>(filters + c, sum.value);
        store_pack<V>(filters + columns + c, sum.turned);
      }
    });
  }

  std::int64_t channels_;
  Row query_, key_, value_, vectors_, filters_;
  Single scale_[4];
};

// The sum of numbers or dual ones over channels.
template <class T, class Single>
struct ChannelSum {
  LaneSum<T> value, turned;

  template <class V>
  void add(const Dual<V>& number) {
    value.add(number.value);
    turned.add(number.turned);
  }
  template <class V>
  void add(const V& number) {
    value.add(number);
  }
  Single total() const {
    if constexpr (std::is_same_v<Single, T>) {
      return value.total();
    } else {
      return {value.total(), turned.total()};
    }
  }
};

// silu takes packs.
template <class T>
Silu<T> silu_of_one(T a) {
  const Silu<Pack<T, 1>> found = silu_of(spread_pack<Pack<T, 1>>(a));
  return {found.value[0], found.slope[0]};
}
template <class T>
Silu<Dual<T>> silu_of_one(const Dual<T>& a) {
  using V = Pack<T, 1>;
  const Silu<Dual<V>> found = silu_of(Dual<V>{spread_pack<V>(a.value), spread_pack<V>(a.turned)});
  return {{found.value.value[0], found.value.turned[0]}, {found.slope.value[0], found.slope.turned[0]}};
}

// Calls body(V{}, channel) for packs of the channels of a head.
template <class T, class Body>
void for_each_in_head(std::int64_t head, std::int64_t width, const Body& body) {
  for_each_pack<T>(width, [&](auto pack, std::int64_t c) { body(pack, head * width + c); });
}

template <class T, class Edge>
typename Edge::Single score(const Edge& edge, std::int64_t head, std::int64_t width) {
  ChannelSum<T, typename Edge::Single> sum;
  for_each_in_head<T>(head, width,
                      [&](auto pack, std::int64_t c) { sum.add(score_of(edge.template at<decltype(pack)>(c))); });
  return sum.total();
}

template <class V, class T>
Message<V> message_in(const T* row, std::int64_t channels, std::int64_t c) {
  return {
      load_pack<V>(row + c),
      {load_pack<V>(row + channels + c), load_pack<V>(row + 2 * channels + c), load_pack<V>(row + 3 * channels + c)}};
}

// Adds what an edge and head send to the row of the centre, or how that changes.
template <class T, class Edge>
void send(const Edge& edge, const typename Edge::Single& alpha, std::int64_t head, std::int64_t channels,
          std::int64_t width, T* row) {
  for_each_in_head<T>(head, width, [&](auto pack, std::int64_t c) {
    using V = decltype(pack);
    const auto sent = message_of(edge.template at<V>(c), edge.scale(), alpha);
    add_pack<V>(row + c, outcome(sent.plain));
    for (int d = 0; d < 3; ++d) {
      add_pack<V>(row + (d + 1) * channels + c, outcome(sent.along[d]));
    }
  });
}

// Derivatives with respect to the terms, added up edge by edge; of Still terms, or how they change of Moving ones.
template <class T, class Terms, int Span>
class Slopes {
 public:
  Slopes(const Terms& given, View<const T> grad, const AttentionTermsOf<T>& out, std::int64_t first_atom,
         std::int64_t last_atom, T* table)
      : given_(given),
        terms_(given.terms),
        grad_(grad),
        out_(out),
        table_(table),
        channels_(terms_.channels()),
        begin_(terms_.graph.edge_offsets[first_atom]),
        sums_(terms_.table.rows(), terms_.span(), 4 * channels_),
        filters_(static_cast<std::size_t>(8 * channels_)),
        rows_(static_cast<std::size_t>(kEdgeBlock * 4 * channels_)),
        still_(kMoves ? rows_.size() : 0),
        turned_(static_cast<std::size_t>(terms_.span())) {
    for (const View<T>& rows : {out.query, out.key, out.value, out.vectors}) {
      std::fill(row_of(rows, first_atom), row_of(rows, last_atom), T{});
    }
  }

  // `sent` is where how messages change is added up; null for terms that do not move.
  void add(std::int64_t i, std::int64_t e, T* sent) {
    if (e - begin_ == kEdgeBlock) {
      flush(e);
    }
    const Edge edge(given_, i, e, filters_.data());
    LaneSum<T> of_scale[4];
    for (std::int64_t head = 0; head < terms_.heads; ++head) {
      add_head(edge, i, e, head, sent, of_scale);
    }
    if (out_.scale.rows() > 0) {
      store_totals<4>(of_scale, row_of(out_.scale, e));
      add_weights(e);
    }
  }

  void flush(std::int64_t end) {
    const std::int64_t span = terms_.span();
    sums_.add(rows_.data(), terms_.first.data + begin_, terms_.weight.data + begin_ * span, end - begin_, table_);
    if constexpr (kMoves) {
      const T* turned = given_.direction().weight.data + begin_ * span;
      sums_.add(still_.data(), terms_.first.data + begin_, turned, end - begin_, table_);
    }
    begin_ = end;
  }

 private:
  using Edge = AttentionEdge<T, Terms, Span>;
  static constexpr bool kMoves = std::is_same_v<typename Terms::Row, Moving<T>>;

  void add_head(const Edge& edge, std::int64_t i, std::int64_t e, std::int64_t head, T* sent, LaneSum<T>* of_scale) {
    using Single = typename Edge::Single;
    const std::int64_t n = channels_, width = n / terms_.heads, j = terms_.graph.edge_source[e];
    const T* above = row_of(grad_, i);
    ChannelSum<T, Single> scored, weighed;
    for_each_in_head<T>(head, width, [&](auto pack, std::int64_t c) {
      using V = decltype(pack);
      const auto at = edge.template at<V>(c);
      scored.add(score_of(at));
      weighed.add(of_alpha(at, edge.scale()[0], load_pack<V>(above + c)));
    });
    const Silu<Single> alpha = silu_of_one(scored.total());
    const Single of_score = weighed.total() * alpha.slope;
    T *query = row_of(out_.query, i), *key = row_of(out_.key, j), *value = row_of(out_.value, j),
      *vectors = row_of(out_.vectors, j), *row = rows_.data() + (e - begin_) * 4 * n;
    for_each_in_head<T>(head, width, [&](auto pack, std::int64_t c) {
      using V = decltype(pack);
      const auto at = edge.template at<V>(c);
      const auto found = slopes_of(at, edge.scale(), alpha.value, of_score, message_in<V>(above, n, c));
      add_pack<V>(query + c, outcome(found.of.query));
      add_pack<V>(key + c, outcome(found.of.key));
      for (int d = 0; d < 3; ++d) {
        add_pack<V>(value + d * n + c, outcome(found.of.value[d]));
        add_pack<V>(vectors + d * n + c, outcome(found.of.vector[d]));
      }
      for (int k = 0; k < 4; ++k) {
        store_pack<V>(row + k * n + c, outcome(found.of.filter[k]));
        of_scale[k].add(outcome(found.scale[k]));
        if constexpr (kMoves) {
          store_pack<V>(still_.data() + (row - rows_.data()) + k * n + c, found.of.filter[k].value);
        }
      }
    });
    if constexpr (kMoves) {
      send(edge, alpha.value, head, n, width, sent);
    }
  }

  void add_weights(std::int64_t e) {
    const std::int64_t columns = 4 * channels_, at = (e - begin_) * columns, span = terms_.span();
    T* to = row_of(out_.weight, e);
    dot_each<Span>(rows_.data() + at, row_of(terms_.table, terms_.first[e]), span, columns, to);
    if constexpr (kMoves) {
      const T* table = row_of(given_.direction().table, terms_.first[e]);
      dot_each<Span>(still_.data() + at, table, span, columns, turned_.data());
      for (std::int64_t m = 0; m < span; ++m) {
        to[m] += turned_[static_cast<std::size_t>(m)];
      }
    }
  }

  const Terms& given_;
  const AttentionTerms<T>& terms_;
  View<const T> grad_;
  const AttentionTermsOf<T>& out_;
  T* table_;
  std::int64_t channels_, begin_;
  TableSums<T> sums_;
  std::vector<T> filters_, rows_, still_, turned_;
};

// `out_grad` is empty for terms that do not move.
template <class T, class Terms>
void differentiate(const Terms& given, View<const T> grad, View<T> out_grad, const AttentionTermsOf<T>& out,
                   int threads) {
  const EdgeTopology& graph = given.terms.graph;
  const std::vector<std::int64_t> ends = crystal_parts(graph);
  PartTables<T> tables(ends.size() - 1, out.table.rows(), out.table.shape[1]);
  with_span(given.terms.span(), [&](auto unrolled) {
    for_each_task(static_cast<std::int64_t>(ends.size()) - 1, threads, [&](std::int64_t task, int) {
      const auto part = static_cast<std::size_t>(task);
      const std::int64_t first = graph.atom_offsets[ends[part]], last = graph.atom_offsets[ends[part + 1]];
      Slopes<T, Terms, decltype(unrolled)::value> slopes(given, grad, out, first, last, tables.of(part));
      for (std::int64_t i = first; i < last; ++i) {
        T* sent = out_grad.rows() > 0 ? row_of(out_grad, i) : nullptr;
        if (sent != nullptr) {
          std::fill_n(sent, out_grad.shape[1], T{});
        }
        for (std::int64_t e = graph.edge_offsets[i]; e < graph.edge_offsets[i + 1]; ++e) {
          slopes.add(i, e, sent);
        }
      }
      slopes.flush(graph.edge_offsets[last]);
    });
  });
  tables.sum_into(out.table.data, threads);
}

}  // namespace

template <class T>
void vector_attention(const AttentionTerms<T>& terms, View<T> result, int threads) {
  const std::int64_t atoms = terms.graph.atoms(), channels = terms.channels(), width = channels / terms.heads;
  const StillTerms<T> given{terms};
  with_span(terms.span(), [&](auto unrolled) {
    using Edge = AttentionEdge<T, StillTerms<T>, decltype(unrolled)::value>;
    for_each_task((atoms + kRowBlock - 1) / kRowBlock, threads, [&](std::int64_t block, int) {
      std::vector<T> filters(static_cast<std::size_t>(4 * channels));
      for (std::int64_t i = block * kRowBlock; i < std::min(atoms, (block + 1) * kRowBlock); ++i) {
        T* row = row_of(result, i);
        std::fill_n(row, 4 * channels, T{});
        for (std::int64_t e = terms.graph.edge_offsets[i]; e < terms.graph.edge_offsets[i + 1]; ++e) {
          const Edge edge(given, i, e, filters.data());
          for (std::int64_t head = 0; head < terms.heads; ++head) {
            send(edge, silu_of_one(score<T>(edge, head, width)).value, head, channels, width, row);
          }
        }
      }
    });
  });
}

template <class T>
void vector_attention_backward(const AttentionTerms<T>& terms, View<const T> grad, const AttentionTermsOf<T>& out,
                               int threads) {
  differentiate<T>(StillTerms<T>{terms}, grad, View<T>{}, out, threads);
}

template <class T>
void vector_attention_curve(const AttentionTerms<T>& terms, View<const T> grad,
                            const AttentionTermsOf<const T>& direction, View<T> out_grad,
                            const AttentionTermsOf<T>& out, int threads) {
  differentiate<T>(MovingTerms<T>{terms, direction}, grad, out_grad, out, threads);
}

#define SCREENING_FOR(T)                                                                                             \
  template void vector_attention<T>(const AttentionTerms<T>&, View<T>, int);                                         \
  template void vector_attention_backward<T>(const AttentionTerms<T>&, View<const T>, const AttentionTermsOf<T>&,    \
                                             int);                                                                   \
  template void vector_attention_curve<T>(const AttentionTerms<T>&, View<const T>, const AttentionTermsOf<const T>&, \
                                          View<T>, const AttentionTermsOf<T>&, int);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening::SCREENING_LEVEL
