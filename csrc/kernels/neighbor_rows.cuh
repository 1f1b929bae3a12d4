// What a warp does with the row of one atom: look at the ghosts around it, count those within a distance, rank them,
// write edges. float32 proposes with a proven margin (math/nearness.hpp), float64 decides.
#pragma once

#include "kernels/neighborhoods.cuh"
#include "kernels/row_cut.hpp"

namespace screening::cuda {
namespace {

// Scratch of one warp in shared memory. Proposals wait until there are 32, so that float64 work fills the warp; edges
// are laid out here, so that they leave in whole lines.
struct WarpScratch {
  std::int32_t waiting[2 * kWarp];
  double vector[3 * kWarp];
  std::int32_t shift[3 * kWarp];
};

struct Row {
  const Cell* cell;
  std::int32_t atom;  // row of the atom in the batch
  Vec3 from;
  Shift wrap;
  Ghost at;  // in float32
};

struct Edge {
  std::int32_t source;
  Shift shift;
  Vec3 vector;
  double square;
  bool itself;  // the ghost is the atom of the row, which is no edge
};

__device__ Row row_of(const Neighborhoods& all, std::int64_t atom) {
  const Atom centre = all.atom[atom];
  const Cell* cell = &all.cells[centre.crystal];
  return {cell, static_cast<std::int32_t>(atom), centre.place, centre.wrap, centred(*cell, centre.place)};
}

// The edge from a row's atom to a ghost of its cell, with the operations of the CPU twin in their order.
__device__ Edge edge_to(const Neighborhoods& all, const Row& row, std::int32_t number) {
  const std::int64_t g = row.cell->ghosts_begin + number;
  const std::int32_t j = all.ghost_atom[g], image = all.ghosts[g].image;
  const Shift cells = shift_of(*row.cell, image);
  const Atom other = all.atom[j];
  Edge edge;
  edge.source = j;
  for (int axis = 0; axis < 3; ++axis) {
    edge.shift.s[axis] = (cells.s[axis] + other.wrap.s[axis]) - row.wrap.s[axis];
  }
  edge.vector = edge_vector_of(row.from, other.place, offset_of(row.cell->basis, cells.s[0], cells.s[1], cells.s[2]));
  edge.square = dot(edge.vector, edge.vector);
  edge.itself = j == row.atom && image == row.cell->images / 2;
  return edge;
}

// Calls body(lane has a ghost, squared distance in float32, position) for positions [begin, end), 32 at a time.
template <class Body>
__device__ __forceinline__ void look_along(const Row& row, const Ghost* ghosts, std::int64_t begin, std::int64_t end,
                                           const Body& body) {
  for (std::int64_t first = begin; first < end; first += kWarp) {
    const std::int64_t position = first + lane();
    const bool has = position < end;
    const Ghost ghost = has ? ghosts[position] : Ghost{};
    const float x = ghost.x - row.at.x, y = ghost.y - row.at.y, z = ghost.z - row.at.z;
    body(has, fmaf(x, x, fmaf(y, y, z * z)), position);
  }
}

// Calls body(lane has a ghost, squared distance in float32, number) for every ghost that may lie within the radius.
template <class Body>
__device__ __forceinline__ void look_around(const Neighborhoods& all, const Row& row, const Body& body) {
  const Cell& cell = *row.cell;
  if (!cell.binned) {
    look_along(row, all.ghosts, cell.ghosts_begin, cell.ghosts_end, [&](bool has, float square, std::int64_t position) {
      body(has, square, static_cast<std::int32_t>(position - cell.ghosts_begin));
    });
    return;
  }
  const float at[3] = {row.at.x, row.at.y, row.at.z};
  std::int32_t low[3], high[3];
  for (int axis = 0; axis < 3; ++axis) {
    low[axis] = bin_along(cell.grid, axis, at[axis] - cell.grid.look);
    high[axis] = bin_along(cell.grid, axis, at[axis] + cell.grid.look);
  }
  for (std::int64_t bx = low[0]; bx <= high[0]; ++bx) {
    for (std::int64_t by = low[1]; by <= high[1]; ++by) {
      const std::int64_t* starts =
          all.bin_starts + cell.ghosts_begin + (bx * cell.grid.bins[1] + by) * cell.grid.bins[2];
      look_along(row, all.binned, starts[low[2]], starts[high[2] + 1],
                 [&](bool has, float square, std::int64_t position) {
                   body(has, square, has ? all.binned_number[position] : 0);
                 });
    }
  }
}

// Ghosts of a row with a square up to `limit`, the atom itself left out.
__device__ std::int32_t count_within(const Neighborhoods& all, const Row& row, double limit) {
  const auto sure_bound = static_cast<float>(limit - row.cell->margin);
  const auto maybe_bound = static_cast<float>(limit + row.cell->margin);
  std::int32_t count = -1;  // the atom itself is among its ghosts
  look_around(all, row, [&](bool has, float square, std::int32_t number) {
    const bool sure = has && square < sure_bound;
    const bool unsure = has && !sure && square < maybe_bound;
    count += count_of(ballot(sure));
    if (ballot(unsure) != 0) {
      count += count_of(ballot(unsure && edge_to(all, row, number).square <= limit));
    }
  });
  return count;
}

// Calls body(lane has a ghost, its number) for the ghosts that float32 proposes, 32 at a time but for the last.
template <class Body>
__device__ __forceinline__ void propose(const Neighborhoods& all, const Row& row, double limit, WarpScratch& scratch,
                                        const Body& body) {
  const auto maybe_bound = static_cast<float>(limit + row.cell->margin);
  std::int32_t waiting = 0;
  look_around(all, row, [&](bool has, float square, std::int32_t number) {
    const bool proposed = has && square < maybe_bound;
    const unsigned lanes = ballot(proposed);
    if (proposed) {
      scratch.waiting[waiting + rank_among(lanes)] = number;
    }
    waiting += count_of(lanes);
    __syncwarp();
    if (waiting >= kWarp) {
      body(true, scratch.waiting[lane()]);
      waiting -= kWarp;
      scratch.waiting[lane()] = scratch.waiting[kWarp + lane()];
      __syncwarp();
    }
  });
  if (waiting > 0) {
    const bool has = lane() < waiting;
    body(has, has ? scratch.waiting[lane()] : 0);
    __syncwarp();
  }
}

// Writes the kept ones of the edges it is shown, in the order of lanes, until the row is full; says so when there are
// more.
class RowWriter {
 public:
  __device__ RowWriter(const NeighborEdges& edges, std::int32_t atom, WarpScratch& scratch)
      : edges_(edges), scratch_(scratch), begin_(edges.offsets.data[atom]) {
    const double* cut = edges.cut.data + 3 * static_cast<std::int64_t>(atom);
    below_ = cut[0];
    upto_ = cut[1];
    quota_ = cut[2];
    room_ = edges.offsets.data[atom + 1] - static_cast<std::int32_t>(begin_);
  }

