// Means weighed by gates of edges, CPU twin of gated_mean.cu; contract in kernels.hpp. Compiled once a SIMD level.
// Layout: all terms row-major, C values a row; scratch of some rows a task.
// Ownership: forward, a task owns rows of atoms; derivatives, a task owns whole crystals, which edges do not leave.
// Determinism: sums run in edge order, parts are cut by the edges alone; threads change nothing.
// Bound: per edge and channel some 20 operations of the sigmoid against 4 bytes of edge term from memory, 8 with gates.

#include "math/gated_mean.hpp"

#include <vector>

#include "kernels/edge_scatter.hpp"
#include "runtime/threads.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

constexpr std::int64_t kRowBlock = 64;

// The rows that an edge e from j into i is made of.
template <class T>
class GateRows {
 public:
  GateRows(const GateTerms<T>& terms, std::int64_t i, std::int64_t e)
      : centre_(row_of(terms.centre, i)),
        source_(row_of(terms.source, terms.graph.edge_source[e])),
        edge_(row_of(terms.edge, e)),
        value_(row_of(terms.value, terms.graph.edge_source[e])) {}

  template <class V>
  V gate(std::int64_t c) const {
    return load_pack<V>(centre_ + c) + load_pack<V>(source_ + c) + load_pack<V>(edge_ + c);
  }
  template <class V>
  V value(std::int64_t c) const {
    return load_pack<V>(value_ + c);
  }

 private:
  const T *centre_, *source_, *edge_, *value_;
};

// Scratch rows of C values.
template <class T>
class Scratch {
 public:
  Scratch(int rows, std::int64_t channels) : channels_(channels), values_(static_cast<std::size_t>(rows * channels)) {}
  T* operator[](int row) { return values_.data() + row * channels_; }

 private:
  std::int64_t channels_;
  std::vector<T> values_;
};

// mean = the row's weighed mean, total = sum of its sigmoids + the floor; stores the gates where they are wanted.
template <class T>
void weigh_row(const GateTerms<T>& terms, std::int64_t i, T* mean, T* total, const View<T>& gates) {
  const std::int64_t channels = terms.channels();
  std::fill_n(mean, channels, T{});
  std::fill_n(total, channels, static_cast<T>(kGateFloor));
  for (std::int64_t e = terms.graph.edge_offsets[i]; e < terms.graph.edge_offsets[i + 1]; ++e) {
    const GateRows<T> rows(terms, i, e);
    for_each_pack<T>(channels, [&](auto pack, std::int64_t c) {
      using V = decltype(pack);
      const V m = rows.template gate<V>(c), s = sigmoid_of(m);
      add_pack<V>(mean + c, s * rows.template value<V>(c));
      add_pack<V>(total + c, s);
      if (gates.rows() > 0) {
        store_pack<V>(row_of(gates, e) + c, m);
      }
    });
  }
  for_each_pack<T>(channels, [&](auto pack, std::int64_t c) {
    using V = decltype(pack);
    store_pack<V>(mean + c, load_pack<V>(mean + c) / load_pack<V>(total + c));
  });
}

// Calls body(i) for all atoms, those of a crystal by one task, after their rows of the derivatives are set to zero.
template <class T, class Body>
void for_each_owned_row(const GateTerms<T>& terms, const GateTermsOf<T>& out, int threads, const Body& body) {
  const EdgeTopology& graph = terms.graph;
  const std::vector<std::int64_t> ends = crystal_parts(graph);
  for_each_task(static_cast<std::int64_t>(ends.size()) - 1, threads, [&](std::int64_t part, int) {
    const std::int64_t begin = graph.atom_offsets[ends[static_cast<std::size_t>(part)]];
    const std::int64_t end = graph.atom_offsets[ends[static_cast<std::size_t>(part) + 1]];
    for (const View<T>& rows : {out.centre, out.source, out.value}) {
      std::fill(row_of(rows, begin), row_of(rows, end), T{});
    }
    Scratch<T> scratch(4, terms.channels());
    for (std::int64_t i = begin; i < end; ++i) {
      body(i, scratch);
    }
  });
}

// The change of an edge along a direction: of its gate, t, and of its value, u.
template <class T>
GateTerms<T> along(const GateTerms<T>& terms, const GateTermsOf<const T>& direction) {
  return {direction.centre, direction.source, direction.value, direction.edge, terms.graph};
}

// drift = D' / D and moved = o' of the row, of which mean and total are known.
template <class T>
void move_row(const GateTerms<T>& terms, const GateTerms<T>& turned, std::int64_t i, const T* mean, const T* total,
              T* drift, T* moved) {
  const std::int64_t channels = terms.channels();
  std::fill_n(drift, channels, T{});
  std::fill_n(moved, channels, T{});
  for (std::int64_t e = terms.graph.edge_offsets[i]; e < terms.graph.edge_offsets[i + 1]; ++e) {
    const GateRows<T> rows(terms, i, e), turn(turned, i, e);
    for_each_pack<T>(channels, [&](auto pack, std::int64_t c) {
      using V = decltype(pack);
      const SigmoidCurve<V> at = sigmoid_curve(rows.template gate<V>(c));
      const V swing = at.first * turn.template gate<V>(c);
      add_pack<V>(drift + c, swing);
      add_pack<V>(moved + c,
                  swing * (rows.template value<V>(c) - load_pack<V>(mean + c)) + at.s * turn.template value<V>(c));
    });
  }
  for_each_pack<T>(channels, [&](auto pack, std::int64_t c) {
    using V = decltype(pack);
    store_pack<V>(drift + c, load_pack<V>(drift + c) / load_pack<V>(total + c));
    store_pack<V>(moved + c, load_pack<V>(moved + c) / load_pack<V>(total + c));
  });
}

