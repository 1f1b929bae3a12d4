// Neighbour lists, CPU twin of neighbor_list.cu; contract in kernels.hpp. Compiled once a SIMD level.
// Layout: edges in CSR order, 52 bytes an edge (source 4, shift 12, vector 24, distance 8, and 4 of search scratch).
// Ownership: a task owns whole crystals, or a block of rows of one large crystal, and writes its own rows only.
// Determinism: float32 proposes with a proven margin, float64 decides; rows are ordered by (source, shift).
// Bound: per proposed ghost 0.5 float32 lane operations of 16, per edge some 40 instructions and 48 bytes written.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/neighborhood.hpp"
#include "kernels/row_cut.hpp"
#include "runtime/threads.hpp"

namespace screening::SCREENING_LEVEL {
namespace {

constexpr std::int32_t kLargeCrystal = 1024;  // atoms from which the rows of one crystal are shared among threads
constexpr std::int32_t kRowBlock = 64;
constexpr std::int64_t kCrystalBlock = 2;
constexpr std::int32_t kUnknown = -1;                     // no count yet
constexpr std::size_t kKeptBytes = std::size_t{4} << 20;  // 100,000 ghosts; a cell of 1000 atoms has 5000 at 8 angstrom

// Ascending order for ghost numbers in any order: marks on a two-level bitmap, read back in order.
class Ascending {
 public:
  std::size_t bytes() const { return (words_.capacity() + marked_.capacity()) * sizeof(std::uint64_t); }
  void resize(std::int64_t numbers) {
    const auto words = static_cast<std::size_t>(numbers / 64 + 1);
    if (words > words_.size()) {
      marked_.resize(words / 64 + 1);
      words_.resize(words);  // last, because its size tells what there is
    }
  }
  void sort(std::int32_t* numbers, std::int32_t n) {
    for (std::int32_t m = 0; m < n; ++m) {
      const auto number = static_cast<std::uint32_t>(numbers[m]);
      words_[number >> 6] |= std::uint64_t{1} << (number & 63);
      marked_[number >> 12] |= std::uint64_t{1} << ((number >> 6) & 63);
    }
    for (std::size_t high = 0; n > 0; ++high) {
      for (std::uint64_t rows = marked_[high]; rows != 0; rows &= rows - 1) {
        const std::size_t word = high * 64 + static_cast<std::size_t>(std::countr_zero(rows));
        for (std::uint64_t bits = words_[word]; bits != 0; bits &= bits - 1) {
          *numbers++ = static_cast<std::int32_t>(word * 64 + static_cast<std::size_t>(std::countr_zero(bits)));
          --n;
        }
        words_[word] = 0;
      }
      marked_[high] = 0;
    }
  }

 private:
  std::vector<std::uint64_t> words_, marked_;
};

// What one thread needs beside the crystal, kept from call to call: fresh pages cost more than the search in them.
struct Scratch {
  Ascending ascending;
  Buffer<std::int32_t> proposed;
  Buffer<double> squares, ranked;

  std::size_t bytes() const { return ascending.bytes() + proposed.bytes() + squares.bytes() + ranked.bytes(); }
};

// Gives back what a thread keeps from call to call when its task has ended, either way, if that is more than a crystal
// of ordinary size needs: one that needs more pays for its pages.
template <class Kept>
class Trimming {
 public:
  explicit Trimming(Kept& kept) : kept_(kept) {}
  ~Trimming() {
    if (kept_.bytes() > kKeptBytes) {
      kept_ = Kept{};
    }
  }
  Trimming(const Trimming&) = delete;
  Trimming& operator=(const Trimming&) = delete;

