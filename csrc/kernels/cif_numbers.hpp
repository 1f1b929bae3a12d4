// The numbers of a CIF as it writes them: coordinates of sites and the cell. Host only: a front without twins.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace screening {

struct SiteCoordinates {
  std::vector<double> rows;    // (sites, 3)
  std::int64_t unusable = -1;  // the first text that is no finite number below the limit, or -1; then rows mean nothing
  bool repeated = false;       // whether two sites have the same three numbers
};

// Reads `texts`, every x, then every y, then every z, into rows. A number may carry its standard uncertainty in its
// last digits: 0.3333(2). Numbers are correctly rounded; those of magnitude `limit` or more are unusable.
SiteCoordinates site_coordinates(std::span<const std::string_view> texts, double limit);

struct CellLattice {
  std::array<double, 6> parameters{};  // lengths in angstrom, angles in degrees
  std::array<double, 9> lattice{};     // (3, 3) rows are lattice vectors
  int unusable = -1;                   // the first text that is no finite number below the limit, or -1
  bool exists = false;                 // whether a cell has these parameters; a flat one counts
};

// Reads a, b, c, alpha, beta, gamma, with or without uncertainty, and lays a along x and b in the xy plane. A right
// angle is exact: it does not tilt the cell by 1e-17.
CellLattice cell_lattice(const std::array<std::string_view, 6>& texts, double limit);

}  // namespace screening
