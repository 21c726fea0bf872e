// Decode steps that a device runs by one launch: captured at start, one graph for each number of
// rows and each width of the page table that steps are rounded up to.
//
// A graph's sizes are fixed, what its operations read is not: ids, positions, page table and rows
// of logits lie in StepArrays, always at the same place for one shape. A step with fewer rows
// repeats its last one, which writes the same values to the same places and takes no further
// expert.
//
// Ownership: the backend outlives it; its graphs go with it. Threading: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/error.h"
#include "checkpoint/config.h"
#include "device/graphs.h"
#include "kernels/backend.h"
#include "model/kv_layout.h"
#include "model/step.h"

namespace longshore::model {

struct GraphOptions {
  bool on = true;
  // 0: as many as a step may have sequences, at most 32; with their guesses, at most 64.
  int64_t max_rows = 0;
  // Empty: 1, 2, 4, 8 (with guesses every number up to that), then every eighth.
  std::vector<int64_t> rows = {};
};

// Rows and page-table width of a captured step.
struct StepShape {
  int64_t rows = 0;   // T, and at most as many sequences
  int64_t pages = 0;  // of the longest context
  bool operator==(const StepShape&) const = default;
};

// Ascending rows, then pages: those of index_topk, twice as many, ... up to the limits' context.
[[nodiscard]] std::vector<StepShape> step_shapes(const GlmConfig& config, const StepLimits& limits,
                                                 const GraphOptions& options);

class StepGraphs {
 public:
  StepGraphs(device::Graphs& graphs, std::span<const LayerCache> caches);
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;
  // The backend's, or nullptr where it has none.
  [[nodiscard]] static device::Graphs* of(kernels::Backend& backend);

  // queue queues the step's operations. In ascending order of shapes. kDevice.
  [[nodiscard]] Result<void> capture(const StepShape& shape, const std::function<void()>& queue);

  struct Step {
    StepShape shape;
    device::Graphs::Id id;
  };
  // The smallest that holds the step; nullptr: none does, or it was captured for other caches.
  // longest_context: highest position + 1.
  [[nodiscard]] const Step* find(const StepInput& input, int64_t longest_context) const;
  void launch(const Step& step) { graphs_.launch(step.id); }
  [[nodiscard]] size_t size() const { return steps_.size(); }

 private:
  device::Graphs& graphs_;
  const std::byte* caches_;  // where the first layer's lies
  std::vector<Step> steps_;
};

}  // namespace longshore::model
