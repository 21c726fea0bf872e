#include "text/jinja/unicode.h"

#include <algorithm>
#include <cstring>

#include "text/jinja/unicode_tables.h"

namespace longshore::text::jinja {
namespace {

constexpr uint32_t kEscapedByte = 0xDC00;  // + the byte, which is >= 0x80

// The length that a lead byte announces, 0 for a byte that cannot lead.
size_t sequence_length(uint8_t lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 0;
}

bool in_ranges(std::span<const CodeRange> ranges, uint32_t code) {
  auto it =
      std::upper_bound(ranges.begin(), ranges.end(), code,
                       [](uint32_t value, const CodeRange& range) { return value < range.first; });
  return it != ranges.begin() && code <= std::prev(it)->last;
}

uint32_t map_simple(const CaseTable& table, uint32_t code) {
  auto it = std::upper_bound(table.runs.begin(), table.runs.end(), code,
                             [](uint32_t value, const CaseRun& run) { return value < run.first; });
  // Runs with a step may overlap their neighbours, so a few earlier ones are tried too.
  for (int tries = 0; tries < 8 && it != table.runs.begin(); ++tries) {
    --it;
    if (code <= it->last && (code - it->first) % it->step == 0) {
      return static_cast<uint32_t>(static_cast<int64_t>(code) + it->delta);
    }
  }
  return code;
}

const char* find_special(const CaseTable& table, uint32_t code) {
  auto it = std::lower_bound(
      table.specials.begin(), table.specials.end(), code,
      [](const CaseSpecial& special, uint32_t value) { return special.code < value; });
  return it != table.specials.end() && it->code == code ? it->text : nullptr;
}

bool ascii_upper(uint32_t code) {
  return code >= 'A' && code <= 'Z';
}
bool ascii_lower(uint32_t code) {
  return code >= 'a' && code <= 'z';
}

void append_upper(std::string& out, uint32_t code, const CaseTable& table) {
  if (code < 0x80) {
    out += static_cast<char>(ascii_lower(code) ? code - 32 : code);
  } else if (const char* special = find_special(table, code)) {
    out += special;
  } else {
    append_code_point(out, map_simple(table, code));
  }
}

void append_lower(std::string& out, uint32_t code, const CaseTable& table) {
  if (code < 0x80) {
    out += static_cast<char>(ascii_upper(code) ? code + 32 : code);
  } else if (const char* special = find_special(table, code)) {
    out += special;
  } else {
    append_code_point(out, map_simple(table, code));
  }
}

}  // namespace

uint32_t next_code_point(std::string_view text, size_t& at) {
  const auto lead = static_cast<uint8_t>(text[at]);
  const size_t length = sequence_length(lead);
  if (length == 1) return static_cast<uint8_t>(text[at++]);
  if (length == 0 || at + length > text.size()) {
    ++at;
    return kEscapedByte + lead;
  }
  uint32_t code = lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    const auto byte = static_cast<uint8_t>(text[at + i]);
    if ((byte & 0xC0) != 0x80) {
      ++at;
      return kEscapedByte + lead;
    }
    code = (code << 6) | (byte & 0x3F);
  }
  const bool overlong =
      (length == 3 && code < 0x800) || (length == 4 && (code < 0x10000 || code > 0x10FFFF));
  if (overlong || (code >= 0xD800 && code <= 0xDFFF)) {
    ++at;
    return kEscapedByte + lead;
  }
  at += length;
  return code;
}

void append_code_point(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code >= kEscapedByte + 0x80 && code <= kEscapedByte + 0xFF) {
    out += static_cast<char>(code - kEscapedByte);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

int64_t count_code_points(std::string_view text) {
  int64_t count = 0;
  for (size_t at = 0; at < text.size(); ++count) next_code_point(text, at);
  return count;
}

size_t byte_offset(std::string_view text, int64_t index) {
  size_t at = 0;
  for (int64_t i = 0; i < index && at < text.size(); ++i) next_code_point(text, at);
  return at;
}

std::vector<std::string_view> split_code_points(std::string_view text) {
  std::vector<std::string_view> points;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    next_code_point(text, at);
    points.push_back(text.substr(start, at - start));
  }
  return points;
}

bool is_space(uint32_t code) {
  if (code < 0x80) return (code >= 9 && code <= 13) || (code >= 0x1c && code <= 0x20);
  return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
         code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

bool is_alpha(uint32_t code) {
  return code < 0x80 ? ascii_upper(code) || ascii_lower(code) : in_ranges(alpha_table(), code);
}

bool is_digit(uint32_t code) {
  return code >= '0' && code <= '9';
}

bool is_upper(uint32_t code) {
  if (code < 0x80) return ascii_upper(code);
  return map_simple(lower_table(), code) != code || find_special(lower_table(), code) != nullptr;
}

bool is_lower(uint32_t code) {
  if (code < 0x80) return ascii_lower(code);
  return map_simple(upper_table(), code) != code || find_special(upper_table(), code) != nullptr;
}

bool is_cased(uint32_t code) {
  return is_upper(code) || is_lower(code);
}

bool is_printable(uint32_t code) {
  return code < 0x80 ? code >= 0x20 && code != 0x7F : !in_ranges(unprintable_table(), code);
}

bool is_line_break(uint32_t code) {
  return (code >= 10 && code <= 13) || (code >= 0x1c && code <= 0x1e) || code == 0x85 ||
         code == 0x2028 || code == 0x2029;
}

std::string to_upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  const CaseTable table = upper_table();
  for (size_t at = 0; at < text.size();) append_upper(out, next_code_point(text, at), table);
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  const CaseTable table = lower_table();
  for (size_t at = 0; at < text.size();) append_lower(out, next_code_point(text, at), table);
  return out;
}

std::string to_title(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const uint32_t code = next_code_point(text, at);
    if (inside) {
      append_lower(out, code, lower_table());
    } else {
      append_upper(out, code, title_table());
    }
    inside = is_cased(code);
  }
  return out;
}

std::string to_capitalized(std::string_view text) {
  std::string out;
  size_t at = 0;
  if (!text.empty()) append_upper(out, next_code_point(text, at), title_table());
  return out + to_lower(text.substr(at));
}

size_t find_text(std::string_view text, std::string_view part, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (part.empty()) return from;
  const void* found = ::memmem(text.data() + from, text.size() - from, part.data(), part.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

std::string_view strip(std::string_view text, Side side, const std::string_view* set) {
  const auto member = [&](std::string_view point) {
    if (set != nullptr) {
      for (size_t at = 0; at < set->size();) {
        const size_t start = at;
        next_code_point(*set, at);
        if (set->substr(start, at - start) == point) return true;
      }
      return false;
    }
    size_t at = 0;
    return is_space(next_code_point(point, at));
  };
  size_t first = 0;
  size_t keep = 0;  // the end of what is kept
  bool leading = side != Side::kRight;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    next_code_point(text, at);
    const bool drop = member(text.substr(start, at - start));
    if (leading && drop) {
      first = at;
    } else {
      leading = false;
      if (!drop) keep = at;
    }
  }
  if (side == Side::kLeft) keep = text.size();
  return text.substr(first, std::max(keep, first) - first);
}

}  // namespace longshore::text::jinja
