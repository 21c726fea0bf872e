// Makes PCRE2 see the characters that Oniguruma sees, whatever Unicode version PCRE2 was built
// with.
//
// `tokenizers` splits with Oniguruma 6.9.10, whose tables are Unicode 16; PCRE2 10.42 has Unicode
// 14, and counts U+180E as space besides. A character on which they differ is replaced, in a copy
// of the text that only the matcher reads, by an older one of the same general category and the
// same length in UTF-8. Source: the general categories of Unicode 16, DerivedGeneralCategory.txt.
// Threading: free functions without state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace longshore::text {

// The character to match instead of `code_point`: itself for all but some 10,300.
[[nodiscard]] uint32_t stand_in(uint32_t code_point);

// True and `copy` filled when `text` (well-formed UTF-8) holds a character that needs a stand-in.
// Byte offsets in `copy` are those of `text`.
bool with_stand_ins(std::string_view text, std::string& copy);

}  // namespace longshore::text