 private:
  Kept& kept_;
};

Scratch& own_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

double square_of(Quad v) {
  const Quad s = v * v;
  return (s[0] + s[1]) + s[2];
}

// Ghosts that may lie within the bounds of an atom, in search order.
std::int32_t propose(const Neighborhood& around, std::int32_t atom, FloatBounds bounds, Scratch& scratch) {
  std::int32_t* proposed = scratch.proposed.reserve(static_cast<std::size_t>(around.ghosts()) + kLanes);
  std::int32_t n = 0;
  const Lanes maybe = spread(bounds.maybe);
  around.around(atom, [&](std::uint32_t valid, Lanes estimates, std::int64_t g) {
    const Packing packing(bits_below(estimates, maybe) & valid);
    packing.store(around.numbers(g), proposed + n);
    n += packing.count();
  });
  return n;
}

// Edges of an atom with a square up to `limit`.
std::int32_t count_row(const Neighborhood& around, std::int32_t atom, double limit) {
  const FloatBounds bounds = around.bounds(atom, limit);
  const Lanes sure_bound = spread(bounds.sure), maybe_bound = spread(bounds.maybe);
  const Quad from = around.place(atom);
  std::int32_t count = -1;  // the atom itself is among its ghosts
  around.around(atom, [&](std::uint32_t valid, Lanes estimates, std::int64_t g) {
    const std::uint32_t sure = bits_below(estimates, sure_bound) & valid;
    const std::uint32_t maybe = bits_below(estimates, maybe_bound) & valid;
    count += std::popcount(sure);
    if (maybe != sure) [[unlikely]] {
      const IntLanes numbers = around.numbers(g);
      for (std::uint32_t rest = maybe & ~sure; rest != 0; rest &= rest - 1) {
        count += square_of(around.vector(from, numbers[std::countr_zero(rest)])) <= limit ? 1 : 0;
      }
    }
  });
  return count;
}

// The value that `rank` others stand before in ascending order. Counting beats sorting for the few dozen of a row.
double nth_smallest(const double* values, std::int32_t n, std::int32_t rank, Scratch& scratch) {
  constexpr std::int32_t kFew = 96;
  if (n > kFew) {
    double* ranked = scratch.ranked.reserve(static_cast<std::size_t>(n));
    std::copy_n(values, n, ranked);
    std::nth_element(ranked, ranked + rank, ranked + n);
    return ranked[rank];
  }
  for (std::int32_t m = 0;; ++m) {
    const double value = values[m];
    std::int64_t below = 0, upto = 0;
    for (std::int32_t o = 0; o < n; ++o) {
      below += values[o] < value ? 1 : 0;
      upto += values[o] <= value ? 1 : 0;
    }
    if (below <= rank && rank < upto) {
      return value;
    }
  }
}

// The cut of a row limited in number, with the count kUnknown when the search radius was too short to know it.
RowCut limit_row(const Neighborhood& around, std::int32_t atom, const NeighborRule& rule, double search, bool last,
                 Scratch& scratch) {
  const std::int32_t candidates = propose(around, atom, around.bounds(atom, search), scratch);
  const Quad from = around.place(atom);
  double* squares = scratch.squares.reserve(static_cast<std::size_t>(candidates) + 1);
  const std::int32_t* proposed = scratch.proposed.data();
  const std::int32_t self = around.self(atom);
  std::int32_t n = 0;
  for (std::int32_t m = 0; m < candidates; ++m) {
    const double square = square_of(around.vector(from, proposed[m]));
    squares[n] = square;
    n += static_cast<int>(square <= search) & static_cast<int>(proposed[m] != self);
  }
  const RowCut unknown{0, 0, 0, kUnknown};
  if (n < rule.max_neighbors) {
    return last ? keep_all(search, n) : unknown;
  }
  const double nth = nth_smallest(squares, n, rule.max_neighbors - 1, scratch);
  const RowCut cut = cut_row(squares, n, nth, rule.max_neighbors, rule.whole_shells, rule.shell_tolerance);
  // The shell is known to end where it does only if the next distance it could hold was searched.
  const double factor = (1 + rule.shell_tolerance) * (1 + rule.shell_tolerance);
  return last || cut.upto * factor < search ? cut : unknown;
}

// Writes the row of an atom; `Quota` says whether its last shell is kept in part.
template <bool Quota>
void write_edges(const Neighborhood& around, std::int32_t atom, const double* cut, std::int64_t begin,
                 std::int64_t count, const NeighborEdges& edges, Scratch& scratch) {
  const std::int32_t candidates = propose(around, atom, around.bounds(atom, cut[1]), scratch);
  if (around.gridded()) {
    scratch.ascending.resize(around.ghosts());
    scratch.ascending.sort(scratch.proposed.data(), candidates);
  }
  const double upto = cut[1];
  [[maybe_unused]] const double below = cut[0];
  [[maybe_unused]] double quota = cut[2];
  const std::int32_t* proposed = scratch.proposed.data();
  const std::int32_t self = around.self(atom);
  const Quad from = around.place(atom);
  const IntQuad wrap = around.wrap(atom);
  const std::int32_t first = static_cast<std::int32_t>(around.first());
  std::int32_t* source = edges.source.data + begin;
  std::int32_t* shift = edges.shift.data + 3 * begin;
  double* vector = edges.vector.data + 3 * begin;
  double* distance = edges.distance.data + begin;
  std::int64_t n = 0;
  const auto keep = [&](double square, std::int32_t ghost) {
    int kept = static_cast<int>(square <= upto) & static_cast<int>(ghost != self);
    if constexpr (Quota) {
      if (kept && square >= below) {
        kept = quota > 0 ? 1 : 0;
        quota -= 1;
      }
    }
    return kept;
  };
  // Each edge is written where the next kept one belongs; the whole-register stores spill into the edge after, which
  // is written later, so the last edge of the row is stored exactly.
  std::int32_t m = 0;
  for (; n < count - 1 && m < candidates; ++m) {
    const std::int32_t ghost = proposed[m];
    const Quad v = around.vector(from, ghost);
    const double square = square_of(v);
    const IntQuad cells = around.shift(wrap, ghost);
    source[n] = first + around.atom_of(ghost);
    std::memcpy(shift + 3 * n, &cells, 16);
    std::memcpy(vector + 3 * n, &v, 32);
    distance[n] = square;
    n += keep(square, ghost);
  }
  for (; n < count && m < candidates; ++m) {
    const std::int32_t ghost = proposed[m];
    const Quad v = around.vector(from, ghost);
    const double square = square_of(v);
    const IntQuad cells = around.shift(wrap, ghost);
    source[n] = first + around.atom_of(ghost);
    std::memcpy(shift + 3 * n, &cells, 12);
    std::memcpy(vector + 3 * n, &v, 24);
    distance[n] = square;
    n += keep(square, ghost);
  }
  bool whole = n == count;
  for (; whole && m < candidates; ++m) {
    whole = !keep(square_of(around.vector(from, proposed[m])), proposed[m]);
  }
  if (!whole) {
    throw std::invalid_argument("neighbor_list: the rows were counted for other crystals or another cutoff");
  }
  for (n = 0; n < count; ++n) {
    distance[n] = std::sqrt(distance[n]);
  }
}

void write_row(const Neighborhood& around, std::int32_t atom, const NeighborEdges& edges, Scratch& scratch) {
  const std::int64_t row = around.first() + atom;
  const double* cut = edges.cut.data + 3 * row;
  const std::int64_t begin = edges.offsets[row];
  const std::int64_t count = edges.offsets[row + 1] - begin;
  if (cut[2] == std::numeric_limits<double>::infinity()) {
    write_edges<false>(around, atom, cut, begin, count, edges, scratch);
  } else {
    write_edges<true>(around, atom, cut, begin, count, edges, scratch);
  }
}

// A radius that should hold the wanted neighbours and the end of their shell, from the mean density.
double first_radius(const Neighborhood& around, const NeighborRule& rule) {
  constexpr double kSurplus = 2.0;
  const double wanted = kSurplus * rule.max_neighbors + 4;
  return std::min(rule.cutoff, std::cbrt(wanted / (4.18879 * around.density())));
}

void set_row(const NeighborRows& rows, std::int64_t row, RowCut cut) {
  rows.count[row] = cut.count;
  double* to = rows.cut.data + 3 * row;
  to[0] = cut.below;
  to[1] = cut.upto;
  to[2] = cut.quota;
}

// Splits the rows of a crystal among threads.
template <class Body>
void for_each_row(const Neighborhood& around, int threads, const Body& body) {
  for_each_task((around.atoms() + kRowBlock - 1) / kRowBlock, threads, [&](std::int64_t block, int) {
    Scratch& scratch = own_scratch();
    const Trimming<Scratch> trimming(scratch);
    const auto start = static_cast<std::int32_t>(block) * kRowBlock;
    for (std::int32_t k = start; k < std::min(around.atoms(), start + kRowBlock); ++k) {
      body(around.kth(k), scratch);
    }
  });
}

void count_crystal(const CrystalBatch& batch, const NeighborRule& rule, const NeighborRows& rows, std::int64_t crystal,
                   Neighborhood& around, int threads) {
  around.take(batch, crystal);
  const double limit = square_below(rule.cutoff);
  if (rule.max_neighbors == 0) {
    around.build(rule.cutoff);
    for_each_row(around, threads, [&](std::int32_t i, Scratch&) {
      set_row(rows, around.first() + i, keep_all(limit, count_row(around, i, limit)));
    });
    return;
  }
  std::int32_t* counts = rows.count.data + around.first();
  std::fill_n(counts, around.atoms(), kUnknown);
  for (double radius = first_radius(around, rule);; radius = std::min(1.3 * radius, rule.cutoff)) {
    const bool last = radius >= rule.cutoff;
    const double search = last ? limit : radius * radius;
    around.build(radius);
    for_each_row(around, threads, [&](std::int32_t i, Scratch& scratch) {
      if (counts[i] == kUnknown) {
        set_row(rows, around.first() + i, limit_row(around, i, rule, search, last, scratch));
      }
    });
    if (last || std::find(counts, counts + around.atoms(), kUnknown) == counts + around.atoms()) {
      return;
    }
  }
}

void fill_crystal(const CrystalBatch& batch, double cutoff, const NeighborEdges& edges, std::int64_t crystal,
                  Neighborhood& around, int threads) {
  around.take(batch, crystal);
  double furthest = 0;
  for (std::int64_t row = around.first(); row < around.first() + around.atoms(); ++row) {
    furthest = std::max(furthest, edges.cut[3 * row + 1]);
  }
  around.build(std::min(std::max(std::sqrt(furthest) * (1 + 1e-12), 1e-3), cutoff));
  for_each_row(around, threads, [&](std::int32_t i, Scratch& scratch) { write_row(around, i, edges, scratch); });
}

// Large crystals first, one by one with all threads; then the others, in blocks, one thread each. Calls
// body(crystal, neighbourhood to use, threads).
template <class Body>
void for_each_crystal(const CrystalBatch& batch, int threads, const Body& body) {
  const auto atoms = [&](std::int64_t c) { return batch.atom_offsets[c + 1] - batch.atom_offsets[c]; };
  for (std::int64_t c = 0; c < batch.crystals(); ++c) {
    if (atoms(c) >= kLargeCrystal) {
      Neighborhood around;  // its size pays for its pages, and nobody keeps them
      body(c, around, threads);
    }
  }
  for_each_task((batch.crystals() + kCrystalBlock - 1) / kCrystalBlock, threads, [&](std::int64_t block, int) {
    thread_local Neighborhood around;
    const Trimming<Neighborhood> trimming(around);
    const std::int64_t end = std::min(batch.crystals(), (block + 1) * kCrystalBlock);
    for (std::int64_t c = block * kCrystalBlock; c < end; ++c) {
      if (atoms(c) > 0 && atoms(c) < kLargeCrystal) {
        body(c, around, 1);
      }
    }
  });
}

}  // namespace

void neighbor_count(const CrystalBatch& batch, const NeighborRule& rule, const NeighborRows& rows, int threads) {
  for_each_crystal(batch, threads, [&](std::int64_t c, Neighborhood& around, int inner) {
    count_crystal(batch, rule, rows, c, around, inner);
  });
}

void neighbor_fill(const CrystalBatch& batch, double cutoff, const NeighborEdges& edges, int threads) {
  for_each_crystal(batch, threads, [&](std::int64_t c, Neighborhood& around, int inner) {
    fill_crystal(batch, cutoff, edges, c, around, inner);
  });
}

}  // namespace screening::SCREENING_LEVEL
