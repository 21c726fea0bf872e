// What every bench prints: ceilings measured in the same run, and rows with the fraction reached.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace longshore::bench {

struct Row {
  std::string name;  // the case
  double value = 0;  // in unit
  std::string unit;
  double bound = 0;  // the best this machine could do, in unit; 0: none
};

struct Report {
  std::string bench;
  std::string machine;                                   // processor, threads, instruction set
  std::vector<std::pair<std::string, double>> ceilings;  // name with unit, value
  std::vector<Row> rows;

  // {"bench","machine","ceilings":{...},"rows":[{"case","value","unit","bound","ratio"}]}
  [[nodiscard]] std::string json() const;
  [[nodiscard]] std::string table() const;
};

// "AMD EPYC, 2 threads"
[[nodiscard]] std::string machine_name(int threads);
// Highest resident memory of this process since the last reset, bytes (VmHWM); mapped weights that
// were read count.
[[nodiscard]] double peak_memory_bytes();
void reset_peak_memory();

}  // namespace longshore::bench
