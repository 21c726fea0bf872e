// Policies compared on a recorded trace, without a device and without time: how many of the chosen
// experts a cache of so many slots would have held.
#pragma once

#include <cstdint>
#include <string>

#include "offload/trace.h"

namespace longshore::offload {

enum class Policy { kLru, kLfu, kDecayed, kOracle };

struct ReplayResult {
  int64_t routed = 0;  // distinct experts, summed over layers and steps
  int64_t hits = 0;    // of these, resident when they were chosen
  [[nodiscard]] double hit_rate() const {
    return routed == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(routed);
  }
};

// Every miss is loaded and stays until it is evicted; kOracle knows the future and keeps the
// experts whose next use is nearest: no policy does better (Belady, IBM Systems Journal 5(2),
// 1966). half_life: of kDecayed, in steps. slots >= 0.
[[nodiscard]] ReplayResult replay(const Trace& trace, Policy policy, int64_t slots,
                                  double half_life);

}  // namespace longshore::offload