  __device__ double upto() const { return upto_; }
  __device__ std::int32_t room() const { return room_; }
  __device__ bool limited() const { return quota_ != kEndless; }

  __device__ void show(const Neighborhoods& all, const Row& row, bool has, std::int32_t number) {
    Edge edge{};
    if (has) {
      edge = edge_to(all, row, number);
    }
    bool kept = has && edge.square <= upto_ && !edge.itself;
    if (limited()) {
      const bool in_shell = kept && edge.square >= below_;
      const unsigned shell = ballot(in_shell);
      kept = kept && (!in_shell || used_ + rank_among(shell) < quota_);
      used_ += count_of(shell);
    }
    const unsigned lanes = ballot(kept);
    const std::int32_t rank = rank_among(lanes), found = count_of(lanes);
    if (kept && rank < room_) {
      put(edge, rank);
    }
    __syncwarp();
    if (found > room_ && lane() == 0) {
      all.status->other_rows = 1;
    }
    flush(found < room_ ? found : room_);
  }

 private:
  __device__ void put(const Edge& edge, std::int32_t rank) {
    edges_.source.data[begin_ + rank] = edge.source;
    edges_.distance.data[begin_ + rank] = sqrt(edge.square);
    scratch_.vector[3 * rank] = edge.vector.x;
    scratch_.vector[3 * rank + 1] = edge.vector.y;
    scratch_.vector[3 * rank + 2] = edge.vector.z;
    for (int axis = 0; axis < 3; ++axis) {
      scratch_.shift[3 * rank + axis] = edge.shift.s[axis];
    }
  }

  __device__ void flush(std::int32_t count) {
    for (std::int32_t k = lane(); k < 3 * count; k += kWarp) {
      edges_.vector.data[3 * begin_ + k] = scratch_.vector[k];
      edges_.shift.data[3 * begin_ + k] = scratch_.shift[k];
    }
    __syncwarp();
    begin_ += count;
    room_ -= count;
  }

  const NeighborEdges& edges_;
  WarpScratch& scratch_;
  std::int64_t begin_;
  double below_, upto_, quota_;
  std::int32_t room_, used_ = 0;
};

}  // namespace
}  // namespace screening::cuda
