// From the sites a file lists and its symmetry operations to every atom of the cell. Host only: a front without twins.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/view.hpp"

namespace screening {

struct ExpandedSites {
  std::vector<double> fractional;  // (atoms, 3), in [0, 1)
  std::vector<std::int32_t> site;  // (atoms,) the row of `fractional` each atom is an image of, never falling
};

// Applies every operation x' = R x + t to every site, x in fractional coordinates. Images of one site that lie closer
// than `tolerance` (angstrom, periodic images counted) to the first of them are one atom, put at their mean: a site
// written as 0.3333 thereby moves onto the axis at 1/3. Images of different sites are never joined. Atoms come in the
// order of sites and, within a site, of the first operation that gives them.
//
// Without finite numbers, or in a cell without volume, "closer" means nothing: then all sites * operations images are
// kept, and whoever validates the crystal refuses it.
ExpandedSites expand_sites(View<const double> fractional,    // (sites, 3)
                           View<const double> rotations,     // (operations, 3, 3)
                           View<const double> translations,  // (operations, 3)
                           View<const double> lattice,       // (3, 3) rows are lattice vectors, angstrom
                           double tolerance);

}  // namespace screening
