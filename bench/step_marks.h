// Stamps of the device's clock between the operations of a step, and what they say: how long each
// part of it took.
//
// A stamp is put where operations of another part begin, so a part lasts from its stamp to the next
// one, with the gaps before its operations. A stamp costs about what an empty launch costs
// (stamp_seconds()); a step has one or two dozen of them a layer.
//
// Ownership: owns memory of the device, which outlives it. Threading: the thread that calls the
// backend.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/error.h"
#include "device/buffer.h"
#include "device/graphs.h"
#include "device/stamps.h"
#include "kernels/backend.h"

namespace longshore::bench {

enum class Part : uint8_t {
  kInput,        // ids, positions and page table, embedding
  kProjections,  // attention's products, norms, rotation and stored latents
  kIndex,        // its index keys, scores and selection
  kSparseMla,    // itself, over the chosen tokens
  kDense,        // feed-forward of layers without experts, norm included
  kRouter,       // with the norm before it
  kShared,       // expert
  kHandshake,    // routes to the host and its decision back
  kExperts,      // that are on the device
  kWireWait,
  kFetched,  // experts
  kCpuWait,
  kCombine,  // the CPU's sum is added
  kHead,     // final norm, logits, drawing
  kLaunch,   // of the graph: until its first operation
  kRest,     // what no other part has: a graph's end
};
constexpr size_t kParts = static_cast<size_t>(Part::kRest) + 1;

struct PartTime {
  double seconds = 0;      // its stamps and gaps included
  int64_t stamps = 0;      // at whose beginning one is
  int64_t operations = 0;  // waits not counted
};

struct StepTime {
  std::array<PartTime, kParts> parts;
  double seconds = 0;  // from the first stamp to the last: the parts' sum
  int64_t stamps = 0;
  bool captured = false;    // a graph was launched in it
  std::vector<Part> order;  // of the parts in the queue
};

class StepMarks {
 public:
  // kDevice: it cannot stamp. kMemory.
  static Result<StepMarks> create(kernels::Backend& device);

  // Whether what is captured from now on has stamps; without a call it has none.
  void mark(bool on) { on_ = on; }
  [[nodiscard]] bool marking() const;

  // A step is queued from now on. What is not captured then has stamps too.
  void begin_step();
  // Of the step that has been waited for, in which at most one graph was launched. kDevice.
  Result<StepTime> end_step();
  // The same, refused where the step was not one launch: the device waits for the host between
  // operations then, and that would count as theirs. kDevice.
  Result<StepTime> end_captured_step();
  // Seconds from a stamp to one right behind it, in a graph. At idle. kDevice.
  Result<double> stamp_seconds();

  // An operation of that part is queued next. A wait counts as none.
  void next(Part part, bool waits = false);
  void begin_capture();
  // id: nothing where the device refused.
  void end_capture(std::optional<device::Graphs::Id> id);
  void launch(device::Graphs::Id id);
  void drop(device::Graphs::Id id) { graphs_.erase(id); }
  // The step's queue is waited for: the last part ends.
  void close();

 private:
  // What lies between a stamp and the next one; the last stamp has none behind it.
  struct Interval {
    std::optional<Part> part;
    int64_t operations = 0;
  };
  using Intervals = std::vector<Interval>;

  StepMarks(kernels::Backend& device, device::Stamps& clock, device::Buffer memory);
  void put(Intervals& to, const Interval& interval);
  [[nodiscard]] uint64_t* place(const Intervals& list) const;
  // All stamps of the step, and so many of its graph.
  Result<void> fetch_times(size_t in_graph);

  kernels::Backend* device_;
  device::Stamps* clock_;
  device::Buffer memory_;  // [2, kMost] uint64: of the step, of its graph
  bool on_ = false;
  bool capturing_ = false;
  bool in_step_ = false;
  Intervals captured_;  // of the graph in the making
  Intervals step_;      // outside of its graph
  std::map<device::Graphs::Id, Intervals> graphs_;
  const Intervals* launched_ = nullptr;  // of the step
  size_t launched_at_ = 0;               // in step_
  std::vector<uint64_t> times_;          // [2, kMost] scratch
};

}  // namespace longshore::bench
