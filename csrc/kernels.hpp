// The native core on one page: what each kernel takes, what it gives, and its twins.
//
// Fronts (namespace screening) check their arguments and pick the twin by device and level; dispatch.cpp holds them.
// Twins (cpu::<level>, cuda) may assume the checks. Arrays are flat, row-major and borrowed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/view.hpp"

namespace screening {

// Crystals laid end to end: atoms of crystal c are rows [atom_offsets[c], atom_offsets[c + 1]).
struct CrystalBatch {
  View<const double> positions;           // (atoms, 3) Cartesian, angstrom
  View<const double> lattice;             // (crystals, 3, 3) rows are lattice vectors
  View<const bool> pbc;                   // (crystals, 3)
  View<const std::int32_t> atom_offsets;  // (crystals + 1,)

  std::int64_t crystals() const { return lattice.shape[0]; }
  std::int64_t atoms() const { return positions.shape[0]; }
};

// Which neighbours an atom keeps: all closer than `cutoff`; with `max_neighbors` > 0 only the nearest so many.
// Distances that follow each other by at most a factor 1 + `shell_tolerance` are one shell. With `whole_shells` the
// shell of the last neighbour is kept whole; without, it gives its first edges in row order until the number is full.
struct NeighborRule {
  double cutoff = 0;
  int max_neighbors = 0;
  bool whole_shells = true;
  double shell_tolerance = 0;
};

// Neighbour lists in three steps: count, scan (the caller's), fill.
//
// neighbor_count writes the number of edges of every atom, and its row cut: edges with squared distance below
// cut[0] are kept, those up to and including cut[1] are kept until cut[2] of them are. neighbor_fill repeats the
// search and writes exactly those; no cut may reach beyond `cutoff`. A row is ordered by (source, shift), so neither
// threads, levels nor devices change a bit of it.
struct NeighborRows {
  View<std::int32_t> count;  // (atoms,)
  View<double> cut;          // (atoms, 3)
};

struct NeighborEdges {
  View<const std::int32_t> offsets;  // (atoms + 1,) scan of the counts
  View<const double> cut;            // (atoms, 3) as counted
  View<std::int32_t> source;         // (edges,) row of the neighbour atom in the batch
  View<std::int32_t> shift;          // (edges, 3)
  View<double> vector;               // (edges, 3) r_j - r_i + shift . lattice
  View<double> distance;             // (edges,)
};

void neighbor_count(const CrystalBatch&, const NeighborRule&, const NeighborRows&, int threads, void* stream);
void neighbor_fill(const CrystalBatch&, double cutoff, const NeighborEdges&, int threads, void* stream);

// The first crystal that no neighbour list exists for (atoms not finite or absurdly far, periodic vectors without
// volume), in words; empty when all are fine. Host arrays: the CUDA twins look for themselves and throw these words.
std::string unusable_crystal(const CrystalBatch&);

// Levels of the CPU twins: names this build has and this processor runs, widest first; the one in use.
std::vector<std::string> simd_levels();
std::string simd_level();
void set_simd_level(const std::string& name);

bool cuda_compiled();
int cuda_device_count();

#define SCREENING_CPU_TWINS(level)                                                         \
  namespace level {                                                                        \
  void neighbor_count(const CrystalBatch&, const NeighborRule&, const NeighborRows&, int); \
  void neighbor_fill(const CrystalBatch&, double cutoff, const NeighborEdges&, int);       \
  }
SCREENING_CPU_TWINS(baseline)
SCREENING_CPU_TWINS(avx2)
SCREENING_CPU_TWINS(avx512)
#undef SCREENING_CPU_TWINS

namespace cuda {
void neighbor_count(const CrystalBatch&, const NeighborRule&, const NeighborRows&, void* stream);
void neighbor_fill(const CrystalBatch&, double cutoff, const NeighborEdges&, void* stream);
int device_count();
}  // namespace cuda

}  // namespace screening
