// One crystal made ready for neighbour search on the CPU: wrapped atoms, and ghosts, the images of atoms that any
// atom of the cell can see within a radius.
//
// Ghosts are numbered by (atom, shift), the order of a row. A float32 test with a proven margin proposes ghosts, 4 to
// 16 at a time: |g - p|^2 < b as |g|^2 - 2 g.p < b - |p|^2, three multiply-adds a ghost; float64 decides. Above a size
// the ghosts are also binned, so that a row looks at its surroundings only.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels.hpp"
#include "kernels/cell_images.hpp"
#include "kernels/usable.hpp"
#include "math/lattice.hpp"
#include "runtime/buffer.hpp"
#include "runtime/lanes.hpp"

namespace screening::SCREENING_LEVEL {

// Float bounds around a squared radius: below `sure` the exact square is within it, not below `maybe` it is not.
struct FloatBounds {
  float sure, maybe;
};

class Neighborhood {
 public:
  // Wraps the atoms of a crystal into its cell. `build` follows.
  void take(const CrystalBatch& batch, std::int64_t crystal) {
    crystal_ = crystal;
    first_ = batch.atom_offsets[crystal];
    atoms_ = batch.atom_offsets[crystal + 1] - static_cast<std::int32_t>(first_);
    basis_ = complete_basis(batch.lattice.data + 9 * crystal, batch.pbc.data + 3 * crystal);
    const auto n = static_cast<std::size_t>(atoms_);
    place_.reserve(n);
    self_.reserve(n);
    wrap_.reserve(n);
    Vec3 low{1e300, 1e300, 1e300}, high{-1e300, -1e300, -1e300};
    for (std::size_t i = 0; i < n; ++i) {
      const double* at = batch.positions.data + 3 * (static_cast<std::size_t>(first_) + i);
      const Vec3 raw{at[0], at[1], at[2]};
      const IntQuad wrap{wrap_along(basis_, 0, raw), wrap_along(basis_, 1, raw), wrap_along(basis_, 2, raw), 0};
      const Vec3 p = raw + offset_of(basis_, wrap[0], wrap[1], wrap[2]);
      place_[i] = Quad{p.x, p.y, p.z, 0};
      wrap_[i] = wrap;
      low = {std::min(low.x, p.x), std::min(low.y, p.y), std::min(low.z, p.z)};
      high = {std::max(high.x, p.x), std::max(high.y, p.y), std::max(high.z, p.z)};
    }
    const Vec3 origin{(low.x + high.x) / 2, (low.y + high.y) / 2, (low.z + high.z) / 2};
    half_[0] = high.x - origin.x;
    half_[1] = high.y - origin.y;
    half_[2] = high.z - origin.z;
    float* x = x_.reserve(n);
    float* y = y_.reserve(n);
    float* z = z_.reserve(n);
    for (std::size_t i = 0; i < n; ++i) {
      x[i] = static_cast<float>(place_[i][0] - origin.x);
      y[i] = static_cast<float>(place_[i][1] - origin.y);
      z[i] = static_cast<float>(place_[i][2] - origin.z);
    }
  }

  // Lays out the ghosts within `radius` of the cell's atoms.
  void build(double radius) {
    radius_ = radius;
    const double reach = 2 * std::max({half_[0], half_[1], half_[2]}) + radius;
    // Coordinates are below 2 reach in size and hold a rounding of 2^-24 each, their squares and products below
    // 12 reach^2 in all: some 20 roundings of that size at the most.
    margin_ = 256 * reach * reach * 0x1p-24;
    if (!images_.lay(basis_, half_, radius)) {
      refuse(Fault::images, crystal_, 0, 0);
    }
    lay_ghosts();
    gridded_ = grid_pays();
    if (gridded_) {
      bin_ghosts();
    }
  }

  // Bounds for the estimates of `around` that stand for a squared distance up to `square` from an atom.
  FloatBounds bounds(std::int32_t atom, double square) const {
    const double norm = static_cast<double>(x_[atom]) * x_[atom] + static_cast<double>(y_[atom]) * y_[atom] +
                        static_cast<double>(z_[atom]) * z_[atom];
    return {static_cast<float>(square - norm - margin_), static_cast<float>(square - norm + margin_)};
  }

