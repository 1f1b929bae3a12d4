// All crystals of a batch made ready for neighbour search on a GPU: wrapped atoms, and ghosts, the images of atoms that
// any atom of the cell can see within a radius. The device's neighborhood.hpp.
//
// Ghosts are numbered by (atom, shift), the order of a row. Atoms count theirs, a scan places them, atoms lay them: the
// stream is waited for once, to size the memory. Of crystals with many ghosts a second copy lies sorted into bins, in
// any order within a bin; what is taken from there is sorted or counted afterwards, so that order never shows.
#pragma once

#include "kernels.hpp"
#include "kernels/usable.hpp"
#include "math/lattice.hpp"
#include "math/nearness.hpp"
#include "runtime/launch.hpp"
#include "runtime/scan.cuh"
#include "runtime/warp.cuh"

namespace screening::cuda {
namespace {

// From here on a row looks into bins: an estimate of where 128 steps of a warp through all ghosts cost more than some
// 10 steps through the bins around it and sorting the row.
constexpr std::int64_t kBinFromGhosts = 4096;
constexpr double kGrowth = 1.5;  // of the search radius, when neighbours were too few

struct Shift {
  std::int32_t s[3];
};

struct alignas(16) Ghost {
  float x, y, z;
  std::int32_t image;  // number of the lattice vector, in the order of shifts
};

// The box around a crystal's wrapped atoms, Cartesian and fractional, as `ordered` keys; and the furthest cut.
struct Box {
  unsigned long long low[6], high[7];
};

struct Atom {
  Vec3 place;  // wrapped into the cell
  Shift wrap;  // lattice vectors that were added for that
  std::int32_t crystal;
};

struct Cell {
  Basis basis;
  Box box;
  std::int32_t first, atoms;
  Vec3 origin;  // the middle of the box; float32 coordinates start there
  double half[3], radius, square, margin;
  bool last;  // whether the radius is the cutoff
  std::int32_t pending;
  std::int32_t reach[3], images;  // images are those of shifts up to `reach`; none while there is nothing to search
  std::int64_t ghosts_begin, ghosts_end;
  bool binned;
  BinGrid grid;
};

// Faults are the complement of crystal << 32 | fault + atom, so that the largest is the first; 0 for none.
struct Status {
  unsigned long long fault;        // of what was given
  unsigned long long reach_fault;  // of the radius
  std::int64_t ghosts;
  unsigned long long binned;
  std::int32_t pending;
  std::int32_t other_rows;  // whether rows hold fewer or more edges than were counted
};

// Whose radius: `cutoff` for whole lists; the cut as counted; or one that should hold `max_neighbors`, grown each
// round.
struct Aim {
  double cutoff, square;  // the largest square within the cutoff
  std::int32_t max_neighbors;
  bool by_cut;
  bool grow;
};

// The arrays of a search, on the device.
struct Neighborhoods {
  const double* positions;
  const double* lattice;
  const bool* pbc;
  const std::int32_t* atom_offsets;
  std::int64_t crystals, atoms;

  Status* status;
  Cell* cells;
  Atom* atom;

  std::int32_t* ghost_counts;   // (atoms,)
  std::int64_t* ghost_offsets;  // (atoms + 1,)
  Ghost* ghosts;
  std::int32_t* ghost_atom;  // row of the atom in the batch

