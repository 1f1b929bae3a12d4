// The fronts: check arguments, pick the twin. With dispatch_rows.cpp and dispatch_attention.cpp, which hold more of
// them, the only place that names both devices.
#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "kernels.hpp"
#include "kernels/usable.hpp"
#include "math/lattice.hpp"
#include "twins.hpp"

namespace screening {
namespace {

// Widest first.
const Level kLevels[] = {
#if defined(__x86_64__)
    {"avx512", LevelKind::avx512,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("bmi2") != 0;
     }},
    {"avx2", LevelKind::avx2,
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") != 0;
     }},
#endif
    {"baseline", LevelKind::baseline, [] { return true; }},
};

const Level* widest_level() {
  for (const Level& level : kLevels) {
    if (level.runs_here()) {
      return &level;
    }
  }
  return nullptr;
}

void check(const CrystalBatch& batch, const NeighborRule& rule) {
  if (!(rule.cutoff > 0) || rule.cutoff > 1e4) {
    throw std::invalid_argument("neighbor_list: cutoff must lie in (0, 10000] angstrom, got " +
                                std::to_string(rule.cutoff));
  }
  if (rule.max_neighbors < 0) {
    throw std::invalid_argument("neighbor_list: max_neighbors must be positive, got " +
                                std::to_string(rule.max_neighbors));
  }
  if (!(rule.shell_tolerance >= 0 && rule.shell_tolerance < 1)) {
    throw std::invalid_argument("neighbor_list: shell_tolerance must lie in [0, 1), got " +
                                std::to_string(rule.shell_tolerance));
  }
  if (batch.pbc.rows() != batch.crystals() || batch.atom_offsets.rows() != batch.crystals() + 1) {
    throw std::invalid_argument("neighbor_list: lattice has " + std::to_string(batch.crystals()) +
                                " crystals, so pbc must have as many rows and atom_offsets one more; got " +
                                std::to_string(batch.pbc.rows()) + " and " + std::to_string(batch.atom_offsets.rows()));
  }
  if (batch.crystals() == 0 && batch.atoms() > 0) {
    throw std::invalid_argument("neighbor_list: " + std::to_string(batch.atoms()) +
                                " atoms belong to no crystal; lattice must not be empty");
  }
}

// Shapes; on the CPU, where it costs next to nothing, also that every index leads where it may.
template <class T>
void check(const EdgeTerms<T>& terms, const char* kernel) {
  const EdgeTopology& graph = terms.graph;
  const std::int64_t columns = terms.centre.shape[1], atoms = graph.atoms(), edges = graph.edges();
  check(graph, kernel);
  require(columns > 0 && columns % 2 == 0, kernel, "centre must have an even number of columns, gate and core");
  require(terms.source.shape[1] == columns && terms.table.shape[1] == columns, kernel,
          "centre, source and table must have as many columns");
  require(terms.centre.rows() == atoms && terms.source.rows() == atoms, kernel,
          "centre and source must have a row an atom, edge_offsets one more");
  require(terms.weight.rows() == edges && terms.first.rows() == edges, kernel,
          "weight, first and edge_source must have a row an edge");
  require(terms.span() >= 1 && terms.span() <= terms.table.rows(), kernel,
          "weight must have between one column and as many as table has rows");
  require_one_device(kernel, terms.centre, terms.source, terms.table, terms.weight, terms.first, graph.edge_offsets,
                     graph.edge_source, graph.atom_offsets);
  if (terms.centre.device == Device::cuda) {
    return;
  }
  check_on_host(graph, kernel);
  std::int32_t low = 0, high = 0;
  for (std::int64_t e = 0; e < edges; ++e) {
    low = std::min(low, terms.first[e]);
    high = std::max(high, terms.first[e]);
  }
  require(low >= 0 && high + terms.span() <= terms.table.rows(), kernel, "first leads outside the table");
}

