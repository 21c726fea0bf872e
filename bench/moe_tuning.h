// Which of the compiled forms of the experts' products (kernels/moe_variants.h) is fastest on this
// device, for every number of tokens: measured, and written as the files that
// kernels::MoeConfigs reads.
//
// Weights and inputs are random numbers, routes are drawn anew for every call of a launch, so that
// the caches hold nothing of what a call reads. Every form's sums are compared with those of the
// first one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "device/buffer.h"
#include "device/graphs.h"
#include "kernels/backend.h"
#include "kernels/moe_config.h"
#include "kernels/moe_tuning.h"

namespace longshore::bench {

// One layer's experts as a device holds them; GLM-5.1's on one device.
struct MoeShape {
  int64_t hidden = 6144;
  int64_t intermediate = 2048;  // of an expert, on this device
  int64_t experts = 256;        // routed
  int64_t top_k = 8;

  // kUsage naming what is out of range.
  [[nodiscard]] Result<void> validate() const;
};

// For each number of tokens what every form took.
struct MoeTimes {
  struct Row {
    int64_t tokens = 0;
    // [kMoeVariants] of one call; nullopt: this device has it not for these experts, or it is so
    // slow that it was not measured.
    std::vector<std::optional<double>> seconds;
    size_t best = 0;  // of two within a hundredth the first
  };
  std::string file_name;
  std::vector<Row> rows;

  // What stands in the file.
  // kept: entries of other numbers of tokens, which stay.
  [[nodiscard]] std::string json(kernels::MoeTable kept = {}) const;
  [[nodiscard]] std::string table() const;
};

class MoeTuner {
 public:
  // Takes the weights' memory. The backend outlives the tuner. kDevice: the backend is none whose
  // experts are compiled in several forms, or has none for these; kMemory.
  static Result<MoeTuner> create(kernels::Backend& backend, const MoeShape& shape,
                                 int64_t most_tokens);

  // joined: every token goes to one more expert, the shared one, as number shape.experts.
  // tokens: ascending, of at most most_tokens. kDevice: also where two forms give different sums.
  Result<MoeTimes> measure(bool joined, bool w8a8, const std::vector<int64_t>& tokens,
                           const CancelToken& cancel);

 private:
  MoeTuner(kernels::Backend& backend, kernels::MoeTuning& forms, device::Graphs& graphs,
           const MoeShape& shape)
      : backend_(&backend), forms_(&forms), graphs_(&graphs), shape_(shape) {}
  struct Case;
  Result<void> load_weights();
  Result<void> load_inputs(int64_t most_tokens);
  Result<Case> make_case(bool joined, bool w8a8, int64_t tokens);
  Result<MoeTimes::Row> measure_row(Case& work, const CancelToken& cancel);
  Result<std::optional<double>> seconds(Case& work, size_t form, double best);
  Result<double> once(const Case& work, size_t form);
  Result<void> compare(Case& work, size_t form);

  kernels::Backend* backend_;
  kernels::MoeTuning* forms_;
  device::Graphs* graphs_;
  MoeShape shape_;
  device::Buffer weights_;  // [experts + 1] gate, up, down
  device::Buffer scales_;
  device::Buffer table_;
  std::vector<kernels::ExpertView> views_;  // [experts + 1]
  device::Buffer x_;                        // [most_tokens, hidden]
  device::Buffer y_;                        // [most_tokens, hidden] fp32
  device::Buffer route_weights_;            // [most_tokens, top_k + 1]
};

}  // namespace longshore::bench
