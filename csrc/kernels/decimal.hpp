// Numbers in text: correctly rounded, without a locale, Fortran exponents too.
#pragma once

#include <bit>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

namespace screening {

inline bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
inline bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

namespace decimal {

// Ten to the powers that a double holds exactly.
inline constexpr double kPowers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                     1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
inline constexpr std::int64_t kLargestPower = 22;
inline constexpr std::uint64_t kLargestExact = std::uint64_t{1} << 53;
inline constexpr std::int64_t kDigitsInWord = 19;                // any 19 decimal digits fit 64 bits
inline constexpr std::int64_t kLargestExponent = 1'000'000'000;  // beyond every double, far from overflowing a sum

// Eight digits at once, where bytes lie low end first: pairs, then fours, then all (Lemire 2021).
inline bool eight_digits(const char* p, std::uint64_t& value) {
  if constexpr (std::endian::native != std::endian::little) {
    return false;
  }
  std::uint64_t word;
  std::memcpy(&word, p, sizeof word);
  const std::uint64_t below = word - 0x3030303030303030U, above = word + 0x4646464646464646U;
  if (((below | above) & 0x8080808080808080U) != 0) {
    return false;
  }
  word = below * 10 + (below >> 8);
  const std::uint64_t mask = 0x000000FF000000FFU;
  word = ((word & mask) * 0x000F424000000064U + ((word >> 16) & mask) * 0x0000271000000001U) >> 32;
  value = value * 100'000'000U + static_cast<std::uint32_t>(word);
  return true;
}

// Adds the digits from p on; beyond 19 of them the value is of no use.
inline const char* take_digits(const char* p, const char* end, std::uint64_t& value) {
  while (end - p >= 8 && eight_digits(p, value)) {
    p += 8;
  }
  for (; p != end && is_digit(*p); ++p) {
    value = 10 * value + static_cast<std::uint64_t>(*p - '0');
  }
  return p;
}

// Too large or too small for a double: the place of the first digit that is not 0 tells which.
inline double out_of_range(const char* p, const char* end, std::int64_t exponent) {
  std::int64_t significant = 0;
  for (; p != end && (is_digit(*p) || *p == '.'); ++p) {
    significant += *p != '.' && (significant != 0 || *p != '0');
  }
  return exponent + significant > 0 ? std::numeric_limits<double>::infinity() : 0.0;
}

// The general case, for any number of digits; `exponent` is the power of ten of the last one.
inline double rounded(const char* p, const char* end, std::int64_t exponent, bool fortran) {
  double value = 0;
  std::errc error;
  if (fortran) {
    std::string copy(p, end);
    copy[copy.find_first_of("dD")] = 'e';
    error = std::from_chars(copy.data(), copy.data() + copy.size(), value).ec;
  } else {
    error = std::from_chars(p, end, value).ec;
  }
  return error == std::errc::result_out_of_range ? out_of_range(p, end, exponent) : value;
}

// "nan", "inf" and "infinity", in any case; the word ends at a blank.
inline const char* special(const char* p, const char* end, double& value) {
  const char* stop = p;
  for (; stop != end && !is_blank(*stop); ++stop) {
    if (!is_letter(*stop)) {
      return nullptr;
    }
  }
  const auto [read, error] = std::from_chars(p, stop, value);
  return error == std::errc() && read == stop && p != stop ? stop : nullptr;
}

}  // namespace decimal

// Reads the word at p, up to a blank or the end, as a number: what strtod takes in the C locale, but never
// hexadecimal, and 1.0d-3 too. Returns its end, or nullptr where it is no number and `value` is as before.
inline const char* read_number(const char* p, const char* end, double& value) {
  if (p == end) {
    return nullptr;
  }
  const bool negative = *p == '-';
  p += negative || *p == '+';
  const char* const begin = p;
  std::uint64_t digits = 0;
  p = decimal::take_digits(p, end, digits);
  std::int64_t count = p - begin, exponent = 0;
  if (p != end && *p == '.') {
    const char* const point = ++p;
    p = decimal::take_digits(p, end, digits);
    exponent = point - p;
    count -= exponent;
  }
  bool fortran = false;
  if (count == 0) {
    p = decimal::special(begin, end, value);
    if (p != nullptr && negative) {
      value = -value;
    }
    return p;
  }
  if (p != end && !is_blank(*p)) {
    fortran = (*p | 0x20) == 'd';
    if (!fortran && (*p | 0x20) != 'e') {
      return nullptr;
    }
    ++p;
    const bool down = p != end && *p == '-';
    p += p != end && (*p == '-' || *p == '+');
    const char* const first = p;
    std::int64_t written = 0;
    for (; p != end && is_digit(*p); ++p) {
      written = written < decimal::kLargestExponent ? 10 * written + (*p - '0') : written;
    }
    if (p == first || (p != end && !is_blank(*p))) {
      return nullptr;
    }
    exponent += down ? -written : written;
  }
  if (count <= decimal::kDigitsInWord && digits <= decimal::kLargestExact && exponent <= decimal::kLargestPower &&
      exponent >= -decimal::kLargestPower) {
    // Both factors are exact, so one operation rounds once, correctly (Clinger 1990).
    const double whole = static_cast<double>(digits);
    value = exponent < 0 ? whole / decimal::kPowers[-exponent] : whole * decimal::kPowers[exponent];
  } else {
    value = decimal::rounded(begin, p, exponent, fortran);
  }
  value = negative ? -value : value;
  return p;
}

}  // namespace screening
