// Attention to edges with several heads, CPU twin of head_attention.cu; contract in kernels.hpp. Compiled once a SIMD
// level.
// Layout: atoms and edges (rows, H x C) row-major, a head one run of C values. No scratch but derivatives of factors.
// Ownership: values, a task owns rows of atoms and of the edges into them; derivatives, whole crystals, which edges do
// not leave. Determinism: sums run in edge order, parts are cut by the edges alone; threads change nothing.
// Bound: arithmetic, some 20 operations for each softplus, two an edge and column for scores and one for sums; an edge
// brings 4 bytes a column from memory. Working softplus out again beats storing it, which would triple these bytes.

#include "kernels/edge_scatter.hpp"
#include "math/softplus.hpp"
#include "runtime/threads.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

constexpr std::int64_t kRowBlock = 32;

// Calls body(i, e, j) for all edges e from j into i, those into an atom by one task.
template <class T, class Body>
void for_each_edge(const HeadTerms<T>& terms, int threads, const Body& body) {
  const EdgeTopology& graph = terms.graph;
  const std::int64_t atoms = graph.atoms();
  for_each_task((atoms + kRowBlock - 1) / kRowBlock, threads, [&](std::int64_t block, int) {
    for (std::int64_t i = block * kRowBlock; i < std::min(atoms, (block + 1) * kRowBlock); ++i) {
      for (std::int64_t e = graph.edge_offsets[i]; e < graph.edge_offsets[i + 1]; ++e) {
        body(i, e, static_cast<std::int64_t>(graph.edge_source[e]));
      }
    }
  });
}

// Calls body(part, i, e, j) likewise, those of a crystal by one task, after its rows of `of_atom` are set to zero.
template <class T, class Body>
void for_each_owned_edge(const HeadTerms<T>& terms, const std::vector<std::int64_t>& ends, const View<T>& of_atom,
                         int threads, const Body& body) {
  const EdgeTopology& graph = terms.graph;
  for_each_task(static_cast<std::int64_t>(ends.size()) - 1, threads, [&](std::int64_t part, int) {
    const std::int64_t begin = graph.atom_offsets[ends[static_cast<std::size_t>(part)]];
    const std::int64_t end = graph.atom_offsets[ends[static_cast<std::size_t>(part) + 1]];
    std::fill(row_of(of_atom, begin), row_of(of_atom, end), T{});
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t e = graph.edge_offsets[i]; e < graph.edge_offsets[i + 1]; ++e) {
        body(static_cast<std::size_t>(part), i, e, static_cast<std::int64_t>(graph.edge_source[e]));
      }
    }
  });
}

}  // namespace

template <class T>
void head_scores(const HeadTerms<T>& terms, View<const T> to_centre, View<const T> to_source, View<T> result,
                 int threads) {
  const std::int64_t heads = to_centre.rows(), channels = to_centre.shape[1];
  for_each_edge(terms, threads, [&](std::int64_t i, std::int64_t e, std::int64_t j) {
    for (std::int64_t h = 0; h < heads; ++h) {
      const T *here = row_of(terms.atom, i) + h * channels, *there = row_of(terms.atom, j) + h * channels;
      const T *edge = row_of(terms.edge, e) + h * channels, *p = row_of(to_centre, h), *q = row_of(to_source, h);
      LaneSum<T> sum;
      for_each_pack<T>(channels, [&](auto pack, std::int64_t c) {
        using V = decltype(pack);
        const V own = load_pack<V>(edge + c);
        sum.add(load_pack<V>(p + c) * softplus_of<V>(load_pack<V>(here + c) + own) +
                load_pack<V>(q + c) * softplus_of<V>(load_pack<V>(there + c) + own));
      });
      row_of(result, e)[h] = sum.total();
    }
  });
}