// share = grad / total
template <class T>
void share_row(const View<const T>& grad, std::int64_t i, const T* total, T* share) {
  for_each_pack<T>(grad.shape[1], [&](auto pack, std::int64_t c) {
    using V = decltype(pack);
    store_pack<V>(share + c, load_pack<V>(row_of(grad, i) + c) / load_pack<V>(total + c));
  });
}

// Stores the derivative with respect to the gate of an edge, and adds it to those of its centre and source.
template <class V, class T>
void scatter_gate(const GateTerms<T>& terms, const GateTermsOf<T>& out, std::int64_t i, std::int64_t e, std::int64_t c,
                  V derivative) {
  store_pack<V>(row_of(out.edge, e) + c, derivative);
  add_pack<V>(row_of(out.centre, i) + c, derivative);
  add_pack<V>(row_of(out.source, terms.graph.edge_source[e]) + c, derivative);
}

}  // namespace

template <class T>
void gated_mean(const GateTerms<T>& terms, View<T> result, View<T> gates, int threads) {
  const std::int64_t atoms = terms.graph.atoms();
  for_each_task((atoms + kRowBlock - 1) / kRowBlock, threads, [&](std::int64_t block, int) {
    Scratch<T> scratch(1, terms.channels());
    for (std::int64_t i = block * kRowBlock; i < std::min(atoms, (block + 1) * kRowBlock); ++i) {
      weigh_row<T>(terms, i, row_of(result, i), scratch[0], gates);
    }
  });
}

template <class T>
void gated_mean_backward(const GateTerms<T>& terms, View<const T> grad, View<const T> of_gates,
                         const GateTermsOf<T>& out, int threads) {
  for_each_owned_row<T>(terms, out, threads, [&](std::int64_t i, Scratch<T>& scratch) {
    T *mean = scratch[0], *total = scratch[1], *share = scratch[2];
    weigh_row<T>(terms, i, mean, total, {});
    share_row<T>(grad, i, total, share);
    for (std::int64_t e = terms.graph.edge_offsets[i]; e < terms.graph.edge_offsets[i + 1]; ++e) {
      const GateRows<T> rows(terms, i, e);
      T* of_value = row_of(out.value, terms.graph.edge_source[e]);
      for_each_pack<T>(terms.channels(), [&](auto pack, std::int64_t c) {
        using V = decltype(pack);
        const SigmoidCurve<V> at = sigmoid_curve(rows.template gate<V>(c));
        const MeanRow<V> row{load_pack<V>(mean + c), load_pack<V>(share + c)};
        V derivative = of_gate(row, at, rows.template value<V>(c));
        if (of_gates.rows() > 0) {
          derivative += load_pack<V>(row_of(of_gates, e) + c);
        }
        scatter_gate<V>(terms, out, i, e, c, derivative);
        add_pack<V>(of_value + c, row.share * at.s);
      });
    }
  });
}

template <class T>
void gated_mean_curve(const GateTerms<T>& terms, View<const T> grad, const GateTermsOf<const T>& direction,
                      View<T> out_grad, const GateTermsOf<T>& out, int threads) {
  const GateTerms<T> turned = along(terms, direction);
  for_each_owned_row<T>(terms, out, threads, [&](std::int64_t i, Scratch<T>& scratch) {
    T *mean = scratch[0], *total = scratch[1], *share = scratch[2], *drift = scratch[3], *moved = row_of(out_grad, i);
    weigh_row<T>(terms, i, mean, total, {});
    share_row<T>(grad, i, total, share);
    move_row<T>(terms, turned, i, mean, total, drift, moved);
    for (std::int64_t e = terms.graph.edge_offsets[i]; e < terms.graph.edge_offsets[i + 1]; ++e) {
      const GateRows<T> rows(terms, i, e), turn(turned, i, e);
      T* of_value = row_of(out.value, terms.graph.edge_source[e]);
      for_each_pack<T>(terms.channels(), [&](auto pack, std::int64_t c) {
        using V = decltype(pack);
        const SigmoidCurve<V> at = sigmoid_curve(rows.template gate<V>(c));
        const MeanCurve<V> row{load_pack<V>(mean + c), load_pack<V>(share + c), load_pack<V>(drift + c),
                               load_pack<V>(moved + c)};
        const V t = turn.template gate<V>(c);
        const V derivative = curve_of_gate(row, at, rows.template value<V>(c), t, turn.template value<V>(c));
        scatter_gate<V>(terms, out, i, e, c, derivative);
        add_pack<V>(of_value + c, curve_of_value(row.share, row.drift, at, t));
      });
    }
  });
}

#define SCREENING_FOR(T)                                                                                               \
  template void gated_mean<T>(const GateTerms<T>&, View<T>, View<T>, int);                                             \
  template void gated_mean_backward<T>(const GateTerms<T>&, View<const T>, View<const T>, const GateTermsOf<T>&, int); \
  template void gated_mean_curve<T>(const GateTerms<T>&, View<const T>, const GateTermsOf<const T>&, View<T>,          \
                                    const GateTermsOf<T>&, int);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening::SCREENING_LEVEL
