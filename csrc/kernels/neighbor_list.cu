// Neighbour lists, CUDA twin of neighbor_list.cpp; contract in kernels.hpp.
// Layout: edges in CSR order, 48 bytes an edge. Scratch: 20 bytes a ghost and 32 more in batches with binned crystals,
// 52 an atom, 432 a crystal; 12 an atom and 8 a distance to limit the number, 12 an atom and 4 an edge to sort bins.
// Ownership: a warp owns a row and writes it in order, in whole lines. The stream is waited for once to size the
// scratch, in filling again to know that the rows fit; a limited number takes three waits a round, mostly one round.
// Determinism: float32 proposes with a proven margin, float64 decides as on the CPU; atomics are on integers.
// Bound: a ghost of a row costs 16 bytes from L1 and some 20 instructions, an edge 48 bytes and 40 float64 operations.
#define SCREENING_LEVEL cuda  // the arithmetic of math/ compiled for this twin

#include <limits>
#include <stdexcept>

#include "kernels/neighbor_rows.cuh"
#include "kernels/neighborhoods.cuh"

namespace screening::cuda {
namespace {

constexpr std::int32_t kUncounted = -1;
constexpr int kWritingBlocks = 3;  // a multiprocessor: 80 registers a thread, of which none spills

__device__ void set_row(const NeighborRows& rows, std::int64_t atom, const RowCut& cut) {
  if (lane() == 0) {
    rows.count.data[atom] = cut.count;
    double* to = rows.cut.data + 3 * atom;
    to[0] = cut.below;
    to[1] = cut.upto;
    to[2] = cut.quota;
  }
}

__global__ void __launch_bounds__(kBlock)
    count_rows(const __grid_constant__ Neighborhoods all, const __grid_constant__ NeighborRows rows) {
  const std::int64_t i = warp_in_grid();
  if (i < all.atoms) {
    const Row row = row_of(all, i);
    set_row(rows, i, keep_all(row.cell->square, count_within(all, row, row.cell->square)));
  }
}

__device__ void leave_pending(const Neighborhoods& all, const Row& row) {
  if (lane() == 0) {
    atomicAdd(&all.cells[all.atom[row.atom].crystal].pending, 1);
    atomicAdd(&all.status->pending, 1);
  }
}

// How many squares each uncounted row must sort; none where they are too few to cut, which are all there are in the
// last round.
__global__ void __launch_bounds__(kBlock)
    count_squares(const __grid_constant__ Neighborhoods all, const __grid_constant__ NeighborRule rule,
                  const __grid_constant__ NeighborRows rows, std::int32_t* found) {
  const std::int64_t i = warp_in_grid();
  if (i >= all.atoms) {
    return;
  }
  std::int32_t count = 0;
  if (rows.count.data[i] == kUncounted) {
    const Row row = row_of(all, i);
    count = count_within(all, row, row.cell->square);
    if (count < rule.max_neighbors) {
      if (row.cell->last) {
        set_row(rows, i, keep_all(row.cell->square, count));
      } else {
        leave_pending(all, row);
      }
      count = 0;
    }
  }
  if (lane() == 0) {
    found[i] = count;
  }
}

// Sorts the squares of each such row and cuts it, unless its shell might go on beyond what was searched.
__global__ void __launch_bounds__(kBlock)
    cut_rows(const __grid_constant__ Neighborhoods all, const __grid_constant__ NeighborRule rule,
             const __grid_constant__ NeighborRows rows, const std::int64_t* offsets, double* squares) {
  __shared__ WarpScratch scratch[kBlock / kWarp];
  const std::int64_t i = warp_in_grid();
  if (i >= all.atoms || offsets[i] == offsets[i + 1]) {
    return;
  }
  const Row row = row_of(all, i);
  const double search = row.cell->square;
  double* own = squares + offsets[i];
  std::int32_t n = 0;
  propose(all, row, search, scratch[warp_in_block()], [&](bool has, std::int32_t number) {
    Edge edge{};
    if (has) {
      edge = edge_to(all, row, number);
    }
    const bool near = has && edge.square <= search && !edge.itself;
    const unsigned lanes = ballot(near);
    if (near) {
      own[n + rank_among(lanes)] = edge.square;
    }
    n += count_of(lanes);
  });
  __syncwarp();
  sort_by_warp(own, static_cast<std::uint32_t>(n));
  const RowCut cut = cut_sorted_row(own, n, rule.max_neighbors, rule.whole_shells, rule.shell_tolerance);
  const double factor = (1 + rule.shell_tolerance) * (1 + rule.shell_tolerance);
  if (row.cell->last || cut.upto * factor < search) {
    set_row(rows, i, cut);
  } else {
    leave_pending(all, row);
  }
}

// Rows whose ghosts come in row order as they lie.
__global__ void __launch_bounds__(kBlock, kWritingBlocks)
    write_rows(const __grid_constant__ Neighborhoods all, const __grid_constant__ NeighborEdges edges) {
  __shared__ WarpScratch scratch[kBlock / kWarp];
  const std::int64_t i = warp_in_grid();
  if (i >= all.atoms || all.cells[all.atom[i].crystal].binned) {
    return;
  }
  WarpScratch& own = scratch[warp_in_block()];
  const Row row = row_of(all, i);
  RowWriter writer(edges, row.atom, own);
  propose(all, row, writer.upto(), own, [&](bool has, std::int32_t number) { writer.show(all, row, has, number); });
  if (writer.room() > 0 && lane() == 0) {
    all.status->other_rows = 1;
  }
}

// How many ghosts each binned row must sort: a row that gives a part of its last shell sorts the whole shell, and one
// that has no edges all that it should not have.
__global__ void __launch_bounds__(kBlock)
    count_numbers(const __grid_constant__ Neighborhoods all, const __grid_constant__ NeighborEdges edges,
                  std::int32_t* found) {
  const std::int64_t i = warp_in_grid();
  if (i >= all.atoms) {
    return;
  }
  const Row row = row_of(all, i);
  std::int32_t count = 0;
  if (row.cell->binned) {
    const double* cut = edges.cut.data + 3 * i;
    count = edges.offsets.data[i + 1] - edges.offsets.data[i];
    if (count == 0 || cut[2] != kEndless) {
      count = count_within(all, row, cut[1]);
    }
  }
  if (lane() == 0) {
    found[i] = count;
  }
}

__global__ void __launch_bounds__(kBlock, kWritingBlocks)
    write_binned_rows(const __grid_constant__ Neighborhoods all, const __grid_constant__ NeighborEdges edges,
                      const std::int64_t* offsets, std::int32_t* numbers) {
  __shared__ WarpScratch scratch[kBlock / kWarp];
  const std::int64_t i = warp_in_grid();
  if (i >= all.atoms || offsets[i] == offsets[i + 1]) {
    return;
  }
  WarpScratch& shared = scratch[warp_in_block()];
  const Row row = row_of(all, i);
  RowWriter writer(edges, row.atom, shared);
  const auto room = static_cast<std::int32_t>(offsets[i + 1] - offsets[i]);
  std::int32_t* own = numbers + offsets[i];
  std::int32_t n = 0;
  propose(all, row, writer.upto(), shared, [&](bool has, std::int32_t number) {
    Edge edge{};
    if (has) {
      edge = edge_to(all, row, number);
    }
    const bool near = has && edge.square <= writer.upto() && !edge.itself;
    const unsigned lanes = ballot(near);
    const std::int32_t at = n + rank_among(lanes);
    if (near && at < room) {
      own[at] = number;
    }
    n += count_of(lanes);
  });
  __syncwarp();
  const std::int32_t listed = n < room ? n : room;
  sort_by_warp(own, static_cast<std::uint32_t>(listed));
  for (std::int32_t first = 0; first < listed; first += kWarp) {
    const bool has = first + lane() < listed;
    writer.show(all, row, has, has ? own[first + lane()] : 0);
  }
  if ((n > room || writer.room() > 0) && lane() == 0) {
    all.status->other_rows = 1;
  }
}

// The neighbourhoods of a batch on the host's side: takes the memory, starts the kernels.
class Search {
 public:
  Search(const CrystalBatch& batch, Workspace& memory, const CountedRows& rows)
      : memory_(memory), round_(memory.device(), memory.stream()) {
    all_.positions = batch.positions.data;
    all_.lattice = batch.lattice.data;
    all_.pbc = batch.pbc.data;
    all_.atom_offsets = batch.atom_offsets.data;
    all_.crystals = batch.crystals();
    all_.atoms = batch.atoms();
    all_.status = memory.take_filled<Status>(1, 0);
    all_.cells = memory.take<Cell>(all_.crystals);
    all_.atom = memory.take<Atom>(all_.atoms);
    all_.ghost_counts = memory.take<std::int32_t>(all_.atoms);
    all_.ghost_offsets = memory.take<std::int64_t>(all_.atoms + 1);
    launch(open_cells, all_.crystals, stream(), all_);
    launch(wrap_atoms, all_.atoms, stream(), all_, rows);
  }

