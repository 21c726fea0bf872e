// Generated Unicode facts for code points from 0x80 on; ASCII is decided in unicode.cc.
#pragma once

#include <cstdint>
#include <span>

namespace longshore::text::jinja {

struct CodeRange {
  uint32_t first;
  uint32_t last;
};

// Every step-th code point of [first, last] maps to itself + delta.
struct CaseRun {
  uint32_t first;
  uint32_t last;
  uint32_t step;
  int32_t delta;
};

// A code point whose mapping is several code points, as UTF-8.
struct CaseSpecial {
  uint32_t code;
  const char* text;
};

struct CaseTable {
  std::span<const CaseRun> runs;
  std::span<const CaseSpecial> specials;
};

CaseTable upper_table();
CaseTable lower_table();
CaseTable title_table();
std::span<const CodeRange> alpha_table();
std::span<const CodeRange> unprintable_table();

}  // namespace longshore::text::jinja
