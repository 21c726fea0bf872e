// Any bytes as a safetensors file: refused in one line, or entries that lie within the file.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/check.h"
#include "checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  const auto bytes = static_cast<int64_t>(size);
  const auto entries = longshore::parse_safetensors(file, bytes, "fuzz");
  if (!entries) {
    LS_CHECK(entries.error().kind == longshore::ErrorKind::kModel);
    LS_CHECK(!entries.error().message.empty());
    LS_CHECK(entries.error().message.find('\n') == std::string::npos);
    return 0;
  }
  int64_t last = 8;
  for (const longshore::SafetensorsEntry& entry : *entries) {
    LS_CHECK(entry.begin >= last && entry.begin <= entry.end && entry.end <= bytes);
    last = entry.end;
  }
  return 0;
}
