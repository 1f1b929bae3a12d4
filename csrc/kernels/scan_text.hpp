// Text to numbers, a whole block of a file at a time: rows of atoms, and lines that resemble each other.
#pragma once

#include <cstdint>

#include "runtime/view.hpp"

namespace screening {

// Block b is rows [row_offsets[b], row_offsets[b + 1]), a line each, from byte starts[b] of the text on.
// targets says what word c of a row is: `skipped`, `element` (a symbol, a label like Cu1, an atomic number), or
// 3 g + k, a number that goes to values[g][row][k].
struct TextRows {
  static constexpr std::int32_t skipped = -1;
  static constexpr std::int32_t element = -2;

  View<const char> text;
  View<const std::int64_t> starts;       // (blocks,)
  View<const std::int64_t> row_offsets;  // (blocks + 1,)
  View<const std::int32_t> targets;      // (columns,)
  bool exact = true;                     // whether a word after the last column is a fault
};

struct ScannedRows {
  View<std::uint8_t> numbers;  // (rows,) written where a column is an element
  View<double> values;         // (groups, rows, 3)
  View<std::int64_t> faults;   // (blocks,) the first row of the block that does not fit, counted from 0; -1 if all do
};

// Reads every block up to its first fault; read_number (decimal.hpp) says what a number is.
void scan_rows(const TextRows&, const ScannedRows&);

// A line that fits the outline is literal[0] field[0] literal[1] field[1] ... literal[fields], byte for byte. A field
// goes up to the first byte of the literal after it; one that ends at a blank is bare and holds no quotes,
// brackets, `=` or backslash, one that ends at a quote no backslash. kinds says what a field is: `span`, text with
// something in it, where it lies is noted; `remark`, text that is neither one number nor one boolean; `finite`, a
// finite number; k > 0, k numbers between blanks.
struct LineOutline {
  static constexpr std::int32_t span = -1;
  static constexpr std::int32_t remark = -2;
  static constexpr std::int32_t finite = -3;

  View<const char> literals;                 // end to end
  View<const std::int64_t> literal_offsets;  // (fields + 2,)
  View<const std::int32_t> kinds;            // (fields,)
};

struct ScannedLines {
  View<bool> fits;           // (lines,)
  View<double> numbers;      // (lines, numbers) of the fields that are numbers, in order
  View<std::int64_t> spans;  // (lines, spans, 2) first byte and end of the fields that are spans, in order
};

// Reads line k, bytes [begins[k], ends[k]) of the text, its line end included, as far as it fits.
void scan_lines(View<const char> text, View<const std::int64_t> begins, View<const std::int64_t> ends,
                const LineOutline&, const ScannedLines&);

}  // namespace screening
