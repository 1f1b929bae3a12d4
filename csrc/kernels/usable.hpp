// What a crystal must be for its neighbour list to exist, and the words when it is not. Host and device.
#pragma once

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "math/lattice.hpp"
#include "runtime/level.hpp"

namespace screening::SCREENING_LEVEL {

// Beyond these a search is refused.
inline constexpr double kMostImages = 1e8;                    // of a cell
inline constexpr std::int64_t kMostGhosts = 2147483647 - 64;  // of a crystal

// In the order in which they are looked for.
enum class Fault : std::int32_t { ends, order, lattice, volume, images, ghosts, rows, position };

SCREENING_HD bool finite_where_periodic(const double* lattice, const bool* pbc) {
  bool finite = true;
  for (int entry = 0; entry < 9; ++entry) {
    finite = finite && (!pbc[entry / 3] || lattice[entry] - lattice[entry] == 0);
  }
  return finite;
}

SCREENING_HD bool encloses_volume(const Basis& basis) { return basis.measure > 1e-6; }

SCREENING_HD bool is_reachable(Vec3 at, const Basis& basis) {
  bool reachable = fabs(at.x) < 1e9 && fabs(at.y) < 1e9 && fabs(at.z) < 1e9;
  for (int axis = 0; axis < 3; ++axis) {
    reachable = reachable && fabs(dot(at, basis.dual[axis])) < 1e9;
  }
  return reachable;
}

// `atoms` is the size of the batch; `atom` counts within the crystal.
inline std::string words(Fault fault, std::int64_t crystal, std::int64_t atom, std::int64_t atoms) {
  const std::string which = "crystal " + std::to_string(crystal) + ": ";
  switch (fault) {
    case Fault::ends:
      return "atom_offsets must run from 0 to the number of atoms, " + std::to_string(atoms);
    case Fault::order:
      return which + "atom_offsets must not decrease";
    case Fault::lattice:
      return which + "a periodic lattice vector is not finite";
    case Fault::volume:
      return which + "the periodic lattice vectors enclose no volume";
    case Fault::images:
      return which + "the cutoff reaches too many images of the cell; is the lattice in angstrom?";
    case Fault::ghosts:
      return which + "more than 2^31 atom images lie within the cutoff; use a shorter cutoff";
    case Fault::rows:
      return "edge_offsets must ascend from 0 to the number of edges";
    case Fault::position:
      return which + "the position of atom " + std::to_string(atom) + " is not finite or absurdly far away";
  }
  return which + "unusable";
}

[[noreturn]] inline void refuse(Fault fault, std::int64_t crystal, std::int64_t atom, std::int64_t atoms) {
  throw std::invalid_argument("no neighbour list: " + words(fault, crystal, atom, atoms));
}

}  // namespace screening::SCREENING_LEVEL
