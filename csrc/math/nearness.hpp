// Deciding in float32 what is certainly near and what may be, and bins that keep near things together.
// Host and device. Coordinates are relative to the middle of the box around a cell's wrapped atoms.
#pragma once

#include <cmath>
#include <cstdint>

#include "runtime/level.hpp"

namespace screening::SCREENING_LEVEL {

// How far a squared distance from float32 coordinates may miss the exact one where it matters: with margin m and any s
// up to radius^2, an exact square of at most s is below s + m in float32, and a float32 square below s - m belongs to
// an exact one of at most s. No coordinate difference exceeds `reach` = radius + the width of the box.
//
// An atom is rounded once (u reach, u = 2^-24), a ghost as atom + lattice vector three times (3 u reach), the
// difference once more: at most 5 u reach along an axis, so a distance is off by less than h = 9 u reach. Then
// (d + h)^2 <= d^2 + 2 h radius + h^2 for d <= radius, and the six operations of the square add 6 u of it. Rounding
// s +- m to float32 adds u radius^2 again; the factors below leave room for all of that.
SCREENING_HD double float_margin(double reach, double radius) {
  const double u = 1.0 / 16777216.0;
  const double h = 10 * u * reach;
  return (2 * h * radius + h * h) + 16 * u * radius * radius;
}

// Equal bins over the box around everything within `radius` of the cell's atoms.
struct BinGrid {
  std::int32_t bins[3];
  float offset[3], scale[3];
  float look;  // bins that hold the points within the radius of x lie between those of x - look and x + look
};

// Bins as wide as one looks, so that three along an axis hold a neighbourhood, and wider where there would be more of
// them than `most`. `half` is half the box around the atoms, without the radius.
SCREENING_HD BinGrid bin_grid(const double* half, double radius, double most) {
  BinGrid grid{};
  double extent[3], total = 0;
  for (int axis = 0; axis < 3; ++axis) {
    extent[axis] = 2 * (half[axis] + radius);
  }
  // float32 places a point to within some 10 * 2^-24 of the extent.
  grid.look = static_cast<float>(radius + 1e-5 * ((extent[0] + extent[1]) + extent[2]));
  for (double width = grid.look;; width *= 1.26) {
    total = 1;
    for (int axis = 0; axis < 3; ++axis) {
      const double bins = floor(extent[axis] / width);
      grid.bins[axis] = bins > 1 ? static_cast<std::int32_t>(bins < 1e6 ? bins : 1e6) : 1;
      total *= grid.bins[axis];
    }
    if (total <= most) {
      break;
    }
  }
  for (int axis = 0; axis < 3; ++axis) {
    grid.offset[axis] = static_cast<float>(extent[axis] / 2);
    grid.scale[axis] = static_cast<float>(grid.bins[axis] / extent[axis]);
  }
  return grid;
}

// Monotone in `at`: what lies outside the box counts to the bins at its edge.
SCREENING_HD std::int32_t bin_along(const BinGrid& grid, int axis, float at) {
  const float bin = (at + grid.offset[axis]) * grid.scale[axis];
  const std::int32_t last = grid.bins[axis] - 1;
  return bin <= 0 ? 0 : bin < static_cast<float>(last) ? static_cast<std::int32_t>(bin) : last;
}

}  // namespace screening::SCREENING_LEVEL
