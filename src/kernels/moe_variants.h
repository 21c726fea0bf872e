// The forms that the experts' products are compiled in for a device, by the sizes that a file of
// tuned tiles can name (kernels/moe_config.h). At most eight: each is code of its own.
#pragma once

#include <cstddef>

#include "kernels/moe_config.h"

namespace longshore::kernels {

// "stream" reads an expert's weights once for up to block_m tokens of it and is bound by that
// reading; "wgmma" is bound by arithmetic and needs Hopper. Those of every GPU first.
constexpr MoeVariant kMoeVariants[] = {
    {"stream 8", {8, 32, 128, 1, 8, 2}},    {"stream 16", {16, 32, 128, 1, 8, 2}},
    {"stream 32", {32, 32, 128, 1, 8, 2}},  {"wgmma 32", {32, 256, 128, 1, 12, 4}},
    {"wgmma 64", {64, 256, 128, 1, 12, 4}}, {"wgmma 128", {128, 256, 128, 1, 12, 3}},
};
constexpr size_t kStreamVariants = 3;

}  // namespace longshore::kernels
