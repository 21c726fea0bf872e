#include "server/api/ids.h"

#include <random>

#include <fmt/format.h>

namespace longshore::server {
namespace {

uint64_t random_bits() {
  static thread_local std::random_device device;
  return static_cast<uint64_t>(device()) << 32U | device();
}

}  // namespace

uint64_t mix_bits(uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31U);
}

uint64_t hash_text(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325ULL;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3ULL;
  hash = mix_bits(hash);
  return hash == 0 ? 1 : hash;
}

Ids::Ids() : high_(random_bits()), low_(random_bits()) {}

std::string Ids::make(std::string_view prefix, uint64_t which, uint64_t part) const {
  const uint64_t place = mix_bits(which) + part;
  return fmt::format("{}{:016x}{:08x}", prefix, mix_bits(high_ ^ mix_bits(place)),
                     mix_bits(low_ + place) & 0xFFFFFFFFULL);
}

}  // namespace longshore::server
