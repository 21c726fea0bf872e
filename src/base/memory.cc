#include "base/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace longshore {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

// The number that a one-line file holds; "max" and every fault give kUnknown.
int64_t read_number(const char* path) {
  std::ifstream file(path);
  int64_t number = 0;
  return file >> number ? number : kUnknown;
}

// Source: proc_meminfo(5).
int64_t system_available() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kibibytes = 0;
  std::string unit;
  while (file >> key >> kibibytes) {
    if (key == "MemAvailable:") return kibibytes * 1024;
    std::getline(file, unit);
  }
  return kUnknown;
}

// Within a container the root of its own cgroup is mounted here. Source: the kernel's cgroup-v2
// documentation.
int64_t group_available() {
  const int64_t limit = read_number("/sys/fs/cgroup/memory.max");
  const int64_t used = read_number("/sys/fs/cgroup/memory.current");
  if (limit == kUnknown || used == kUnknown) return kUnknown;
  return std::max<int64_t>(limit - used, 0);
}

}  // namespace

int64_t available_memory() {
  return std::min(system_available(), group_available());
}

}  // namespace longshore
