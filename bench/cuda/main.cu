// Speed and correctness of the CUDA kernels: cuda_kernels_bench [group...].
#include <algorithm>
#include <string>

#include <fmt/format.h>

#include "bench/cuda/harness.h"

int main(int count, char** names) {
  using namespace longshore::bench::cuda;
  Harness harness;
  std::sort(groups().begin(), groups().end(),
            [](const Group& a, const Group& b) { return a.name < b.name; });
  for (const Group& group : groups()) {
    const bool wanted = count == 1 || std::any_of(names + 1, names + count, [&](const char* name) {
                          return group.name == name;
                        });
    if (!wanted) continue;
    fmt::print("-- {}\n", group.name);
    group.run(harness);
    harness.release();
  }
  return harness.right() ? 0 : 1;
}