  // Lays the ghosts of the crystals that have rows to search; waits for the stream.
  void lay(const Aim& aim) {
    round_.clear();
    launch(aim_cells, all_.crystals, stream(), all_, aim);
    launch(find_ghosts<false>, all_.atoms * kWarp, stream(), all_);
    scan(all_.ghost_counts, all_.atoms, all_.ghost_offsets, round_);
    launch(bound_ghosts, all_.crystals, stream(), all_);
    const Status status = this->status();
    refuse_unusable(status);
    binned_ = status.binned > 0;
    all_.ghosts = round_.take<Ghost>(status.ghosts);
    all_.ghost_atom = round_.take<std::int32_t>(status.ghosts);
    if (binned_) {
      const auto in_bins = static_cast<std::int64_t>(status.binned);
      all_.bin_counts = round_.take_filled<std::int32_t>(status.ghosts, 0);
      all_.bin_starts = round_.take<std::int64_t>(status.ghosts + 1);
      all_.binned = round_.take<Ghost>(in_bins);
      all_.binned_number = round_.take<std::int32_t>(in_bins);
    }
    launch(find_ghosts<true>, all_.atoms * kWarp, stream(), all_);
    if (binned_) {
      scan(all_.bin_counts, status.ghosts, all_.bin_starts, round_);
      launch(bin_ghosts, all_.atoms * kWarp, stream(), all_);
    }
  }

