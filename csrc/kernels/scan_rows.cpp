// Rows of words to columns of numbers, contract in scan_text.hpp.
// One pass over the bytes: a line end by memchr, then word by word, each straight to its column.
// One thread owns all output; a block's rows are written in order up to its first fault.
// Results depend on the text alone: every number is correctly rounded.
// Reads each byte twice, writes 8 bytes a number; bound by branches, about 10 ns a number of 10 digits.

#include <array>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>

#include "kernels/decimal.hpp"
#include "kernels/scan_text.hpp"

namespace screening {
namespace {

constexpr std::string_view kSymbols[] = {
    "",   "H",  "He", "Li", "Be", "B",  "C",  "N",  "O",  "F",  "Ne", "Na", "Mg", "Al", "Si", "P",  "S",
    "Cl", "Ar", "K",  "Ca", "Sc", "Ti", "V",  "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As",
    "Se", "Br", "Kr", "Rb", "Sr", "Y",  "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn",
    "Sb", "Te", "I",  "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho",
    "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W",  "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po",
    "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U",  "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm", "Md",
    "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc", "Lv", "Ts", "Og"};
constexpr int kElements = static_cast<int>(std::size(kSymbols)) - 1;

// Atomic numbers by first and second letter; the rank of the second is shifted by one, 0 means none.
using SymbolTable = std::array<std::uint8_t, 26 * 27>;
constexpr SymbolTable table_of_symbols() {
  SymbolTable table{};
  for (int z = 1; z <= kElements; ++z) {
    const std::string_view symbol = kSymbols[z];
    const int second = symbol.size() > 1 ? symbol[1] - 'a' + 1 : 0;
    table[static_cast<std::size_t>((symbol[0] - 'A') * 27 + second)] = static_cast<std::uint8_t>(z);
  }
  table[('D' - 'A') * 27] = 1;  // deuterium and tritium are hydrogen
  table[('T' - 'A') * 27] = 1;
  return table;
}
constexpr SymbolTable kTable = table_of_symbols();

int letter_rank(char c) { return (c | 0x20) - 'a'; }

// The atomic number of a word, or 0: the letters it begins with are a symbol in any case, digits a number.
std::uint8_t element_of(const char* word, const char* end) {
  if (is_digit(*word)) {
    int number = 0;
    for (; word != end; ++word) {
      number = is_digit(*word) && number <= kElements ? 10 * number + (*word - '0') : kElements + 1;
    }
    return static_cast<std::uint8_t>(number <= kElements ? number : 0);
  }
  const char* stop = word;
  while (stop != end && is_letter(*stop)) {
    ++stop;
  }
  const auto letters = stop - word;
  if (letters < 1 || letters > 2) {
    return 0;
  }
  return kTable[static_cast<std::size_t>(letter_rank(word[0]) * 27 + (letters == 2 ? letter_rank(word[1]) + 1 : 0))];
}

const char* past_blanks(const char* p, const char* end) {
  while (p != end && is_blank(*p)) {
    ++p;
  }
  return p;
}

const char* past_word(const char* p, const char* end) {
  while (p != end && !is_blank(*p)) {
    ++p;
  }
  return p;
}

// One row; false if a word is missing, is not what its column wants, or is one too many.
bool scan_row(const char* p, const char* end, const TextRows& in, const ScannedRows& out, std::int64_t row) {
  const std::int64_t columns = in.targets.rows(), rows = out.numbers.rows();
  for (std::int64_t c = 0; c < columns; ++c) {
    p = past_blanks(p, end);
    if (p == end) {
      return false;
    }
    const std::int32_t target = in.targets[c];
    if (target >= 0) {
      const std::int64_t group = target / 3, component = target % 3;
      p = read_number(p, end, out.values[(group * rows + row) * 3 + component]);
      if (p == nullptr) {
        return false;
      }
      continue;
    }
    const char* const word = p;
    p = past_word(p, end);
    if (target == TextRows::element) {
      const std::uint8_t number = element_of(word, p);
      if (number == 0) {
        return false;
      }
      out.numbers[row] = number;
    }
  }
  return !in.exact || past_blanks(p, end) == end;
}

// The first row of a block that does not fit, or -1.
std::int64_t scan_block(const TextRows& in, const ScannedRows& out, std::int64_t block) {
  const std::int64_t first = in.row_offsets[block];
  const std::int64_t rows = in.row_offsets[block + 1] - first;
  const char* p = in.text.data + in.starts[block];
  const char* const text_end = in.text.data + in.text.rows();
  for (std::int64_t r = 0; r < rows; ++r) {
    const void* const newline = p == text_end ? nullptr : std::memchr(p, '\n', static_cast<std::size_t>(text_end - p));
    const char* const end = newline ? static_cast<const char*>(newline) : text_end;
    if (!scan_row(p, end, in, out, first + r)) {
      return r;
    }
    p = end == text_end ? end : end + 1;
  }
  return -1;
}

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument("scan_rows: " + message); }

void check(const TextRows& in, const ScannedRows& out) {
  const std::int64_t blocks = in.starts.rows(), rows = out.numbers.rows();
  if (in.row_offsets.rows() != blocks + 1 || out.faults.rows() != blocks) {
    fail("row_offsets must have blocks + 1 = " + std::to_string(blocks + 1) + " entries and faults " +
         std::to_string(blocks) + ", got " + std::to_string(in.row_offsets.rows()) + " and " +
         std::to_string(out.faults.rows()));
  }
  if (in.row_offsets[0] != 0 || in.row_offsets[blocks] != rows || out.values.shape[1] != rows ||
      out.values.shape[2] != 3) {
    fail("row_offsets must go from 0 to the " + std::to_string(rows) + " rows of numbers and values (groups, rows, 3)");
  }
  for (std::int64_t b = 0; b < blocks; ++b) {
    if (in.row_offsets[b + 1] < in.row_offsets[b] || in.starts[b] < 0 || in.starts[b] > in.text.rows()) {
      fail("block " + std::to_string(b) + " starts outside the text or has a negative number of rows");
    }
  }
  for (std::int64_t c = 0; c < in.targets.rows(); ++c) {
    if (in.targets[c] < TextRows::element || in.targets[c] >= 3 * out.values.shape[0]) {
      fail("target " + std::to_string(in.targets[c]) + " of column " + std::to_string(c) +
           " names no column of values");
    }
  }
}

}  // namespace

void scan_rows(const TextRows& in, const ScannedRows& out) {
  check(in, out);
  for (std::int64_t block = 0; block < in.starts.rows(); ++block) {
    out.faults[block] = scan_block(in, out, block);
  }
}

}  // namespace screening
