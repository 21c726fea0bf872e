#include "base/topology.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/threads.h"

namespace longshore {
namespace {

constexpr int kMostCpus = 1 << 16;
constexpr int64_t kRowsTogether = 64;  // of one tile product

// "7" or "3-5" appended to cpus.
bool parse_range(std::string_view range, std::vector<int>& cpus) {
  const auto number = [](std::string_view text, int& value) {
    const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value);
    return fault == std::errc() && end == text.data() + text.size();
  };
  const size_t dash = range.find('-');
  int first = 0;
  int last = 0;
  if (!number(range.substr(0, dash), first)) return false;
  if (dash == std::string_view::npos) {
    last = first;
  } else if (!number(range.substr(dash + 1), last)) {
    return false;
  }
  if (first < 0 || last < first || last >= kMostCpus) return false;
  for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  return true;
}

}  // namespace

std::optional<std::vector<int>> parse_cpu_list(std::string_view list) {
  while (!list.empty() && (list.back() == '\n' || list.back() == ' ')) list.remove_suffix(1);
  std::vector<int> cpus;
  while (!list.empty()) {
    const size_t comma = list.find(',');
    if (!parse_range(list.substr(0, comma), cpus)) return std::nullopt;
    if (comma == std::string_view::npos) break;
    list.remove_prefix(comma + 1);
    if (list.empty()) return std::nullopt;
  }
  return cpus;
}

Topology one_node(std::vector<int> cpus) {
  return {{std::move(cpus)}};
}

Topology read_topology(const std::string& folder, const std::vector<int>& cpus) {
  LS_CHECK(!cpus.empty());
  std::vector<std::pair<int, std::vector<int>>> nodes;
  size_t found = 0;
  std::error_code fault;
  for (std::filesystem::directory_iterator entry(folder, fault), end; !fault && entry != end;
       entry.increment(fault)) {
    const std::string name = entry->path().filename().string();
    std::vector<int> number;
    if (!name.starts_with("node") || !parse_range(std::string_view(name).substr(4), number))
      continue;
    std::ifstream file(entry->path() / "cpulist");
    std::string line;
    std::getline(file, line);
    const auto list = parse_cpu_list(line);
    if (!list) return one_node(cpus);
    std::vector<int> usable;
    for (const int cpu : *list) {
      if (std::find(cpus.begin(), cpus.end(), cpu) != cpus.end()) usable.push_back(cpu);
    }
    if (usable.empty()) continue;  // memory without CPUs
    found += usable.size();
    nodes.emplace_back(number[0], std::move(usable));
  }
  if (found != cpus.size()) return one_node(cpus);
  std::sort(nodes.begin(), nodes.end());
  Topology topology;
  for (auto& [number, usable] : nodes) topology.nodes.push_back(std::move(usable));
  return topology;
}

Topology machine_topology() {
  return read_topology("/sys/devices/system/node", allowed_cpus());
}

std::vector<Seat> seats(const Topology& topology, int threads) {
  LS_CHECK(topology.size() >= 1 && threads >= 1);
  const int nodes = std::min(topology.size(), threads);
  std::vector<Seat> seats;
  for (size_t turn = 0; seats.size() < static_cast<size_t>(threads); ++turn) {
    const size_t before = seats.size();
    for (int node = 0; node < nodes && seats.size() < static_cast<size_t>(threads); ++node) {
      const std::vector<int>& cpus = topology.nodes[static_cast<size_t>(node)];
      if (turn < cpus.size()) seats.push_back({node, cpus[turn]});
    }
    if (seats.size() > before) continue;
    LS_CHECK(!seats.empty());
    for (size_t i = 0; seats.size() < static_cast<size_t>(threads); ++i) seats.push_back(seats[i]);
  }
  return seats;
}

int64_t row_bound(int64_t rows, int node, int nodes) {
  LS_CHECK(rows >= 0 && nodes >= 1 && node >= 0 && node <= nodes);
  if (node == nodes) return rows;
  return rows * node / nodes / kRowsTogether * kRowsTogether;
}

}  // namespace longshore
