// What the wire and the CPU's experts can do on this machine, both at once, before the first step.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/clock.h"
#include "offload/device_experts.h"

namespace longshore::offload {
namespace {

// Seconds in which the CPU computes `count` experts, each for the same `tokens` tokens.
double time_cpu(kernels::Backend& cpu, const HostExperts& experts, int64_t first, int64_t count,
                int64_t tokens, int64_t hidden) {
  const DType act = cpu.activation_dtype();
  const std::vector<std::byte> x(static_cast<size_t>(tokens * hidden * dtype_size(act)));
  std::vector<float> y(static_cast<size_t>(tokens * hidden));
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t e = 0; e < count; ++e) ids.push_back(static_cast<int32_t>(e));
  }
  const std::vector<float> weights(ids.size(), 1.0F);
  kernels::ExpertsParams params;
  params.x = {x.data(), act, tokens, hidden, hidden};
  params.ids = ids.data();
  params.weights = weights.data();
  params.top_k = count;
  params.experts = experts.views().data() + first;
  params.num_experts = count;
  params.shape = kernels::shape_of(params.experts[0]);
  params.mixed = true;  // whatever they are
  params.y = {reinterpret_cast<std::byte*>(y.data()), DType::kF32, tokens, hidden, hidden};
  const Stopwatch watch;
  cpu.experts(params);
  return watch.seconds();
}

}  // namespace

// Seconds until a fetch is under way: two points of a line, the shortest of some.
double DeviceExperts::time_start() {
  constexpr double kMost = 1e-4;  // more is somebody else's work
  const auto fetch = [this](int64_t count) {
    double best = INFINITY;
    for (int round = 0; round < 4; ++round) {
      const Stopwatch watch;
      for (int64_t i = 0; i < count; ++i)
        bank_.copy(i % experts_.size(), options_.slots + i % options_.ring);
      const Mark end = wire_.copied();
      while (!wire_.passed(end)) {
      }
      best = std::min(best, watch.seconds());
    }
    return best;
  };
  return std::clamp(2 * fetch(1) - fetch(2), 0.0, kMost);
}

Result<Costs::Start> DeviceExperts::measure() {
  constexpr int64_t kExperts = 32;  // enough that no cache holds them
  const int64_t count = std::min(kExperts, experts_.size());
  Costs::Start start;
  start.cpu_seconds_one_token = 1;           // no CPU: dearer than any wire
  for (int round = 0; round < 2; ++round) {  // the first warms up
    const Mark begin = wire_.copied();
    for (int64_t i = 0; i < count; ++i) bank_.copy(i, options_.slots + i % options_.ring);
    const Mark end = wire_.copied();
    const Stopwatch watch;
    if (cpu_ != nullptr) {
      // Other experts than those on the wire, where there are any.
      const int64_t first = std::max<int64_t>(experts_.size() - count, 0);
      const double one = time_cpu(*cpu_, experts_, first, count, 1, options_.hidden);
      const double four = time_cpu(*cpu_, experts_, first, count, 4, options_.hidden);
      double single = one;  // the shortest of some calls
      for (int64_t i = 0; i < std::min<int64_t>(count, 4); ++i)
        single = std::min(single, time_cpu(*cpu_, experts_, first + i, 1, 1, options_.hidden));
      // A call takes some time whatever it computes: two points of a line.
      const auto experts = static_cast<double>(count);
      if (count > 1)
        start.cpu_overhead = std::clamp((experts * single - one) / (experts - 1), 0.0, single / 2);
      start.cpu_seconds_one_token = (one - start.cpu_overhead) / experts;
      start.cpu_seconds_per_token = std::max(0.0, (four - one) / 3 / experts);
    }
    while (!wire_.passed(end)) {
    }
    const double host_seconds = watch.seconds();
    const double seconds = wire_.seconds_between(begin, end).value_or(host_seconds);
    start.wire_bytes_per_second =
        static_cast<double>(count * bank_.copied_bytes()) / std::max(seconds, 1e-9);
  }
  start.wire_overhead = time_start();
  LS_TRY_VOID(device_.synchronize());
  return start;
}

}  // namespace longshore::offload
