#include "bench/step_marks.h"

#include <algorithm>

#include "base/check.h"

namespace longshore::bench {
namespace {

constexpr int64_t kMost = int64_t{1} << 14;  // stamps of a step, and of a graph
constexpr auto kBytes = static_cast<int64_t>(sizeof(uint64_t));

}  // namespace

StepMarks::StepMarks(kernels::Backend& device, device::Stamps& clock, device::Buffer memory)
    : device_(&device), clock_(&clock), memory_(std::move(memory)) {
  step_.reserve(kMost);
  captured_.reserve(kMost);
  times_.resize(2 * kMost);
}

Result<StepMarks> StepMarks::create(kernels::Backend& device) {
  auto* clock = dynamic_cast<device::Stamps*>(&device);
  if (clock == nullptr) {
    return fail(ErrorKind::kDevice, "{} has no clock that its operations could be timed by",
                device.name());
  }
  LS_TRY(device::Buffer memory,
         device::Buffer::allocate(device.memory(), 2 * kMost * kBytes, "stamps"));
  return StepMarks(device, *clock, std::move(memory));
}

bool StepMarks::marking() const {
  return capturing_ ? on_ : in_step_;
}

uint64_t* StepMarks::place(const Intervals& list) const {
  auto* stamps = reinterpret_cast<uint64_t*>(memory_.data());
  return stamps + (&list == &captured_ ? kMost : 0) + list.size();
}

void StepMarks::put(Intervals& to, const Interval& interval) {
  LS_CHECK_MSG(static_cast<int64_t>(to.size()) < kMost, "more than {} stamps", kMost);
  clock_->stamp(place(to));
  to.push_back(interval);
}

void StepMarks::next(Part part, bool waits) {
  if (!marking()) return;
  Intervals& list = capturing_ ? captured_ : step_;
  const int64_t operations = waits ? 0 : 1;
  if (!list.empty() && list.back().part == part) {
    list.back().operations += operations;
  } else {
    put(list, {part, operations});
  }
}

void StepMarks::begin_capture() {
  capturing_ = true;
  captured_.clear();
}

void StepMarks::end_capture(std::optional<device::Graphs::Id> id) {
  capturing_ = false;
  if (id && !captured_.empty()) graphs_[*id] = captured_;
}

void StepMarks::launch(device::Graphs::Id id) {
  if (!in_step_) return;
  LS_CHECK_MSG(launched_ == nullptr,
               "a second graph in a step: its stamps lie where the first's do");
  next(Part::kLaunch, /*waits=*/true);
  const auto found = graphs_.find(id);
  if (found == graphs_.end()) return;
  launched_ = &found->second;
  launched_at_ = step_.size();
}

void StepMarks::begin_step() {
  LS_CHECK(!capturing_);
  in_step_ = true;
  step_.clear();
  launched_ = nullptr;
}

void StepMarks::close() {
  if (in_step_ && !step_.empty() && step_.back().part) put(step_, {});
}

Result<void> StepMarks::fetch_times(size_t in_graph) {
  const auto fetch = [&](int64_t at, size_t count) {
    return device_->memory().download(times_.data() + at, memory_.data() + at * kBytes,
                                      static_cast<int64_t>(count) * kBytes);
  };
  LS_TRY_VOID(fetch(0, step_.size()));
  return in_graph == 0 ? Result<void>() : fetch(kMost, in_graph);
}

Result<StepTime> StepMarks::end_step() {
  LS_CHECK_MSG(in_step_ && !step_.empty() && !step_.back().part, "a step that was waited for");
  in_step_ = false;
  const size_t in_graph = launched_ == nullptr ? 0 : launched_->size();
  LS_TRY_VOID(fetch_times(in_graph));
  StepTime step;
  step.stamps = static_cast<int64_t>(step_.size() + in_graph);
  step.captured = launched_ != nullptr;
  uint64_t before = 0;
  const Interval* open = nullptr;
  // In the order of the queue: each stamp ends what began with the one before it.
  const auto pass = [&](const Interval& interval, uint64_t at) {
    if (open != nullptr) {
      // What is queued after the step was waited for once has a gap before it.
      const Part part = open->part.value_or(Part::kRest);
      PartTime& time = step.parts[static_cast<size_t>(part)];
      time.seconds += static_cast<double>(static_cast<int64_t>(at - before)) * 1e-9;
      time.operations += open->operations;
      ++time.stamps;
      step.order.push_back(part);
    }
    open = &interval;
    before = at;
  };
  for (size_t i = 0; i < step_.size(); ++i) {
    for (size_t g = 0; i == launched_at_ && g < in_graph; ++g)
      pass((*launched_)[g], times_[static_cast<size_t>(kMost) + g]);
    pass(step_[i], times_[i]);
  }
  step.seconds = static_cast<double>(before - times_.front()) * 1e-9;
  return step;
}

Result<StepTime> StepMarks::end_captured_step() {
  LS_TRY(StepTime step, end_step());
  if (step.captured) return step;
  return fail(ErrorKind::kDevice,
              "a step to be timed by parts was not captured: --cuda-graph-bs, --cuda-graph-max-bs "
              "or --batches leave it out, or CUDA_LAUNCH_BLOCKING is set");
}

Result<double> StepMarks::stamp_seconds() {
  auto* graphs = dynamic_cast<device::Graphs*>(device_);
  LS_CHECK(graphs != nullptr);
  constexpr int64_t kStamps = 256;
  constexpr int kRounds = 9;
  auto* stamps = reinterpret_cast<uint64_t*>(memory_.data());
  graphs->begin_capture();
  for (int64_t i = 0; i < kStamps; ++i) clock_->stamp(stamps + i);
  LS_TRY(const device::Graphs::Id graph, graphs->end_capture());
  std::vector<double> seconds;
  for (int round = 0; round < kRounds; ++round) {
    graphs->launch(graph);
    LS_TRY_VOID(device_->synchronize());
    LS_TRY_VOID(device_->memory().download(times_.data(), memory_.data(), kStamps * kBytes));
    seconds.push_back(static_cast<double>(times_[kStamps - 1] - times_[0]) * 1e-9 / (kStamps - 1));
  }
  graphs->drop(graph);
  std::sort(seconds.begin(), seconds.end());
  return seconds[kRounds / 2];
}

}  // namespace longshore::bench
