// Text to cell and coordinates for one crystal. Contract in cif_numbers.hpp.
// One pass over the texts, then a sort of the rows to find equal ones. No threads: callers parse crystals in parallel.
#include "kernels/cif_numbers.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "kernels/decimal.hpp"

namespace screening {
namespace {

// 0.3333(2) without its uncertainty; any other text as it is.
std::string_view without_uncertainty(std::string_view text) {
  if (!text.ends_with(')')) {
    return text;
  }
  const std::size_t open = text.find('(');
  if (open == std::string_view::npos || !std::all_of(text.begin() + static_cast<std::ptrdiff_t>(open) + 1,
                                                     text.end() - 1, [](char c) { return is_digit(c); })) {
    return text;
  }
  return text.substr(0, open);
}

bool read(std::string_view text, double limit, double& value) {
  const std::string_view number = without_uncertainty(text);
  const char* const end = number.data() + number.size();
  return !number.empty() && read_number(number.data(), end, value) == end && std::fabs(value) < limit;
}

bool any_equal(const std::vector<double>& rows) {
  std::vector<std::array<double, 3>> sorted(rows.size() / 3);
  for (std::size_t row = 0; row < sorted.size(); ++row) {
    sorted[row] = {rows[3 * row], rows[3 * row + 1], rows[3 * row + 2]};
  }
  std::sort(sorted.begin(), sorted.end());
  return std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end();
}

double cosine(double degrees) { return degrees == 90 ? 0 : std::cos(degrees * std::numbers::pi / 180); }

}  // namespace

SiteCoordinates site_coordinates(std::span<const std::string_view> texts, double limit) {
  SiteCoordinates out;
  const std::size_t sites = texts.size() / 3;
  out.rows.resize(3 * sites);
  for (std::size_t place = 0; place < 3 * sites; ++place) {
    if (!read(texts[place], limit, out.rows[3 * (place % sites) + place / sites])) {
      out.unusable = static_cast<std::int64_t>(place);
      return out;
    }
  }
  out.repeated = any_equal(out.rows);
  return out;
}

CellLattice cell_lattice(const std::array<std::string_view, 6>& texts, double limit) {
  // A flat cell computes to a squared height of zero, give or take rounding.
  constexpr double kRounding = 1e-12;
  CellLattice out;
  for (int k = 0; k < 6; ++k) {
    if (!read(texts[k], limit, out.parameters[k])) {
      out.unusable = k;
      return out;
    }
  }
  const auto [a, b, c, alpha, beta, gamma] = out.parameters;
  const double x = cosine(alpha), y = cosine(beta), z = cosine(gamma);
  const double sine = std::sqrt(std::max(0.0, 1 - z * z));
  const double across = sine > 0 ? (x - y * z) / sine : std::numeric_limits<double>::infinity();
  const double height = 1 - y * y - across * across;
  // Cosines alone would take an angle of 190 degrees for one of 170.
  const bool angles = std::all_of(out.parameters.begin() + 3, out.parameters.end(),
                                  [](double degrees) { return 0 < degrees && degrees < 180; });
  out.exists = a >= 0 && b >= 0 && c >= 0 && angles && height >= -kRounding;
  out.lattice = {a, 0, 0, b * z, b * sine, 0, c * y, c * across, c * std::sqrt(std::max(0.0, height))};
  return out;
}

}  // namespace screening
