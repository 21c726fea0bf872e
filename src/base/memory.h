// How much host memory may still be taken.
#pragma once

#include <cstdint>

namespace longshore {

// Bytes that can be allocated without swapping: MemAvailable, or what the process's cgroup leaves
// if that is less. INT64_MAX where neither can be read.
[[nodiscard]] int64_t available_memory();

}  // namespace longshore