  std::size_t bytes() const {
    return place_.bytes() + wrap_.bytes() + 3 * x_.bytes() + self_.bytes() + images_.bytes() + 6 * ghost_x_.bytes() +
           ghost_bin_.bytes() + bin_start_.bytes() + ghost_number_.bytes() + row_order_.bytes() + sorted_.bytes();
  }
  std::int32_t atoms() const { return atoms_; }
  std::int64_t first() const { return first_; }
  bool gridded() const { return gridded_; }
  // The atom to search as the k-th: near ones after each other, so that what they share is still in the cache.
  std::int32_t kth(std::int32_t k) const { return gridded_ ? row_order_[static_cast<std::size_t>(k)] : k; }
  std::int64_t ghosts() const { return ghosts_; }

  // Atoms per angstrom^3 of the cell, or of the box around the atoms where the cell is no volume.
  double density() const {
    const bool whole = basis_.periodic[0] && basis_.periodic[1] && basis_.periodic[2];
    return atoms_ / (whole ? basis_.measure : 8 * (half_[0] + 1) * (half_[1] + 1) * (half_[2] + 1));
  }

  // The ghost that is the atom itself, which is no edge.
  std::int32_t self(std::int32_t atom) const { return self_[atom]; }
  std::int32_t atom_of(std::int32_t ghost) const { return ghost_atom_[ghost]; }
  Quad vector(Quad from, std::int32_t ghost) const {
    return (place_[ghost_atom_[ghost]] - from) + images_.offset(ghost_image_[ghost]);
  }
  IntQuad shift(IntQuad wrap, std::int32_t ghost) const {
    return (images_.shift(ghost_image_[ghost]) + wrap_[ghost_atom_[ghost]]) - wrap;
  }
  Quad place(std::int32_t atom) const { return place_[atom]; }
  IntQuad wrap(std::int32_t atom) const { return wrap_[atom]; }

  // Calls body(lanes that count, estimate, position) for every group of ghosts; |g - p|^2 is the estimate plus the
  // atom's norm.
  template <class Body>
  void around(std::int32_t atom, const Body& body) const {
    const Lanes x = spread(-2 * x_[atom]), y = spread(-2 * y_[atom]), z = spread(-2 * z_[atom]);
    const auto group = [&](std::int64_t g, std::uint32_t valid) {
      const Lanes estimate =
          multiply_add(load(ghost_z_.data() + g), z,
                       multiply_add(load(ghost_y_.data() + g), y,
                                    multiply_add(load(ghost_x_.data() + g), x, load(ghost_norm_.data() + g))));
      body(valid, estimate, g);
    };
    if (!gridded_) {
      for (std::int64_t g = 0; g < ghosts_; g += kLanes) {
        group(g, kAllLanes);
      }
      return;
    }
    std::int32_t low[3], high[3];
    const float at[3] = {x_[atom], y_[atom], z_[atom]};
    for (int a = 0; a < 3; ++a) {
      low[a] = bin_along(a, at[a] - bin_reach_);
      high[a] = bin_along(a, at[a] + bin_reach_);
    }
    for (std::int32_t bx = low[0]; bx <= high[0]; ++bx) {
      for (std::int32_t by = low[1]; by <= high[1]; ++by) {
        const std::int32_t* start = bin_start_.data() + (static_cast<std::int64_t>(bx) * bins_[1] + by) * bins_[2];
        const std::int64_t end = start[high[2] + 1];
        for (std::int64_t g = start[low[2]]; g < end; g += kLanes) {
          group(g, end - g >= kLanes ? kAllLanes : (1u << (end - g)) - 1u);
        }
      }
    }
  }

  // The ghost numbers of the lanes from position g of the search order.
  IntLanes numbers(std::int64_t g) const {
    if (!gridded_) {
      return counting_from(0) + static_cast<std::int32_t>(g);
    }
    IntLanes lanes;
    std::memcpy(&lanes, ghost_number_.data() + g, sizeof lanes);
    return lanes;
  }

