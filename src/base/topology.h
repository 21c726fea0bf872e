// Which CPUs lie next to which memory (NUMA nodes), and how matrices are spread over nodes.
//
// One rule serves loading and computing: of a matrix with R rows, node n holds and computes rows
// [row_bound(R, n), row_bound(R, n + 1)). Every matrix is split, so that a step which wants eight
// of 256 experts keeps all nodes' memory and CPUs equally busy.
// Threading: pure functions and values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace longshore {

struct Topology {
  // [node][CPU]: the CPUs of each node that this process may use; at least one node, none empty.
  std::vector<std::vector<int>> nodes;

  [[nodiscard]] int size() const { return static_cast<int>(nodes.size()); }
};

// The system's list of CPUs, "0-3,8" -> 0 1 2 3 8; nullopt if it is none.
[[nodiscard]] std::optional<std::vector<int>> parse_cpu_list(std::string_view list);

// All CPUs as one node.
[[nodiscard]] Topology one_node(std::vector<int> cpus);
// The nodes below `folder` that have one of `cpus` (not empty), by number. One node if the folder
// tells nothing, or not of every CPU. Source: the kernel's ABI documentation,
// stable/sysfs-devices-node.
[[nodiscard]] Topology read_topology(const std::string& folder, const std::vector<int>& cpus);
// Of this machine, for the CPUs that this process may use.
[[nodiscard]] Topology machine_topology();

// Where a pool's worker runs.
struct Seat {
  int node = 0;
  int cpu = 0;
};
// Seats of workers 0, 1, ...: the nodes in turn, so that any first few workers are spread evenly,
// and as many of each node as it has CPUs. More workers than CPUs start again from the first seat.
// Only the first `threads` nodes are used where there are fewer threads than nodes.
[[nodiscard]] std::vector<Seat> seats(const Topology& topology, int threads);

// The first row of node `node`, of `nodes`, in [0, rows]; a multiple of 64 but for the end.
[[nodiscard]] int64_t row_bound(int64_t rows, int node, int nodes);

}  // namespace longshore