template <class T>
void check(const EdgeTerms<T>& terms, const EdgeTermsOf<T>& out, const char* kernel) {
  const auto like = [](const auto& one, const auto& other) { return one.shape == other.shape; };
  require(like(out.centre, terms.centre) && like(out.source, terms.source) && like(out.table, terms.table) &&
              (out.weight.rows() == 0 || like(out.weight, terms.weight)) &&
              (out.scale.rows() == 0 || out.scale.rows() == terms.graph.edges()),
          kernel, "derivatives must have the shapes of what they belong to");
  require_one_device(kernel, terms.centre, out.centre, out.source, out.table, out.weight, out.scale);
}

// `sums`: the result, or what has its shape.
template <class T, class Sums>
void check(const EdgeTerms<T>& terms, const View<const T>& scale, const Sums& sums, const char* kernel) {
  require(scale.rows() == terms.graph.edges() && scale.shape[1] > 0, kernel, "scale must have a row an edge");
  require(sums.rows() == terms.graph.atoms() && sums.shape[1] == scale.shape[1] * terms.channels(), kernel,
          "sums must have a row an atom and half the columns of centre for every scale");
  require_one_device(kernel, terms.centre, scale, sums);
}

}  // namespace

std::atomic<const Level*>& current_level() {
  static std::atomic<const Level*> level{widest_level()};
  return level;
}

void check(const EdgeTopology& graph, const char* kernel) {
  require(graph.atoms() >= 0 && graph.crystals() >= 0, kernel, "edge_offsets and atom_offsets must not be empty");
}

void check_on_host(const EdgeTopology& graph, const char* kernel) {
  const std::int64_t atoms = graph.atoms(), edges = graph.edges();
  require(graph.edge_offsets[0] == 0 && graph.edge_offsets[atoms] == edges, kernel,
          "edge_offsets must run from 0 to the number of edges");
  require(graph.atom_offsets[0] == 0 && graph.atom_offsets[graph.crystals()] == atoms, kernel,
          "atom_offsets must run from 0 to the number of atoms");
  bool ascending = true, inside = true;
  for (std::int64_t i = 0; i < atoms; ++i) {
    ascending = ascending && graph.edge_offsets[i] <= graph.edge_offsets[i + 1];
  }
  for (std::int64_t c = 0; c < graph.crystals(); ++c) {
    ascending = ascending && graph.atom_offsets[c] <= graph.atom_offsets[c + 1];
  }
  require(ascending, kernel, "offsets must not decrease");
  for (std::int64_t c = 0; c < graph.crystals(); ++c) {
    const std::int32_t begin = graph.atom_offsets[c], end = graph.atom_offsets[c + 1];
    std::int32_t low = begin, high = begin - 1;
    for (std::int64_t e = graph.edge_offsets[begin]; e < graph.edge_offsets[end]; ++e) {
      low = std::min(low, graph.edge_source[e]);
      high = std::max(high, graph.edge_source[e]);
    }
    inside = inside && low >= begin && high < end;
  }
  require(inside, kernel, "an edge leaves its crystal");
}

void neighbor_count(const CrystalBatch& batch, const NeighborRule& rule, const NeighborRows& rows, int threads,
                    void* stream) {
  check(batch, rule);
  SCREENING_CALL_TWIN(batch.positions, neighbor_count, batch, rule, rows);
}

void neighbor_fill(const CrystalBatch& batch, double cutoff, const NeighborEdges& edges, int threads, void* stream) {
  check(batch, {.cutoff = cutoff});
  require(batch.positions.device == Device::cuda || ascend_to(edges.source.rows(), edges.offsets), "neighbor_fill",
          "edge_offsets must ascend from 0 to the number of edges");
  SCREENING_CALL_TWIN(batch.positions, neighbor_fill, batch, cutoff, edges);
}

template <class T>
void edge_conv(const EdgeTerms<T>& terms, View<const T> scale, View<T> result, int threads, void* stream) {
  check(terms, "edge_conv");
  check(terms, scale, result, "edge_conv");
  SCREENING_CALL_TWIN(terms.centre, edge_conv, terms, scale, result);
}

template <class T>
void edge_conv_backward(const EdgeTerms<T>& terms, View<const T> scale, View<const T> grad, const EdgeTermsOf<T>& out,
                        int threads, void* stream) {
  check(terms, "edge_conv_backward");
  check(terms, out, "edge_conv_backward");
  check(terms, scale, grad, "edge_conv_backward");
  require(out.scale.rows() == 0 || out.scale.shape == scale.shape, "edge_conv_backward",
          "derivatives must have the shapes of what they belong to");
  SCREENING_CALL_TWIN(terms.centre, edge_conv_backward, terms, scale, grad, out);
}

