// Symmetry expansion of one crystal. Contract in expand_symmetry.hpp.
// One site after the other: an image is compared with the atoms the site has given so far, so a site costs
// operations * multiplicity comparisons, 192 * 192 at worst. No threads: callers parse crystals in parallel.
// Determinism: one fixed order, no reductions across sites. Bound: arithmetic, one subtraction decides most pairs.
#include "kernels/expand_symmetry.hpp"

#include <array>
#include <cmath>
#include <optional>

#include "math/lattice.hpp"

namespace screening {
namespace {

using namespace SCREENING_LEVEL;
using Fraction = std::array<double, 3>;

// Cells thinner than this many tolerances across have images without end within the tolerance.
constexpr double kMostShifts = 1000;

// The shortest way from one fractional point to another, if it is shorter than the tolerance.
//
// A vector r of length below the tolerance has |r . dual_a| < tolerance |dual_a| =: reach_a along every axis. So with
// the difference rounded into [-1/2, 1/2], lattice shifts beyond reach_a + 1/2 cannot help: none at all unless planes
// of the lattice lie closer than twice the tolerance. That makes the search exact in skewed cells too.
class Coincidence {
 public:
  Coincidence(const double* lattice, double tolerance) : square_(tolerance * tolerance) {
    constexpr bool periodic[3] = {true, true, true};
    basis_ = complete_basis(lattice, periodic);
    usable_ = std::isfinite(basis_.measure) && basis_.measure > 0;
    for (int a = 0; a < 3; ++a) {
      reach_[a] = tolerance * length(basis_.dual[a]);
      usable_ = usable_ && reach_[a] < kMostShifts;
      shifts_[a] = usable_ ? static_cast<int>(reach_[a] + 0.5) : 0;
    }
  }

  std::optional<Fraction> operator()(const Fraction& from, const Fraction& to) const {
    Fraction step;
    for (int a = 0; a < 3; ++a) {
      step[a] = to[a] - from[a];  // both are in [0, 1)
      step[a] += step[a] > 0.5 ? -1.0 : step[a] < -0.5 ? 1.0 : 0.0;
      // Written so that a difference that is no number is no coincidence.
      if (!usable_ || !(std::fabs(step[a]) <= reach_[a] + shifts_[a])) {
        return std::nullopt;
      }
    }
    return shortest(step);
  }

 private:
  std::optional<Fraction> shortest(const Fraction& step) const {
    std::optional<Fraction> best;
    double least = square_;
    for (int i = -shifts_[0]; i <= shifts_[0]; ++i) {
      for (int j = -shifts_[1]; j <= shifts_[1]; ++j) {
        for (int k = -shifts_[2]; k <= shifts_[2]; ++k) {
          const Fraction moved = {step[0] + i, step[1] + j, step[2] + k};
          const Vec3 r = (moved[0] * basis_.row[0] + moved[1] * basis_.row[1]) + moved[2] * basis_.row[2];
          if (dot(r, r) < least) {
            least = dot(r, r);
            best = moved;
          }
        }
      }
    }
    return best;
  }

  Basis basis_{};
  double square_;
  std::array<double, 3> reach_{};
  std::array<int, 3> shifts_{};
  bool usable_ = false;
};

// The atoms of one site: where the first image fell, and the sum of the ways from there to the others.
struct Atom {
  Fraction first;
  Fraction drift;
  int images;
};

double wrapped(double x) {
  const double inside = x - std::floor(x);
  return inside < 1 || std::isnan(inside) ? inside : 0.0;  // -1e-17 - floor(-1e-17) rounds to 1
}

Fraction image_of(const double* x, const double* rotation, const double* translation) {
  Fraction y;
  for (int a = 0; a < 3; ++a) {
    const double* row = rotation + 3 * a;
    y[a] = wrapped(((row[0] * x[0] + row[1] * x[1]) + row[2] * x[2]) + translation[a]);
  }
  return y;
}

void place(const Fraction& image, const Coincidence& coincidence, std::vector<Atom>& atoms) {
  for (Atom& atom : atoms) {
    if (const auto step = coincidence(atom.first, image)) {
      for (int a = 0; a < 3; ++a) {
        atom.drift[a] += (*step)[a];
      }
      ++atom.images;
      return;
    }
  }
  atoms.push_back({image, {0, 0, 0}, 1});
}

}  // namespace

ExpandedSites expand_sites(View<const double> fractional, View<const double> rotations, View<const double> translations,
                           View<const double> lattice, double tolerance) {
  const Coincidence coincidence(lattice.data, tolerance);
  ExpandedSites expanded;
  std::vector<Atom> atoms;
  for (std::int64_t site = 0; site < fractional.rows(); ++site) {
    atoms.clear();
    for (std::int64_t op = 0; op < rotations.rows(); ++op) {
      place(image_of(fractional.data + 3 * site, rotations.data + 9 * op, translations.data + 3 * op), coincidence,
            atoms);
    }
    for (const Atom& atom : atoms) {
      for (int a = 0; a < 3; ++a) {
        expanded.fractional.push_back(wrapped(atom.first[a] + atom.drift[a] / atom.images));
      }
      expanded.site.push_back(static_cast<std::int32_t>(site));
    }
  }
  return expanded;
}

}  // namespace screening