  std::int32_t* bin_counts;  // bin b of a cell is entry ghosts_begin + b: no cell has more bins than ghosts
  std::int64_t* bin_starts;
  Ghost* binned;
  std::int32_t* binned_number;  // of the ghost, counted from ghosts_begin
};

__device__ void report(const Neighborhoods& all, std::int64_t crystal, Fault fault, std::int64_t atom = 0) {
  const bool of_reach = fault == Fault::images || fault == Fault::ghosts;
  const auto which = static_cast<unsigned long long>(static_cast<std::int64_t>(fault) + atom);
  atomicMax(of_reach ? &all.status->reach_fault : &all.status->fault,
            ~(static_cast<unsigned long long>(crystal) << 32 | which));
}

// A thread a crystal: checks, completes the lattice, opens the box.
__global__ void __launch_bounds__(kBlock) open_cells(const __grid_constant__ Neighborhoods all) {
  const std::int64_t c = thread_in_grid();
  if (c >= all.crystals) {
    return;
  }
  const std::int32_t begin = all.atom_offsets[c], end = all.atom_offsets[c + 1];
  if ((c == 0 && begin != 0) || (c == all.crystals - 1 && end != all.atoms)) {
    report(all, 0, Fault::ends);
  }
  if (begin < 0 || end < begin || end > all.atoms) {
    report(all, c, Fault::order);
  }
  Cell& cell = all.cells[c];
  cell.basis = complete_basis(all.lattice + 9 * c, all.pbc + 3 * c);
  if (!finite_where_periodic(all.lattice + 9 * c, all.pbc + 3 * c)) {
    report(all, c, Fault::lattice);
  } else if (!encloses_volume(cell.basis)) {
    report(all, c, Fault::volume);
  }
  cell.first = begin;
  cell.atoms = end - begin;
  cell.pending = cell.atoms;
  cell.radius = 0;
  cell.box = {{~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull}, {}};
}

__device__ std::int32_t crystal_of(const Neighborhoods& all, std::int64_t atom) {
  std::int64_t low = 0, high = all.crystals;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (all.atom_offsets[middle] <= atom ? low : high) = middle;
  }
  return static_cast<std::int32_t>(low);
}

// Extremes of a warp's atoms into the boxes: one atomic a value where all atoms are of one crystal.
__device__ void widen_boxes(const Neighborhoods& all, std::int32_t crystal, bool counts, const double (&values)[7]) {
  const std::int32_t first = __shfl_sync(kAllLanes, crystal, 0);
  const bool together = ballot(counts && crystal == first) == kAllLanes;
  for (int k = 0; k < 7; ++k) {
    unsigned long long low = counts ? ordered(values[k]) : ~0ull, high = counts ? ordered(values[k]) : 0;
    if (together) {
      low = least_of_warp(low);
      high = ~least_of_warp(~high);
    }
    if (counts && (!together || lane() == 0)) {
      if (k < 6) {
        atomicMin(&all.cells[crystal].box.low[k], low);
      }
      atomicMax(&all.cells[crystal].box.high[k], high);
    }
  }
}

// Rows to fill: their cuts as counted, and where they lie. Nothing where they are yet to be counted.
struct CountedRows {
  const double* cut;
  const std::int32_t* offsets;
  std::int64_t edges;
};

__device__ bool lies_within(const CountedRows& rows, std::int64_t atom, std::int64_t atoms) {
  const std::int32_t begin = rows.offsets[atom], end = rows.offsets[atom + 1];
  return begin <= end && (atom > 0 || begin == 0) && (atom + 1 < atoms || end == rows.edges);
}

// A thread an atom: wraps it into its cell, and looks whether its row lies within the edges.
__global__ void __launch_bounds__(kBlock)
    wrap_atoms(const __grid_constant__ Neighborhoods all, const __grid_constant__ CountedRows rows) {
  const std::int64_t i = thread_in_grid();
  const bool exists = i < all.atoms;
  const std::int32_t c = exists ? crystal_of(all, i) : -1;
  bool usable = false;
  double values[7] = {};
  if (exists) {
    const Basis& basis = all.cells[c].basis;
    const Vec3 raw{all.positions[3 * i], all.positions[3 * i + 1], all.positions[3 * i + 2]};
    usable = is_reachable(raw, basis);
    if (!usable) {
      report(all, c, Fault::position, i - all.cells[c].first);
    }
    Shift wrap{};
    for (int axis = 0; axis < 3 && usable; ++axis) {
      wrap.s[axis] = wrap_along(basis, axis, raw);
    }
    const Vec3 place = raw + offset_of(basis, wrap.s[0], wrap.s[1], wrap.s[2]);
    all.atom[i] = {place, wrap, c};
    values[0] = place.x;
    values[1] = place.y;
    values[2] = place.z;
    for (int axis = 0; axis < 3; ++axis) {
      values[3 + axis] = dot(place, basis.dual[axis]);
    }
    values[6] = rows.cut != nullptr ? rows.cut[3 * i + 1] : 0.0;
    if (rows.offsets != nullptr && !lies_within(rows, i, all.atoms)) {
      report(all, 0, Fault::rows);
    }
  }
  widen_boxes(all, c, usable, values);
}

// A radius that should hold the wanted neighbours and the end of their shell, from the mean density.
__device__ double first_radius(const Cell& cell, const double* span, const Aim& aim) {
  constexpr double kSurplus = 2.0;
  double volume = cell.basis.measure;
  const bool whole = cell.basis.periodic[0] && cell.basis.periodic[1] && cell.basis.periodic[2];
  for (int axis = 0; axis < 3 && !whole; ++axis) {
    volume *= cell.basis.periodic[axis] ? 1.0 : span[axis] + 2.0;
  }
  return cbrt((kSurplus * aim.max_neighbors + 4) * volume / (4.18879 * cell.atoms));
}

__device__ double radius_of(const Cell& cell, const double* span, const Aim& aim) {
  double radius = aim.cutoff;
  if (aim.by_cut) {
    radius = fmax(sqrt(from_ordered(cell.box.high[6])) * (1 + 1e-12), 1e-3);
  } else if (aim.max_neighbors > 0) {
    radius = aim.grow ? kGrowth * cell.radius : first_radius(cell, span, aim);
  }
  return radius < aim.cutoff ? radius : aim.cutoff;
}

// A thread a crystal: the radius of this round and the images it reaches. Crystals without rows to search get none.
__global__ void __launch_bounds__(kBlock)
    aim_cells(const __grid_constant__ Neighborhoods all, const __grid_constant__ Aim aim) {
  const std::int64_t c = thread_in_grid();
  if (c >= all.crystals) {
    return;
  }
  if (c == 0) {
    all.status->binned = 0;
    all.status->pending = 0;
  }
  Cell& cell = all.cells[c];
  cell.images = 0;
  cell.binned = false;
  if (cell.pending == 0 || all.status->fault != 0) {
    return;
  }
  double low[6], high[6], span[3], total = 1;
  for (int k = 0; k < 6; ++k) {
    low[k] = from_ordered(cell.box.low[k]);
    high[k] = from_ordered(cell.box.high[k]);
  }
  for (int axis = 0; axis < 3; ++axis) {
    span[axis] = high[3 + axis] - low[3 + axis];
    const double middle = (low[axis] + high[axis]) / 2;
    (axis == 0 ? cell.origin.x : axis == 1 ? cell.origin.y : cell.origin.z) = middle;
    cell.half[axis] = high[axis] - middle;
  }
  cell.radius = radius_of(cell, span, aim);
  cell.last = cell.radius >= aim.cutoff;
  cell.square = cell.last ? aim.square : cell.radius * cell.radius;
  cell.margin = float_margin(2 * fmax(fmax(cell.half[0], cell.half[1]), cell.half[2]) + cell.radius, cell.radius);
  for (int axis = 0; axis < 3; ++axis) {
    total *= 2 * reach_along(cell.basis, axis, span[axis], cell.radius) + 1;
  }
  if (!(total <= kMostImages)) {
    report(all, c, Fault::images);
    return;
  }
  cell.pending = 0;
  cell.images = 1;
  for (int axis = 0; axis < 3; ++axis) {
    cell.reach[axis] = static_cast<std::int32_t>(reach_along(cell.basis, axis, span[axis], cell.radius));
    cell.images *= 2 * cell.reach[axis] + 1;
  }
}

// Shifts of image t: the numbers go through (s0, s1, s2) with s2 fastest, and the cell itself is in the middle.
__device__ __forceinline__ Shift shift_of(const Cell& cell, std::int32_t t) {
  const std::int32_t m1 = 2 * cell.reach[1] + 1, m2 = 2 * cell.reach[2] + 1;
  const std::int32_t row = t / m2, plane = row / m1;
  return {plane - cell.reach[0], row - plane * m1 - cell.reach[1], t - row * m2 - cell.reach[2]};
}

__device__ __forceinline__ Ghost centred(const Cell& cell, Vec3 place) {
  const Vec3 at = place - cell.origin;
  return {static_cast<float>(at.x), static_cast<float>(at.y), static_cast<float>(at.z), 0};
}

__device__ __forceinline__ float square_beyond(float x, double half) {
  const float beyond = fabsf(x) - static_cast<float>(half);
  return beyond > 0 ? beyond * beyond : 0.0f;
}

__device__ std::int64_t bin_of(const Cell& cell, const Ghost& ghost) {
  const std::int64_t bx = bin_along(cell.grid, 0, ghost.x), by = bin_along(cell.grid, 1, ghost.y);
  return cell.ghosts_begin + (bx * cell.grid.bins[1] + by) * cell.grid.bins[2] + bin_along(cell.grid, 2, ghost.z);
}

// A warp an atom: the images of it that come within the radius of the box around the atoms, counted or laid.
template <bool Lay>
__global__ void __launch_bounds__(kBlock) find_ghosts(const __grid_constant__ Neighborhoods all) {
  const std::int64_t j = warp_in_grid();
  if (j >= all.atoms) {
    return;
  }
  const Cell& cell = all.cells[all.atom[j].crystal];
  const Ghost home = centred(cell, all.atom[j].place);
  const auto bound = static_cast<float>(cell.radius * cell.radius + cell.margin);
  std::int64_t found = Lay ? all.ghost_offsets[j] : 0;
  for (std::int32_t first = 0; first < cell.images; first += kWarp) {
    const std::int32_t t = first + lane();
    Ghost ghost{0, 0, 0, t};
    bool seen = false;
    if (t < cell.images) {
      const Shift shift = shift_of(cell, t);
      const Vec3 offset = offset_of(cell.basis, shift.s[0], shift.s[1], shift.s[2]);
      ghost.x = static_cast<float>(offset.x) + home.x;
      ghost.y = static_cast<float>(offset.y) + home.y;
      ghost.z = static_cast<float>(offset.z) + home.z;
      seen = (square_beyond(ghost.x, cell.half[0]) + square_beyond(ghost.y, cell.half[1])) +
                 square_beyond(ghost.z, cell.half[2]) <
             bound;
    }
    const unsigned lanes = ballot(seen);
    if (Lay && seen) {
      const std::int64_t g = found + rank_among(lanes);
      all.ghosts[g] = ghost;
      all.ghost_atom[g] = static_cast<std::int32_t>(j);
      if (cell.binned) {
        atomicAdd(&all.bin_counts[bin_of(cell, ghost)], 1);
      }
    }
    found += count_of(lanes);
  }
  if (!Lay && lane() == 0) {
    all.ghost_counts[j] = static_cast<std::int32_t>(found);
  }
}

// A thread a crystal: where its ghosts will lie, and in which bins.
__global__ void __launch_bounds__(kBlock) bound_ghosts(const __grid_constant__ Neighborhoods all) {
  const std::int64_t c = thread_in_grid();
  if (c >= all.crystals) {
    return;
  }
  if (c == 0) {
    all.status->ghosts = all.ghost_offsets[all.atoms];
  }
  Cell& cell = all.cells[c];
  if (cell.images == 0) {
    cell.ghosts_begin = cell.ghosts_end = 0;
    return;
  }
  cell.ghosts_begin = all.ghost_offsets[cell.first];
  cell.ghosts_end = all.ghost_offsets[cell.first + cell.atoms];
  const std::int64_t count = cell.ghosts_end - cell.ghosts_begin;
  if (count > kMostGhosts) {
    report(all, c, Fault::ghosts);
  } else if (count > kBinFromGhosts) {
    cell.binned = true;
    cell.grid = bin_grid(cell.half, cell.radius, static_cast<double>(count));
    atomicAdd(&all.status->binned, static_cast<unsigned long long>(count));
  }
}

// A warp an atom: copies its ghosts into their bins, which fill from behind.
__global__ void __launch_bounds__(kBlock) bin_ghosts(const __grid_constant__ Neighborhoods all) {
  const std::int64_t j = warp_in_grid();
  if (j >= all.atoms) {
    return;
  }
  const Cell& cell = all.cells[all.atom[j].crystal];
  if (!cell.binned) {
    return;
  }
  for (std::int64_t g = all.ghost_offsets[j] + lane(); g < all.ghost_offsets[j + 1]; g += kWarp) {
    const Ghost ghost = all.ghosts[g];
    const std::int64_t bin = bin_of(cell, ghost);
    const std::int64_t at = all.bin_starts[bin] + atomicSub(&all.bin_counts[bin], 1) - 1;
    all.binned[at] = ghost;
    all.binned_number[at] = static_cast<std::int32_t>(g - cell.ghosts_begin);
  }
}

}  // namespace
}  // namespace screening::cuda
