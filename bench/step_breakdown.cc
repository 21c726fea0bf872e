#include "bench/step_breakdown.h"

namespace longshore::bench {
namespace {

// A part that only passes time: no launch of it is a bubble, all of it is.
bool is_bubble(Part part) {
  return part == Part::kLaunch || part == Part::kRest;
}

bool is_attention(Part part) {
  return part == Part::kProjections || part == Part::kIndex || part == Part::kSparseMla;
}

}  // namespace

const char* name_of(Part part) {
  static constexpr std::array<const char*, kParts> kNames = {
      "ids and embedding",
      "attention: projections",
      "attention: index",
      "attention: sparse MLA",
      "dense feed-forward",
      "router",
      "shared expert",
      "handshake: routes out, decision in",
      "experts on the device",
      "waiting for the wire",
      "fetched experts",
      "waiting for the CPU's experts",
      "combine",
      "head and draw",
      "bubbles: launch of the graph",
      "bubbles: end of the graph, and what has no name"};
  return kNames[static_cast<size_t>(part)];
}

void StepBreakdown::add(const StepTime& step, double wall_seconds) {
  for (size_t i = 0; i < kParts; ++i) {
    parts_[i].seconds += step.parts[i].seconds;
    parts_[i].stamps += step.parts[i].stamps;
    parts_[i].operations += step.parts[i].operations;
  }
  ++steps_;
  stamps_ += step.stamps;
  wall_ += wall_seconds;
}

void StepBreakdown::write(Report& report, const std::string& name, double unmarked_seconds,
                          double stamp_seconds) const {
  const auto steps = static_cast<double>(steps_);
  const auto row = [&](const std::string& what, double seconds, double bound = 0) {
    report.rows.push_back({name + ": " + what, seconds / steps * 1e6, "us", bound});
  };
  double sum = 0;
  double attention = 0;
  double gaps = 0;
  double stamps = 0;
  const size_t first_row = report.rows.size();
  for (size_t i = 0; i < kParts; ++i) {
    const auto part = static_cast<Part>(i);
    const PartTime& time = parts_[i];
    if (time.stamps == 0) continue;
    const double gap = static_cast<double>(is_bubble(part) ? 0 : time.operations) * stamp_seconds;
    const double stamp = static_cast<double>(time.stamps) * stamp_seconds;
    const double own = time.seconds - gap - stamp;
    gaps += gap;
    stamps += stamp;
    sum += own;
    attention += is_attention(part) ? own : 0;
    row(name_of(part), own);
  }
  report.rows.insert(report.rows.begin() + static_cast<std::ptrdiff_t>(first_row),
                     {name + ": attention", attention / steps * 1e6, "us", 0});
  row("bubbles: gaps between operations", gaps);
  row("stamps", stamps);
  row("sum, of the step with stamps", sum + gaps + stamps, wall_ / steps * 1e6);
  row("step with stamps", wall_);
  row("step without", unmarked_seconds * steps);
  report.rows.push_back(
      {name + ": stamps of a step", static_cast<double>(stamps_) / steps, "stamps", 0});
  report.rows.push_back({name + ": a stamp", stamp_seconds * 1e6, "us", 0});
}

void StepBreakdown::write_host(Report& report, const std::string& name,
                               const offload::ExpertCounters& used) const {
  if (used.handshakes == 0) return;
  const auto row = [&](const char* what, double seconds) {
    report.rows.push_back(
        {name + ": " + what, seconds / static_cast<double>(steps_) * 1e6, "us", 0});
  };
  row("host: waiting for routes", used.handshake_seconds);
  row("host: policy", used.policy_seconds);
  row("host: handing over copies, in part while computing", used.queueing_seconds);
  row("host: CPU computing", used.cpu_seconds);
  row("wire busy", used.wire_seconds);
}

}  // namespace longshore::bench
