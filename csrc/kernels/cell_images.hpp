// The images of a cell that bring two of its atoms within a radius, on the CPU: shifts and offsets, in ascending order
// of the shifts. Each is laid once for all atoms; neighborhood.hpp makes ghosts of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/usable.hpp"
#include "math/lattice.hpp"
#include "runtime/buffer.hpp"
#include "runtime/lanes.hpp"

namespace screening::SCREENING_LEVEL {

typedef double Quad __attribute__((vector_size(32)));
typedef std::int32_t IntQuad __attribute__((vector_size(16)));

class CellImages {
 public:
  static constexpr float kFar = 1e18f;  // where no atom is; its square is a float still

  // Lays out the images for a box of `half` the widths around the wrapped atoms. False where they are too many, which
  // is known before any is laid.
  bool lay(const Basis& basis, const double* half, double radius) {
    const double extent = 2 * std::sqrt(half[0] * half[0] + half[1] * half[1] + half[2] * half[2]);
    const ShiftBounds within(basis, extent + radius, radius);
    if (within.most() > kMostImages && !few_enough(within)) {
      return false;
    }
    const Vec3 furthest{2 * half[0] + radius + 1e-6, 2 * half[1] + radius + 1e-6, 2 * half[2] + radius + 1e-6};
    count_ = 0;
    const Range along_0 = within.first();
    for (int s0 = along_0.low; s0 <= along_0.high; ++s0) {
      const Range along_1 = within.second(s0);
      for (int s1 = along_1.low; s1 <= along_1.high; ++s1) {
        const Range along_2 = within.third(s0, s1);
        for (int s2 = along_2.low; s2 <= along_2.high; ++s2) {
          const Vec3 t = offset_of(basis, s0, s1, s2);
          if (std::fabs(t.x) <= furthest.x && std::fabs(t.y) <= furthest.y && std::fabs(t.z) <= furthest.z) {
            add(IntQuad{s0, s1, s2, 0}, t);
          }
        }
      }
    }
    for (Buffer<float>* along : {&x_, &y_, &z_}) {
      std::fill_n(along->data() + count_, kLanes, kFar);
    }
    return true;
  }

  std::size_t bytes() const { return offset_.bytes() + shift_.bytes() + 3 * x_.bytes(); }
  std::int32_t count() const { return count_; }
  std::int32_t home() const { return home_; }  // the one without a shift
  Quad offset(std::int32_t image) const { return offset_[image]; }
  IntQuad shift(std::int32_t image) const { return shift_[image]; }

  // In float32, with whole registers of distant ones behind the last.
  const float* x() const { return x_.data(); }
  const float* y() const { return y_.data(); }
  const float* z() const { return z_.data(); }

 private:
  // Whether the shifts to look at, and the lines that they are looked for on, can be gone through.
  static bool few_enough(const ShiftBounds& within) {
    double looks = 0;
    const Range along_0 = within.first();
    for (int s0 = along_0.low; s0 <= along_0.high && looks <= kMostImages; ++s0) {
      const Range along_1 = within.second(s0);
      looks += 1;
      for (int s1 = along_1.low; s1 <= along_1.high && looks <= kMostImages; ++s1) {
        const Range along_2 = within.third(s0, s1);
        looks += std::max(1, along_2.high - along_2.low + 1);
      }
    }
    return looks <= kMostImages;
  }

  void add(IntQuad shift, Vec3 offset) {
    if (count_ + kLanes >= room_) {
      grow();
    }
    if (shift[0] == 0 && shift[1] == 0 && shift[2] == 0) {
      home_ = count_;
    }
    offset_[count_] = Quad{offset.x, offset.y, offset.z, 0};
    shift_[count_] = shift;
    x_[count_] = static_cast<float>(offset.x);
    y_[count_] = static_cast<float>(offset.y);
    z_[count_] = static_cast<float>(offset.z);
    ++count_;
  }

  void grow() {
    const std::int32_t room = std::max(2 * room_, 512);
    offset_.enlarge(count_, room);
    shift_.enlarge(count_, room);
    for (Buffer<float>* along : {&x_, &y_, &z_}) {
      along->enlarge(count_, room);
    }
    room_ = room;
  }

  std::int32_t count_ = 0, home_ = 0, room_ = 0;
  Buffer<Quad> offset_;
  Buffer<IntQuad> shift_;
  Buffer<float> x_, y_, z_;
};

}  // namespace screening::SCREENING_LEVEL
