// Random inputs, matrices and weights for the tests of operations.
#pragma once

#include <cstdint>

namespace longshore::kernels {

// LONGSHORE_TEST_SEED, or a fixed seed.
[[nodiscard]] uint32_t test_seed();

}  // namespace longshore::kernels
