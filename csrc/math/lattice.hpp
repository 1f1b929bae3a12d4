// Periodic geometry of one crystal, host and device: completing a lattice, wrapping atoms, counting images.
// Lattice vectors are rows. The order of operations is fixed and nothing is fused, so CPU levels and the GPU give
// the same bits.
#pragma once

#include <cmath>

#include "runtime/level.hpp"

namespace screening::SCREENING_LEVEL {

struct Vec3 {
  double x, y, z;
};

SCREENING_HD Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
SCREENING_HD Vec3 operator-(Vec3 a, Vec3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
SCREENING_HD Vec3 operator*(double s, Vec3 a) { return {s * a.x, s * a.y, s * a.z}; }
SCREENING_HD double dot(Vec3 a, Vec3 b) { return (a.x * b.x + a.y * b.y) + a.z * b.z; }
SCREENING_HD Vec3 cross(Vec3 a, Vec3 b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
SCREENING_HD double length(Vec3 a) { return sqrt(dot(a, a)); }

// A lattice whose non-periodic vectors were replaced by unit vectors at right angles to the periodic ones, so that
// it can always be inverted: molecules, wires and slabs come with zero or arbitrary vectors there.
struct Basis {
  Vec3 row[3];
  Vec3 dual[3];  // dot(row[a], dual[b]) = (a == b); |dual[a]| is one over the spacing of the planes across a
  bool periodic[3];
  double measure;  // volume of the periodic part: angstrom^3, ^2, ^1, or 1 for a molecule
};

SCREENING_HD Vec3 unit_across(Vec3 a) {
  const double x = fabs(a.x), y = fabs(a.y), z = fabs(a.z);
  const Vec3 axis = x <= y && x <= z ? Vec3{1, 0, 0} : y <= z ? Vec3{0, 1, 0} : Vec3{0, 0, 1};
  const Vec3 across = cross(a, axis);
  const double norm = length(across);
  return norm > 0 ? (1 / norm) * across : axis;
}

SCREENING_HD Basis complete_basis(const double* lattice, const bool* pbc) {
  Basis basis{};
  int periodic = 0;
  for (int a = 0; a < 3; ++a) {
    basis.row[a] = {lattice[3 * a], lattice[3 * a + 1], lattice[3 * a + 2]};
    basis.periodic[a] = pbc[a];
    periodic += pbc[a] ? 1 : 0;
  }
  if (periodic == 0) {
    basis.row[0] = {1, 0, 0};
    basis.row[1] = {0, 1, 0};
    basis.row[2] = {0, 0, 1};
  } else if (periodic < 3) {
    for (int a = 0; a < 3; ++a) {
      const int b = (a + 1) % 3, c = (a + 2) % 3;
      if (periodic == 2 && !pbc[a]) {
        const Vec3 normal = cross(basis.row[b], basis.row[c]);
        const double area = length(normal);
        basis.row[a] = area > 0 ? (1 / area) * normal : normal;
      } else if (periodic == 1 && pbc[a]) {
        basis.row[b] = unit_across(basis.row[a]);
        const Vec3 third = cross(basis.row[a], basis.row[b]);
        const double norm = length(third);
        basis.row[c] = norm > 0 ? (1 / norm) * third : third;
      }
    }
  }
  const double volume = dot(basis.row[0], cross(basis.row[1], basis.row[2]));
  basis.measure = fabs(volume);
  for (int a = 0; a < 3; ++a) {
    basis.dual[a] = (1 / volume) * cross(basis.row[(a + 1) % 3], basis.row[(a + 2) % 3]);
  }
  return basis;
}

// shift . lattice, with rounding that is odd in the shift: the offset of -S is exactly minus the offset of S.
SCREENING_HD Vec3 offset_of(const Basis& basis, int s0, int s1, int s2) {
  return (static_cast<double>(s0) * basis.row[0] + static_cast<double>(s1) * basis.row[1]) +
         static_cast<double>(s2) * basis.row[2];
}

// Lattice vectors to add so that a position falls into the cell along the periodic ones; 0 along the others.
SCREENING_HD int wrap_along(const Basis& basis, int axis, Vec3 position) {
  return basis.periodic[axis] ? static_cast<int>(-floor(dot(position, basis.dual[axis]))) : 0;
}

// How far images must reach along an axis so that two atoms of the wrapped cell, `span` apart at most in fractional
// coordinates, see every image within `radius`: a whole number, which may be beyond every integer. The small surplus
// covers rounding.
SCREENING_HD double reach_along(const Basis& basis, int axis, double span, double radius) {
  return basis.periodic[axis] ? floor(radius * length(basis.dual[axis]) + span + 1e-6) : 0;
}

struct Range {
  int low, high;
};

// Which shifts have an offset no longer than `length` and could bring two wrapped atoms within `radius`. The first is
// found vector by vector: the bounds of a later shift hold for the given earlier ones, so that next to nothing is tried
// in vain even in very skewed cells. The second bounds each shift alone: atoms that lie far apart along one vector, or
// where nothing is periodic, make no images along the others. A small surplus covers rounding; along vectors that are
// not periodic the only shift is 0.
class ShiftBounds {
 public:
  SCREENING_HD ShiftBounds(const Basis& basis, double length, double radius)
      : basis_(basis), length_(length * (1 + 1e-9) + 1e-9) {
    for (int axis = 0; axis < 3; ++axis) {
      reach_[axis] = fmin(reach_along(basis, axis, 1, radius), 1e9);  // what an integer holds
    }
    const Vec3 c = basis.row[2];
    const double cc = dot(c, c);
    const Vec3 b = basis.row[1] - (dot(basis.row[1], c) / cc) * c;
    const Vec3 a = basis.row[0] - (dot(basis.row[0], c) / cc) * c;
    bb_ = dot(b, b);
    along_ = dot(a, b) / bb_;
    across_ = dot(a, a) - along_ * along_ * bb_;
  }

  // No fewer shifts than there are.
  SCREENING_HD double most() const { return (2 * reach_[0] + 1) * (2 * reach_[1] + 1) * (2 * reach_[2] + 1); }

  SCREENING_HD Range first() const {
    const double spacing_inverse = sqrt(dot(basis_.dual[0], basis_.dual[0]));
    return around(0, 0, length_ * spacing_inverse, 0);
  }

  SCREENING_HD Range second(int s0) const {
    const double left = length_ * length_ - s0 * (s0 * across_);
    return around(1, -s0 * along_, left > 0 ? sqrt(left / bb_) : 0, left);
  }

  SCREENING_HD Range third(int s0, int s1) const {
    const Vec3 t = offset_of(basis_, s0, s1, 0);
    const Vec3 c = basis_.row[2];
    const double cc = dot(c, c), middle = dot(t, c) / cc;
    const double left = length_ * length_ - (dot(t, t) - middle * middle * cc);
    return around(2, -middle, left > 0 ? sqrt(left / cc) : 0, left);
  }

 private:
  SCREENING_HD Range around(int axis, double middle, double half, double left) const {
    if (!basis_.periodic[axis]) {
      return {0, 0};
    }
    if (left < -1e-6 * length_ * length_) {
      return {0, -1};
    }
    const double reach = reach_[axis];
    return {static_cast<int>(fmin(fmax(ceil(middle - half - 1e-6), -reach), reach + 1)),
            static_cast<int>(fmax(fmin(floor(middle + half + 1e-6), reach), -reach - 1))};
  }

  const Basis& basis_;
  double length_, reach_[3], bb_, along_, across_;
};

// r_ij for an edge of wrapped atoms: antisymmetric bit for bit under exchange of i, j with -S, so that every edge
// has its reverse even where the distance ties with the cutoff.
SCREENING_HD Vec3 edge_vector_of(Vec3 from, Vec3 to, Vec3 offset) { return (to - from) + offset; }

// The largest squared distance whose root is below the cutoff: comparing squares then decides exactly what comparing
// distances would.
SCREENING_HD double square_below(double cutoff) {
  double square = cutoff * cutoff;
  while (square > 0 && sqrt(square) >= cutoff) {
    square = nextafter(square, 0.0);
  }
  while (sqrt(nextafter(square, 1e300)) < cutoff) {
    square = nextafter(square, 1e300);
  }
  return square;
}

}  // namespace screening::SCREENING_LEVEL