 private:
  static constexpr std::uint32_t kAllLanes = kLanes == 32 ? ~0u : (1u << kLanes) - 1u;

  // Every image of every atom that comes within the radius of the box around the cell's atoms.
  void lay_ghosts() {
    const Lanes hx = spread(static_cast<float>(half_[0])), hy = spread(static_cast<float>(half_[1])),
                hz = spread(static_cast<float>(half_[2])),
                bound = spread(static_cast<float>(radius_ * radius_ + margin_));
    const float *image_x = images_.x(), *image_y = images_.y(), *image_z = images_.z();
    const std::int32_t images = images_.count(), home = images_.home();
    std::int64_t room = 0;
    ghosts_ = 0;
    for (std::int32_t j = 0; j < atoms_; ++j) {
      if (ghosts_ + images + kLanes > room) {
        room = grow(ghosts_ + images + kLanes);
      }
      const Lanes x = spread(x_[j]), y = spread(y_[j]), z = spread(z_[j]);
      for (std::int32_t t = 0; t < images; t += kLanes) {
        const Lanes gx = load(image_x + t) + x, gy = load(image_y + t) + y, gz = load(image_z + t) + z;
        const Lanes ex = at_least_zero(absolute(gx) - hx), ey = at_least_zero(absolute(gy) - hy),
                    ez = at_least_zero(absolute(gz) - hz);
        const std::uint32_t bits = bits_below((ex * ex + ey * ey) + ez * ez, bound);
        if (bits == 0) {
          continue;
        }
        if (t <= home && home < t + kLanes) {
          self_[j] = static_cast<std::int32_t>(ghosts_) + std::popcount(bits & ((1u << (home - t)) - 1u));
        }
        const Packing packing(bits);
        packing.store(gx, ghost_x_.data() + ghosts_);
        packing.store(gy, ghost_y_.data() + ghosts_);
        packing.store(gz, ghost_z_.data() + ghosts_);
        packing.store((gx * gx + gy * gy) + gz * gz, ghost_norm_.data() + ghosts_);
        packing.store(counting_from(t), ghost_image_.data() + ghosts_);
        packing.store(IntLanes{} + j, ghost_atom_.data() + ghosts_);
        ghosts_ += packing.count();
      }
      if (ghosts_ > kMostGhosts) {
        refuse(Fault::ghosts, crystal_, 0, 0);
      }
    }
    grow(ghosts_ + kLanes);
    pad_ghosts();
  }

  // Makes room for `size` ghosts and keeps those laid so far; returns the room there is now.
  std::int64_t grow(std::int64_t size) {
    if (size <= room_) {
      return room_;
    }
    const std::int64_t room = std::max<std::int64_t>(2 * room_, size + 1024);
    ghost_x_.enlarge(ghosts_, room);
    ghost_y_.enlarge(ghosts_, room);
    ghost_z_.enlarge(ghosts_, room);
    ghost_norm_.enlarge(ghosts_, room);
    ghost_atom_.enlarge(ghosts_, room);
    ghost_image_.enlarge(ghosts_, room);
    return room_ = room;
  }

  void pad_ghosts() {
    std::fill_n(ghost_x_.data() + ghosts_, kLanes, 0.0f);
    std::fill_n(ghost_y_.data() + ghosts_, kLanes, 0.0f);
    std::fill_n(ghost_z_.data() + ghosts_, kLanes, 0.0f);
    std::fill_n(ghost_norm_.data() + ghosts_, kLanes, CellImages::kFar * CellImages::kFar);
  }

  // Whether a row is found sooner in bins: 9 runs of bins and putting the row in order, against a pass over all
  // ghosts; in units of what one ghost of such a pass costs, as measured.
  bool grid_pays() const {
    const double edges = 4.19 * density() * radius_ * radius_ * radius_;
    return static_cast<double>(ghosts_) > 600 + 28 * edges;
  }

