#include "tests/paths.h"

namespace longshore {

std::string source_dir() {
  return LONGSHORE_SOURCE_DIR;
}
std::string binary_dir() {
  return LONGSHORE_BINARY_DIR;
}

}  // namespace longshore
