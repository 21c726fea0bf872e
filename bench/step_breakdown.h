// The parts of a step as a table: what each takes on the device, what the host does beside it, and
// the sum against the step's wall time.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "bench/report.h"
#include "bench/step_marks.h"
#include "offload/counters.h"

namespace longshore::bench {

// A name for reports, a part of attention's beginning with "attention: ".
[[nodiscard]] const char* name_of(Part part);

class StepBreakdown {
 public:
  // wall_seconds: of the step as the host waited for it.
  void add(const StepTime& step, double wall_seconds);

  // Means of all steps, in microseconds. A stamp's cost is taken off the part that it begins, and
  // as much again for each of its operations: that is what an empty launch would take, the gap
  // before the operation, and goes to the bubbles. (Gaps between the launches of one operation stay
  // with it.) So
  //   parts + bubbles + stamps = first to last stamp <= the step's wall time.
  // unmarked_seconds: of the same step without stamps; stamp_seconds: StepMarks'.
  void write(Report& report, const std::string& name, double unmarked_seconds,
             double stamp_seconds) const;
  // What the host did in those steps; nothing where it had no part in them.
  void write_host(Report& report, const std::string& name,
                  const offload::ExpertCounters& used) const;

 private:
  std::array<PartTime, kParts> parts_;
  int64_t steps_ = 0;
  int64_t stamps_ = 0;
  double wall_ = 0;
};

}  // namespace longshore::bench