  const Neighborhoods& arrays() const { return all_; }
  bool binned() const { return binned_; }
  std::int64_t warps() const { return all_.atoms * kWarp; }
  Workspace& round() { return round_; }
  cudaStream_t stream() const { return memory_.stream(); }
  Status status() const { return fetch(all_.status, stream()); }

  // Memory for as many values as the counts add up to; waits for the stream.
  template <class T>
  T* take_counted(const std::int32_t* counts, std::int64_t* offsets) {
    scan(counts, all_.atoms, offsets, round_);
    return round_.take<T>(fetch(offsets + all_.atoms, stream()));
  }

 private:
  void refuse_unusable(const Status& status) const {
    const unsigned long long key = status.fault != 0 ? ~status.fault : ~status.reach_fault;
    if (key == ~0ull) {
      return;
    }
    const auto which = static_cast<std::int64_t>(key & 0xffffffffu);
    const auto position = static_cast<std::int64_t>(Fault::position);
    const auto fault = static_cast<Fault>(which < position ? which : position);
    refuse(fault, static_cast<std::int64_t>(key >> 32), which - position, all_.atoms);
  }

  Workspace& memory_;
  Workspace round_;  // freed before `memory`
  Neighborhoods all_{};
  bool binned_ = false;
};

}  // namespace

void neighbor_count(const CrystalBatch& batch, const NeighborRule& rule, const NeighborRows& rows, void* stream) {
  if (batch.atoms() == 0) {
    return;
  }
  const DeviceGuard guard(batch.positions.device_index);
  Workspace memory(guard.device(), static_cast<cudaStream_t>(stream));
  Search search(batch, memory, {});
  Aim aim{rule.cutoff, square_below(rule.cutoff), rule.max_neighbors, false, false};
  if (rule.max_neighbors == 0) {
    search.lay(aim);
    launch(count_rows, search.warps(), search.stream(), search.arrays(), rows);
    return;
  }
  check(cudaMemsetAsync(rows.count.data, 0xff, static_cast<std::size_t>(batch.atoms()) * sizeof(std::int32_t),
                        search.stream()),
        "mark rows");
  for (;; aim.grow = true) {
    search.lay(aim);
    auto* found = search.round().take<std::int32_t>(batch.atoms());
    auto* offsets = search.round().take<std::int64_t>(batch.atoms() + 1);
    launch(count_squares, search.warps(), search.stream(), search.arrays(), rule, rows, found);
    auto* squares = search.take_counted<double>(found, offsets);
    launch(cut_rows, search.warps(), search.stream(), search.arrays(), rule, rows, offsets, squares);
    if (search.status().pending == 0) {
      return;
    }
  }
}

void neighbor_fill(const CrystalBatch& batch, double cutoff, const NeighborEdges& edges, void* stream) {
  if (batch.atoms() == 0) {
    return;
  }
  const DeviceGuard guard(batch.positions.device_index);
  Workspace memory(guard.device(), static_cast<cudaStream_t>(stream));
  Search search(batch, memory, {edges.cut.data, edges.offsets.data, edges.source.rows()});
  search.lay({cutoff, square_below(cutoff), 0, true, false});
  launch(write_rows, search.warps(), search.stream(), search.arrays(), edges);
  if (search.binned()) {
    auto* found = search.round().take<std::int32_t>(batch.atoms());
    auto* offsets = search.round().take<std::int64_t>(batch.atoms() + 1);
    launch(count_numbers, search.warps(), search.stream(), search.arrays(), edges, found);
    auto* numbers = search.take_counted<std::int32_t>(found, offsets);
    launch(write_binned_rows, search.warps(), search.stream(), search.arrays(), edges, offsets, numbers);
  }
  if (search.status().other_rows != 0) {
    throw std::invalid_argument("neighbor_list: the rows were counted for other crystals or another cutoff");
  }
}

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

}  // namespace screening::cuda
