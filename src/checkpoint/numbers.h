// Conversions and searches over the checkpoint's floating-point formats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/tensor.h"

namespace longshore {

[[nodiscard]] bool is_float(DType dtype);

// data: [count], F32, BF16 or F16, no alignment promise; to: [count] fp32.
void convert_to_float(const std::byte* data, DType dtype, int64_t count, float* to);

// The first of `count` numbers that is NaN or infinite; nullopt when there is none. FP8 E4M3 has
// NaN (0x7f, 0xff) but no infinity; integers have neither. data carries no alignment promise.
[[nodiscard]] std::optional<int64_t> find_not_finite(const std::byte* data, DType dtype,
                                                     int64_t count);

}  // namespace longshore