template <class T>
void head_scores_backward(const HeadTerms<T>& terms, View<const T> to_centre, View<const T> to_source,
                          View<const T> grad, View<T> of_atom, View<T> of_edge, View<T> of_to_centre,
                          View<T> of_to_source, int threads) {
  const std::int64_t columns = terms.columns(), channels = to_centre.shape[1];
  const std::vector<std::int64_t> ends = crystal_parts(terms.graph);
  PartTables<T> centres(ends.size() - 1, 1, columns), sources(ends.size() - 1, 1, columns);
  for_each_owned_edge(terms, ends, of_atom, threads,
                      [&](std::size_t part, std::int64_t i, std::int64_t e, std::int64_t j) {
                        T *of_here = row_of(of_atom, i), *of_there = row_of(of_atom, j), *of_own = row_of(of_edge, e);
                        T *of_p = centres.of(part), *of_q = sources.of(part);
                        for (std::int64_t h = 0; h < to_centre.rows(); ++h) {
                          const T above = row_of(grad, e)[h];
                          for_each_pack<T>(channels, [&](auto pack, std::int64_t channel) {
                            using V = decltype(pack);
                            const std::int64_t c = h * channels + channel;
                            const V own = load_pack<V>(row_of(terms.edge, e) + c);
                            const auto here = softplus_slope<V>(load_pack<V>(row_of(terms.atom, i) + c) + own);
                            const auto there = softplus_slope<V>(load_pack<V>(row_of(terms.atom, j) + c) + own);
                            const V by_here = above * load_pack<V>(to_centre.data + c) * here.slope;
                            const V by_there = above * load_pack<V>(to_source.data + c) * there.slope;
                            store_pack<V>(of_own + c, by_here + by_there);
                            add_pack<V>(of_here + c, by_here);
                            add_pack<V>(of_there + c, by_there);
                            add_pack<V>(of_p + c, above * here.value);
                            add_pack<V>(of_q + c, above * there.value);
                          });
                        }
                      });
  centres.sum_into(of_to_centre.data, threads);
  sources.sum_into(of_to_source.data, threads);
}

template <class T>
void head_sum(const HeadTerms<T>& terms, View<const T> weight, View<T> result, int threads) {
  const std::int64_t heads = weight.shape[1], channels = terms.columns() / heads;
  std::fill(result.data, row_of(result, result.rows()), T{});
  for_each_edge(terms, threads, [&](std::int64_t i, std::int64_t e, std::int64_t j) {
    T* sum = row_of(result, i);
    for (std::int64_t h = 0; h < heads; ++h) {
      const T *there = row_of(terms.atom, j) + h * channels, *edge = row_of(terms.edge, e) + h * channels;
      const T factor = row_of(weight, e)[h];
      for_each_pack<T>(channels, [&](auto pack, std::int64_t c) {
        using V = decltype(pack);
        add_pack<V>(sum + c, factor * softplus_of<V>(load_pack<V>(there + c) + load_pack<V>(edge + c)));
      });
    }
  });
}

template <class T>
void head_sum_backward(const HeadTerms<T>& terms, View<const T> weight, View<const T> grad, View<T> of_atom,
                       View<T> of_edge, View<T> of_weight, int threads) {
  const std::int64_t heads = weight.shape[1], channels = terms.columns() / heads;
  const std::vector<std::int64_t> ends = crystal_parts(terms.graph);
  for_each_owned_edge(terms, ends, of_atom, threads, [&](std::size_t, std::int64_t i, std::int64_t e, std::int64_t j) {
    for (std::int64_t h = 0; h < heads; ++h) {
      const T *there = row_of(terms.atom, j) + h * channels, *edge = row_of(terms.edge, e) + h * channels;
      T *of_there = row_of(of_atom, j) + h * channels, *of_own = row_of(of_edge, e) + h * channels;
      const T *above = row_of(grad, i), factor = row_of(weight, e)[h];
      LaneSum<T> sum;
      for_each_pack<T>(channels, [&](auto pack, std::int64_t c) {
        using V = decltype(pack);
        const auto at = softplus_slope<V>(load_pack<V>(there + c) + load_pack<V>(edge + c));
        const V from_above = load_pack<V>(above + c), derivative = factor * from_above * at.slope;
        sum.add(from_above * at.value);
        store_pack<V>(of_own + c, derivative);
        add_pack<V>(of_there + c, derivative);
      });
      row_of(of_weight, e)[h] = sum.total();
    }
  });
}

#define SCREENING_FOR(T)                                                                                           \
  template void head_scores<T>(const HeadTerms<T>&, View<const T>, View<const T>, View<T>, int);                   \
  template void head_scores_backward<T>(const HeadTerms<T>&, View<const T>, View<const T>, View<const T>, View<T>, \
                                        View<T>, View<T>, View<T>, int);                                           \
  template void head_sum<T>(const HeadTerms<T>&, View<const T>, View<T>, int);                                     \
  template void head_sum_backward<T>(const HeadTerms<T>&, View<const T>, View<const T>, View<T>, View<T>, View<T>, int);
SCREENING_FOR(float)
SCREENING_FOR(double)
#undef SCREENING_FOR

}  // namespace screening::SCREENING_LEVEL
