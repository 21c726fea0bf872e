// Where the source tree and this build lie. Defined in one small file, so that no other object
// depends on the folder and a compiler cache serves every clone.
#pragma once

#include <string>

namespace longshore {

[[nodiscard]] std::string source_dir();
[[nodiscard]] std::string binary_dir();

}  // namespace longshore
