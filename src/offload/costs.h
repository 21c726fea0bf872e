// What fetching and computing an expert cost on this machine: first measured at start, then
// followed while serving by an exponentially weighted mean, as load and clocks change.
//
// Threading: one thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace longshore::offload {

class Costs {
 public:
  struct Start {
    double wire_bytes_per_second = 0;  // host to device, pinned, in pieces of one expert
    double wire_overhead = 0;          // seconds per layer in which anything is fetched
    double cpu_seconds_one_token = 0;  // one expert, one token, all cores: S / B_c
    double cpu_seconds_per_token = 0;  // more for every further token
    double cpu_overhead = 0;           // seconds per layer in which the CPU computes anything
  };
  // Rates > 0, the rest >= 0. half_life: observations after which an old one counts half.
  explicit Costs(const Start& start, double half_life = 64);

  // 0 bytes cost nothing, not even the overhead.
  [[nodiscard]] double wire_seconds(int64_t bytes) const;
  // One expert with that many tokens, >= 1.
  [[nodiscard]] double cpu_seconds(int64_t tokens) const;
  [[nodiscard]] double cpu_overhead() const { return cpu_overhead_; }
  [[nodiscard]] double wire_bytes_per_second() const { return wire_rate_; }

  // A layer fetched so many bytes in so many seconds.
  void saw_wire(int64_t bytes, double seconds);
  // What the CPU did with an expert: share of its intermediate width for so many tokens.
  struct Load {
    int64_t tokens = 1;
    double share = 1;
  };
  // The CPU did all of these in so many seconds: the estimate of every count of tokens is corrected
  // by the ratio of the measured to the predicted time.
  void saw_cpu(std::span<const Load> loads, double seconds);

 private:
  // Counts 1, 2, 3-4, 5-8, ...: within one the cost is taken as linear in the tokens.
  static constexpr size_t kBuckets = 16;
  [[nodiscard]] static size_t bucket(int64_t tokens);
  [[nodiscard]] double model(int64_t tokens) const;

  double weight_;  // of a new observation
  double wire_rate_;
  double wire_overhead_;
  double first_token_;
  double further_token_;
  double cpu_overhead_;
  std::array<double, kBuckets> correction_{};
};

}  // namespace longshore::offload
