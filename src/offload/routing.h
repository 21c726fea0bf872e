// Made-up routing for benchmarks and dry runs: which experts a token of a layer goes to when no
// model decides.
//
// "uniform": every expert equally likely. "zipf:S": the i-th most popular expert of a layer with
// weight i^-S; which experts are popular differs from layer to layer. "overlap:R": a token keeps
// each expert of the token before it in its layer with probability R, the others are uniform among
// the rest. "trace:FILE": as recorded
// (offload/trace.h), from the start again at its end.
//
// Threading: one thread.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "offload/trace.h"

namespace longshore::offload {

class Routing {
 public:
  // kUsage: not one of the above, a negative or absurd S, or a trace of other layers or experts.
  static Result<Routing> parse(std::string_view spec, int32_t layers, int32_t experts,
                               uint64_t seed);

  // ids [tokens, top_k]: distinct experts of `layer` for each token. Layers are asked for in order.
  // A trace has no single tokens: its records are not for this (see trace()).
  void draw(int32_t layer, int64_t tokens, int64_t top_k, int32_t* ids);
  [[nodiscard]] bool is_trace() const { return !trace_.records.empty(); }
  [[nodiscard]] const Trace& trace() const { return trace_; }

  // `steps` steps of one token each, as a trace.
  [[nodiscard]] Trace record(int64_t steps, int64_t top_k);

 private:
  int32_t layers_ = 0;
  int32_t experts_ = 0;
  std::mt19937_64 random_;
  std::vector<double> cumulative_;             // [experts] of the weights by popularity
  std::vector<std::vector<int32_t>> by_rank_;  // [layers][experts] expert of each popularity
  double overlap_ = 0;
  std::vector<std::vector<int32_t>> before_;  // [layers] of the token before, with overlap_
  Trace trace_;
};

}  // namespace longshore::offload
