// Lines to fields by the outline of an earlier line, contract in scan_text.hpp.
// Literals by memcmp, fields up to the byte that ends them, numbers straight to their column.
// One thread owns all output; a line's row is written as far as it fits.
// Results depend on the text alone: every number is correctly rounded.
// Reads each byte twice, writes 8 bytes a number; bound by branches, about 10 ns a number.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/decimal.hpp"
#include "kernels/scan_text.hpp"

namespace screening {
namespace {

std::string_view trimmed(std::string_view text) {
  const auto outer = [](char c) { return is_blank(c) || c == ','; };
  while (!text.empty() && outer(text.front())) {
    text.remove_prefix(1);
  }
  while (!text.empty() && outer(text.back())) {
    text.remove_suffix(1);
  }
  return text;
}

bool is_boolean(std::string_view word) {
  for (const char* const known : {"T", "F", "true", "false", "True", "False", "TRUE", "FALSE"}) {
    if (word == known) {
      return true;
    }
  }
  return false;
}

bool is_remark(std::string_view field) {
  const std::string_view word = trimmed(field);
  double ignored;
  const char* const end = word.data() + word.size();
  return !is_boolean(word) && read_number(word.data(), end, ignored) != end;
}

bool holds_any(std::string_view text, std::string_view bytes) {
  return text.find_first_of(bytes) != std::string_view::npos;
}

// Exactly `count` numbers between blanks.
bool read_numbers(std::string_view field, std::int64_t count, double* values) {
  const char* p = field.data();
  const char* const end = p + field.size();
  for (std::int64_t k = 0; k < count; ++k) {
    while (p != end && is_blank(*p)) {
      ++p;
    }
    p = read_number(p, end, values[k]);
    if (p == nullptr) {
      return false;
    }
  }
  return std::all_of(p, end, is_blank);
}

struct Row {
  double* number;
  std::int64_t* span;
};

bool read_field(std::string_view field, std::int32_t kind, const char* text, Row& row) {
  switch (kind) {
    case LineOutline::span:
      *row.span++ = field.data() - text;
      *row.span++ = field.data() + field.size() - text;
      return !std::all_of(field.begin(), field.end(), is_blank);
    case LineOutline::remark:
      return is_remark(field);
    case LineOutline::finite:
      return read_numbers(field, 1, row.number) && std::isfinite(*row.number++);
    default:
      row.number += kind;
      return read_numbers(field, kind, row.number - kind);
  }
}

// Cuts a line at its literals; false where it has others.
bool cut_line(const char* p, const char* end, const LineOutline& outline, std::vector<std::string_view>& fields) {
  const std::size_t count = fields.size();
  for (std::size_t f = 0;; ++f) {
    const char* const literal = outline.literals.data + outline.literal_offsets[static_cast<std::int64_t>(f)];
    const char* const next = outline.literals.data + outline.literal_offsets[static_cast<std::int64_t>(f) + 1];
    const auto size = next - literal;
    if (end - p < size || std::memcmp(p, literal, static_cast<std::size_t>(size)) != 0) {
      return false;
    }
    p += size;
    if (f == count) {
      return p == end;
    }
    // The check leaves no literal after a field empty.
    const void* const found = p == end ? nullptr : std::memchr(p, *next, static_cast<std::size_t>(end - p));
    if (found == nullptr) {
      return false;
    }
    fields[f] = std::string_view(p, static_cast<std::size_t>(static_cast<const char*>(found) - p));
    if (holds_any(fields[f], is_blank(*next) ? "\"'{}[]=\\ \t\r\n\v\f" : "\\")) {
      return false;
    }
    p += fields[f].size();
  }
}

bool read_fields(const std::vector<std::string_view>& fields, const LineOutline& outline, const char* text, Row row) {
  for (std::size_t f = 0; f < fields.size(); ++f) {
    if (!read_field(fields[f], outline.kinds[static_cast<std::int64_t>(f)], text, row)) {
      return false;
    }
  }
  return true;
}

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument("scan_lines: " + message); }

void check(View<const char> text, View<const std::int64_t> begins, View<const std::int64_t> ends,
           const LineOutline& outline, const ScannedLines& out) {
  const std::int64_t lines = begins.rows(), fields = outline.kinds.rows();
  std::int64_t numbers = 0, spans = 0;
  for (std::int64_t f = 0; f < fields; ++f) {
    const std::int32_t kind = outline.kinds[f];
    if (kind < LineOutline::finite || kind == 0) {
      fail("field " + std::to_string(f) + " has the unknown kind " + std::to_string(kind));
    }
    numbers += kind == LineOutline::finite ? 1 : std::max(kind, 0);
    spans += kind == LineOutline::span;
  }
  const View<const std::int64_t>& offsets = outline.literal_offsets;
  if (offsets.rows() != fields + 2 || offsets[0] != 0 || offsets[fields + 1] != outline.literals.rows()) {
    fail("literal_offsets must have fields + 2 = " + std::to_string(fields + 2) + " entries, from 0 to the end");
  }
  for (std::int64_t f = 0; f <= fields; ++f) {
    if (offsets[f + 1] < offsets[f] + (f > 0)) {
      fail("literal " + std::to_string(f) + " is empty or negative; a field must end at something");
    }
  }
  if (ends.rows() != lines || out.fits.rows() != lines || out.numbers.shape[0] != lines ||
      out.numbers.shape[1] != numbers || out.spans.shape[0] != lines || out.spans.shape[1] != spans ||
      out.spans.shape[2] != 2) {
    fail("expected " + std::to_string(lines) + " ends and fits, numbers (lines, " + std::to_string(numbers) +
         ") and spans (lines, " + std::to_string(spans) + ", 2)");
  }
  for (std::int64_t k = 0; k < lines; ++k) {
    if (begins[k] < 0 || ends[k] < begins[k] || ends[k] > text.rows()) {
      fail("line " + std::to_string(k) + " lies outside the text");
    }
  }
}

}  // namespace

void scan_lines(View<const char> text, View<const std::int64_t> begins, View<const std::int64_t> ends,
                const LineOutline& outline, const ScannedLines& out) {
  check(text, begins, ends, outline, out);
  // Lines that do not fit are found by their literals, before any number is read.
  std::vector<std::string_view> fields(static_cast<std::size_t>(outline.kinds.rows()));
  for (std::int64_t k = 0; k < begins.rows(); ++k) {
    const Row row{out.numbers.data + k * out.numbers.shape[1], out.spans.data + k * out.spans.shape[1] * 2};
    out.fits[k] = cut_line(text.data + begins[k], text.data + ends[k], outline, fields) &&
                  read_fields(fields, outline, text.data, row);
  }
}

}  // namespace screening
