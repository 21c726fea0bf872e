#include "tests/kernels/support.h"

#include <cstdlib>

namespace longshore::kernels {

uint32_t test_seed() {
  const char* seed = std::getenv("LONGSHORE_TEST_SEED");
  return seed != nullptr ? static_cast<uint32_t>(std::strtoul(seed, nullptr, 10)) : 20240917u;
}

}  // namespace longshore::kernels
