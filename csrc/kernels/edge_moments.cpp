// Mean and variance of pre-activations over edges, CPU twin of edge_moments.cu; contract in kernels.hpp. Compiled once
// a SIMD level.
// Ownership and determinism: as edge_conv.cpp. A row is summed in T, rows in double, both relative to the first edge,
// so that the variance does not drown in the square of the mean.
// Bound: per edge and channel 2 span + 4 multiply-adds, 8 bytes of source term from the second cache.

#include "kernels/edge_scatter.hpp"
#include "kernels/edge_terms.hpp"
#include "runtime/threads.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

struct Sums {
  std::vector<double> value, square;
};

template <class T, int Span>
void add_part(const EdgeTerms<T>& terms, const T* origin, std::int64_t first_atom, std::int64_t last_atom, Sums& sums) {
  const std::int64_t columns = 2 * terms.channels();
  std::vector<T> value(static_cast<std::size_t>(columns)), square(static_cast<std::size_t>(columns));
  for (std::int64_t i = first_atom; i < last_atom; ++i) {
    const std::int64_t begin = terms.graph.edge_offsets[i], end = terms.graph.edge_offsets[i + 1];
    if (begin == end) {
      continue;
    }
    std::fill(value.begin(), value.end(), T{});
    std::fill(square.begin(), square.end(), T{});
    for (std::int64_t e = begin; e < end; ++e) {
      const Preactivation<T, Span> a(terms, e, row_of(terms.centre, i));
      for_each_pack<T>(columns, [&](auto pack, std::int64_t c) {
        using V = decltype(pack);
        const V off = a.template at<V>(c) - load_pack<V>(origin + c);
        add_pack<V>(value.data() + c, off);
        add_pack<V>(square.data() + c, off * off);
      });
    }
    for (std::size_t c = 0; c < value.size(); ++c) {
      sums.value[c] += static_cast<double>(value[c]);
      sums.square[c] += static_cast<double>(square[c]);
    }
  }
}

template <class T, int Span>
void moments(const EdgeTerms<T>& terms, const View<T>& mean, const View<T>& variance, int threads) {
  const auto columns = static_cast<std::size_t>(2 * terms.channels());
  const EdgeTopology& graph = terms.graph;
  std::int64_t atom = 0;
  while (graph.edge_offsets[atom + 1] == 0) {
    ++atom;
  }
  std::vector<T> origin(columns);
  const Preactivation<T, Span> a(terms, 0, row_of(terms.centre, atom));
  for_each_pack<T>(static_cast<std::int64_t>(columns), [&](auto pack, std::int64_t c) {
    using V = decltype(pack);
    store_pack<V>(origin.data() + c, a.template at<V>(c));
  });
  const std::vector<std::int64_t> ends = crystal_parts(graph);
  std::vector<Sums> sums(ends.size() - 1, Sums{std::vector<double>(columns), std::vector<double>(columns)});
  for_each_task(static_cast<std::int64_t>(sums.size()), threads, [&](std::int64_t part, int) {
    const auto p = static_cast<std::size_t>(part);
    add_part<T, Span>(terms, origin.data(), graph.atom_offsets[ends[p]], graph.atom_offsets[ends[p + 1]], sums[p]);
  });
  const auto edges = static_cast<double>(graph.edges());
  for (std::size_t c = 0; c < columns; ++c) {
    double value = 0, square = 0;
    for (const Sums& part : sums) {
      value += part.value[c];
      square += part.square[c];
    }
    const double off = value / edges;
    mean.data[c] = static_cast<T>(static_cast<double>(origin[c]) + off);
    variance.data[c] = static_cast<T>(std::max(0.0, square / edges - off * off));
  }
}

}  // namespace

template <class T>
void edge_moments(const EdgeTerms<T>& terms, View<T> mean, View<T> variance, int threads) {
  if (terms.graph.edges() == 0) {
    std::fill_n(mean.data, 2 * terms.channels(), T{});
    std::fill_n(variance.data, 2 * terms.channels(), T{});
    return;
  }
  with_span(terms.span(), [&](auto span) { moments<T, decltype(span)::value>(terms, mean, variance, threads); });
}

template <class T>
void edge_moments_backward(const EdgeTerms<T>& terms, View<const T> mean, View<const T> grad_mean,
                           View<const T> grad_variance, const EdgeTermsOf<T>& out, int threads) {
  const std::int64_t columns = 2 * terms.channels();
  const T share = T{1} / static_cast<T>(std::max<std::int64_t>(terms.graph.edges(), 1));
  with_span(terms.span(), [&](auto span) {
    scatter_edges<T>(terms, out, nullptr, threads, [&](std::int64_t i, std::int64_t, std::int64_t e, T* row, T*) {
      const Preactivation<T, decltype(span)::value> a(terms, e, row_of(terms.centre, i));
      for_each_pack<T>(columns, [&](auto pack, std::int64_t c) {
        using V = decltype(pack);
        const V off = a.template at<V>(c) - load_pack<V>(mean.data + c);
        const V slope = load_pack<V>(grad_mean.data + c) + 2 * load_pack<V>(grad_variance.data + c) * off;
        store_pack<V>(row + c, share * slope);
      });
    });
  });
}

#define SCREENING_FOR(T)                                                                                   \
  template void edge_moments<T>(const EdgeTerms<T>&, View<T>, View<T>, int);                               \
  template void edge_moments_backward<T>(const EdgeTerms<T>&, View<const T>, View<const T>, View<const T>, \
                                         const EdgeTermsOf<T>&, int);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening::SCREENING_LEVEL