template <class T>
void edge_conv_curve(const EdgeTerms<T>& terms, View<const T> scale, View<const T> grad,
                     const EdgeTermsOf<const T>& direction, View<T> out_grad, const EdgeTermsOf<T>& out, int threads,
                     void* stream) {
  check(terms, "edge_conv_curve");
  check(terms, out, "edge_conv_curve");
  check(terms, scale, grad, "edge_conv_curve");
  require(out_grad.shape == grad.shape && (out.scale.rows() == 0 || out.scale.shape == scale.shape), "edge_conv_curve",
          "derivatives must have the shapes of what they belong to");
  const bool alike = direction.centre.shape == terms.centre.shape && direction.source.shape == terms.source.shape &&
                     direction.table.shape == terms.table.shape &&
                     (direction.weight.rows() == 0 || direction.weight.shape == terms.weight.shape) &&
                     (direction.scale.rows() == 0 || direction.scale.shape == scale.shape);
  require(alike, "edge_conv_curve", "the direction must have the shapes of the terms");
  require_one_device("edge_conv_curve", terms.centre, direction.centre, direction.source, direction.table,
                     direction.weight, direction.scale, out_grad);
  SCREENING_CALL_TWIN(terms.centre, edge_conv_curve, terms, scale, grad, direction, out_grad, out);
}

template <class T>
void edge_moments(const EdgeTerms<T>& terms, View<T> mean, View<T> variance, int threads, void* stream) {
  check(terms, "edge_moments");
  require(mean.rows() == terms.centre.shape[1] && variance.rows() == mean.rows(), "edge_moments",
          "mean and variance must have a value a column");
  require_one_device("edge_moments", terms.centre, mean, variance);
  SCREENING_CALL_TWIN(terms.centre, edge_moments, terms, mean, variance);
}

template <class T>
void edge_moments_backward(const EdgeTerms<T>& terms, View<const T> mean, View<const T> grad_mean,
                           View<const T> grad_variance, const EdgeTermsOf<T>& out, int threads, void* stream) {
  check(terms, "edge_moments_backward");
  check(terms, out, "edge_moments_backward");
  require(
      mean.rows() == terms.centre.shape[1] && grad_mean.rows() == mean.rows() && grad_variance.rows() == mean.rows(),
      "edge_moments_backward", "mean and the gradients must have a value a column");
  require_one_device("edge_moments_backward", terms.centre, mean, grad_mean, grad_variance);
  SCREENING_CALL_TWIN(terms.centre, edge_moments_backward, terms, mean, grad_mean, grad_variance, out);
}

template <class T>
void segment_sum(View<const T> rows, View<const std::int32_t> offsets, View<T> result, int threads, void* stream) {
  require(offsets.rows() == result.rows() + 1, "segment_sum", "offsets must have one row more than the result");
  require(result.shape[1] == rows.shape[1], "segment_sum", "the result must have as many columns as the rows");
  require_one_device("segment_sum", rows, offsets, result);
  require(rows.device == Device::cuda || ascend_to(rows.rows(), offsets), "segment_sum",
          "offsets must ascend from 0 to the number of rows");
  SCREENING_CALL_TWIN(rows, segment_sum, rows, offsets, result);
}

template <class T>
void linear(View<const T> rows, View<const T> weight, View<const T> bias, View<T> result, int threads) {
  require_on_cpu("linear", rows, weight, bias, result);
  require(rows.shape[1] == weight.rows(), "linear", "rows must have as many columns as weight has rows");
  require(bias.rows() == weight.shape[1] && result.shape[1] == weight.shape[1] && result.rows() == rows.rows(),
          "linear", "bias and result must have as many columns as weight");
  switch (current_level().load()->kind) {
    SCREENING_WIDE_LEVELS(linear(rows, weight, bias, result, threads))
    default:
      return baseline::linear(rows, weight, bias, result, threads);
  }
}

