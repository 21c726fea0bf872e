// Identifiers of answers and tool calls.
//
// Threading: immutable after construction.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace longshore::server {

// 24 hexadecimal digits from a random number of 128 bits: the ids of one answer, which always come
// out the same.
class Ids {
 public:
  Ids();
  // prefix and 24 digits that are a function of this object and of the numbers.
  [[nodiscard]] std::string make(std::string_view prefix, uint64_t which = 0,
                                 uint64_t part = 0) const;
  [[nodiscard]] uint64_t random() const { return high_; }

 private:
  uint64_t high_;
  uint64_t low_;
};

// SplitMix64's output function: a bijection that spreads every bit (Steele, Lea, Flood 2014).
[[nodiscard]] uint64_t mix_bits(uint64_t x);
// Of bytes: FNV-1a, mixed. Never 0.
[[nodiscard]] uint64_t hash_text(std::string_view text);

}  // namespace longshore::server