  std::int32_t bin_along(int axis, float at) const {
    const float bin = (at + bin_offset_[axis]) * bin_scale_[axis];
    return bin <= 0 ? 0 : std::min(static_cast<std::int32_t>(bin), bins_[axis] - 1);
  }

  // Sorts the ghosts' coordinates into bins, in number order within a bin. A row looks at 9 runs along z, so bins are
  // a radius wide across and a quarter of it along the runs.
  void bin_ghosts() {
    double width = radius_, extent[3], total = 0;
    for (;; width *= 1.26) {
      total = 1;
      for (int a = 0; a < 3; ++a) {
        extent[a] = 2 * (half_[a] + radius_);
        bins_[a] = std::max(1, static_cast<std::int32_t>(std::min(extent[a] / (a == 2 ? width / 4 : width), 1e6)));
        total *= bins_[a];
      }
      if (total <= 2.0 * static_cast<double>(ghosts_)) {
        break;
      }
    }
    for (int a = 0; a < 3; ++a) {
      bin_offset_[a] = static_cast<float>(extent[a] / 2);
      bin_scale_[a] = static_cast<float>(bins_[a] / extent[a]);
    }
    // Wider than the radius by what float32 may lose in placing an atom and a ghost.
    bin_reach_ = static_cast<float>(radius_ + std::sqrt(margin_) + 1e-5 * (extent[0] + extent[1] + extent[2]));
    const auto n = static_cast<std::size_t>(ghosts_);
    const auto bins = static_cast<std::size_t>(total);
    std::int32_t* bin = ghost_bin_.reserve(n);
    std::int32_t* start = bin_start_.reserve(bins + 2);
    std::fill_n(start, bins + 2, 0);
    for (std::size_t g = 0; g < n; ++g) {
      bin[g] =
          (bin_along(0, ghost_x_[g]) * bins_[1] + bin_along(1, ghost_y_[g])) * bins_[2] + bin_along(2, ghost_z_[g]);
      ++start[bin[g] + 2];
    }
    for (std::size_t b = 2; b < bins + 2; ++b) {
      start[b] += start[b - 1];
    }
    std::int32_t* number = ghost_number_.reserve(n + kLanes);
    for (std::size_t g = 0; g < n; ++g) {
      number[start[bin[g] + 1]++] = static_cast<std::int32_t>(g);
    }
    std::fill_n(number + n, kLanes, 0);
    float* sorted = sorted_.reserve(n);
    for (Buffer<float>* along : {&ghost_x_, &ghost_y_, &ghost_z_, &ghost_norm_}) {
      for (std::size_t g = 0; g < n; ++g) {
        sorted[g] = (*along)[static_cast<std::size_t>(number[g])];
      }
      std::copy_n(sorted, n, along->data());
    }
    std::int32_t* next = row_order_.reserve(static_cast<std::size_t>(atoms_));
    for (std::size_t g = 0; g < n; ++g) {
      const auto ghost = static_cast<std::size_t>(number[g]);
      if (ghost_image_[ghost] == images_.home()) {
        *next++ = ghost_atom_[ghost];
      }
    }
  }

  std::int64_t crystal_ = 0, first_ = 0;
  std::int32_t atoms_ = 0;
  Basis basis_{};
  double half_[3] = {}, radius_ = 0, margin_ = 0;
  Buffer<Quad> place_;
  Buffer<IntQuad> wrap_;
  Buffer<float> x_, y_, z_;
  Buffer<std::int32_t> self_;
  CellImages images_;

  std::int64_t ghosts_ = 0, room_ = 0;
  Buffer<float> ghost_x_, ghost_y_, ghost_z_, ghost_norm_;
  Buffer<std::int32_t> ghost_atom_, ghost_image_;

  bool gridded_ = false;
  std::int32_t bins_[3] = {};
  float bin_offset_[3] = {}, bin_scale_[3] = {}, bin_reach_ = 0;
  Buffer<std::int32_t> ghost_bin_, bin_start_, ghost_number_, row_order_;
  Buffer<float> sorted_;
};

}  // namespace screening::SCREENING_LEVEL
