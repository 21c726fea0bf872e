#include "bench/report.h"

#include <algorithm>
#include <fstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace longshore::bench {
namespace {

// The value of the first line "key : value" of a /proc file.
std::string proc_value(const char* path, const std::string& key) {
  std::ifstream stream(path);
  std::string line;
  while (std::getline(stream, line)) {
    if (!line.starts_with(key)) continue;
    const size_t colon = line.find(':');
    const size_t begin =
        colon == std::string::npos ? std::string::npos : line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

}  // namespace

std::string Report::json() const {
  nlohmann::ordered_json result = {{"bench", bench}, {"machine", machine}};
  result["ceilings"] = nlohmann::ordered_json::object();
  for (const auto& [name, value] : ceilings) result["ceilings"][name] = value;
  result["rows"] = nlohmann::ordered_json::array();
  for (const Row& row : rows) {
    nlohmann::ordered_json entry = {{"case", row.name}, {"value", row.value}, {"unit", row.unit}};
    entry["bound"] =
        row.bound > 0 ? nlohmann::ordered_json(row.bound) : nlohmann::ordered_json(nullptr);
    entry["ratio"] = row.bound > 0 ? nlohmann::ordered_json(row.value / row.bound)
                                   : nlohmann::ordered_json(nullptr);
    result["rows"].push_back(std::move(entry));
  }
  return result.dump();
}

std::string Report::table() const {
  std::string out = fmt::format("{} on {}\n", bench, machine);
  for (const auto& [name, value] : ceilings)
    out += fmt::format("  ceiling {:<34} {:>10.2f}\n", name, value);
  size_t width = 42;
  for (const Row& row : rows) width = std::max(width, row.name.size());
  for (const Row& row : rows) {
    out += fmt::format("  {:<{}} {:>10.2f} {:<10}", row.name, width, row.value, row.unit);
    if (row.bound > 0)
      out += fmt::format(" of {:>10.2f}  {:>5.2f}", row.bound, row.value / row.bound);
    out += '\n';
  }
  return out;
}

std::string machine_name(int threads) {
  std::string name = proc_value("/proc/cpuinfo", "model name");
  return fmt::format("{}, {} threads", name.empty() ? "unknown processor" : name, threads);
}

double peak_memory_bytes() {
  const std::string value = proc_value("/proc/self/status", "VmHWM");
  return value.empty() ? 0 : std::stod(value) * 1024;
}

void reset_peak_memory() {
  // proc(5): writing 5 resets the peak resident set size.
  std::ofstream("/proc/self/clear_refs") << "5";
}

}  // namespace longshore::bench
