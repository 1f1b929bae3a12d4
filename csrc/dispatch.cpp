// The fronts: check arguments, pick the twin. The only file that names both devices and all levels.
#include <atomic>
#include <stdexcept>
#include <string>

#include "kernels.hpp"
#include "kernels/usable.hpp"
#include "math/lattice.hpp"

namespace screening {
namespace {

struct Level {
  const char* name;
  bool (*runs_here)();
  void (*neighbor_count)(const CrystalBatch&, const NeighborRule&, const NeighborRows&, int);
  void (*neighbor_fill)(const CrystalBatch&, double cutoff, const NeighborEdges&, int);
};

// Widest first.
const Level kLevels[] = {
#if defined(__x86_64__)
    {"avx512",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("bmi2") != 0;
     },
     avx512::neighbor_count, avx512::neighbor_fill},
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") != 0; }, avx2::neighbor_count,
     avx2::neighbor_fill},
#endif
    {"baseline", [] { return true; }, baseline::neighbor_count, baseline::neighbor_fill},
};

const Level* widest_level() {
  for (const Level& level : kLevels) {
    if (level.runs_here()) {
      return &level;
    }
  }
  return nullptr;
}

std::atomic<const Level*>& current_level() {
  static std::atomic<const Level*> level{widest_level()};
  return level;
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
}

}  // namespace

void neighbor_count(const CrystalBatch& batch, const NeighborRule& rule, const NeighborRows& rows, int threads,
                    void* stream) {
  check(batch, rule);
  if (batch.positions.device == Device::cuda) {
    cuda::neighbor_count(batch, rule, rows, stream);
  } else {
    current_level().load()->neighbor_count(batch, rule, rows, threads);
  }
}

void neighbor_fill(const CrystalBatch& batch, double cutoff, const NeighborEdges& edges, int threads, void* stream) {
  check(batch, {.cutoff = cutoff});
  if (batch.positions.device == Device::cuda) {
    cuda::neighbor_fill(batch, cutoff, edges, stream);
  } else {
    current_level().load()->neighbor_fill(batch, cutoff, edges, threads);
  }
}

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