#define SCREENING_UNARY(name)                                                              \
  template <class T>                                                                       \
  void name(View<const T> values, View<T> result, int threads) {                           \
    require_on_cpu(#name, values, result);                                                 \
    require(values.rows() == result.rows(), #name, "the result must have as many values"); \
    switch (current_level().load()->kind) {                                                \
      SCREENING_WIDE_LEVELS(name(values, result, threads))                                 \
      default:                                                                             \
        return baseline::name(values, result, threads);                                    \
    }                                                                                      \
  }
SCREENING_UNARY(softplus)
SCREENING_UNARY(sigmoid)
#undef SCREENING_UNARY

#define SCREENING_FRONTS(T)                                                                                          \
  template void edge_conv<T>(const EdgeTerms<T>&, View<const T>, View<T>, int, void*);                               \
  template void edge_conv_backward<T>(const EdgeTerms<T>&, View<const T>, View<const T>, const EdgeTermsOf<T>&, int, \
                                      void*);                                                                        \
  template void edge_conv_curve<T>(const EdgeTerms<T>&, View<const T>, View<const T>, const EdgeTermsOf<const T>&,   \
                                   View<T>, const EdgeTermsOf<T>&, int, void*);                                      \
  template void edge_moments<T>(const EdgeTerms<T>&, View<T>, View<T>, int, void*);                                  \
  template void edge_moments_backward<T>(const EdgeTerms<T>&, View<const T>, View<const T>, View<const T>,           \
                                         const EdgeTermsOf<T>&, int, void*);                                         \
  template void segment_sum<T>(View<const T>, View<const std::int32_t>, View<T>, int, void*);                        \
  template void linear<T>(View<const T>, View<const T>, View<const T>, View<T>, int);                                \
  template void softplus<T>(View<const T>, View<T>, int);                                                            \
  template void sigmoid<T>(View<const T>, View<T>, int);
SCREENING_FRONTS(float)
SCREENING_FRONTS(double)
#undef SCREENING_FRONTS

std::string unusable_crystal(const CrystalBatch& batch) {
  using namespace baseline;
  const std::int64_t crystals = batch.crystals(), atoms = batch.atoms();
  if (batch.atom_offsets[0] != 0 || batch.atom_offsets[crystals] != atoms) {
    return words(Fault::ends, 0, 0, atoms);
  }
  for (std::int64_t c = 0; c < crystals; ++c) {
    const std::int32_t begin = batch.atom_offsets[c], end = batch.atom_offsets[c + 1];
    if (end < begin || end > atoms) {
      return words(Fault::order, c, 0, atoms);
    }
    const double* lattice = batch.lattice.data + 9 * c;
    const bool* pbc = batch.pbc.data + 3 * c;
    const Basis basis = complete_basis(lattice, pbc);
    if (!finite_where_periodic(lattice, pbc)) {
      return words(Fault::lattice, c, 0, atoms);
    }
    if (!encloses_volume(basis)) {
      return words(Fault::volume, c, 0, atoms);
    }
    for (std::int64_t i = begin; i < end; ++i) {
      const double* at = batch.positions.data + 3 * i;
      if (!is_reachable({at[0], at[1], at[2]}, basis)) {
        return words(Fault::position, c, i - begin, atoms);
      }
    }
  }
  return {};
}

std::vector<std::string> simd_levels() {
  std::vector<std::string> names;
  for (const Level& level : kLevels) {
    if (level.runs_here()) {
      names.emplace_back(level.name);
    }
  }
  return names;
}

std::string simd_level() { return current_level().load()->name; }

void set_simd_level(const std::string& name) {
  for (const Level& level : kLevels) {
    if (name == level.name && level.runs_here()) {
      current_level() = &level;
      return;
    }
  }
  std::string have;
  for (const std::string& level : simd_levels()) {
    have += (have.empty() ? "" : ", ") + level;
  }
  throw std::invalid_argument("SIMD level '" + name + "' is not available here; choose one of: " + have);
}

bool cuda_compiled() { return SCREENING_WITH_CUDA != 0; }

int cuda_device_count() { return cuda::device_count(); }

}  // namespace screening
