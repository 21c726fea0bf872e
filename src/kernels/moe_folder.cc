#include "kernels/moe_folder.h"

#include <filesystem>
#include <system_error>

namespace longshore::kernels {

std::string shipped_moe_configs() {
  constexpr const char* kFolder = "moe-configs";
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? kFolder : (program.parent_path() / kFolder).string();
}

}  // namespace longshore::kernels
