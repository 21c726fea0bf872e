// Where the tuned tiles that come with the program lie (kernels/moe_config.h).
#pragma once

#include <string>

namespace longshore::kernels {

// moe-configs beside the program, whether it is there or not.
[[nodiscard]] std::string shipped_moe_configs();

}  // namespace longshore::kernels
