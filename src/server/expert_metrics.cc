#include "server/expert_metrics.h"

#include <algorithm>

#include "server/registrar.h"

namespace longshore::server {
namespace {

double as_double(int64_t value) {
  return static_cast<double>(value);
}

// Conservation holds over the first four.
void add_lookups(Registrar& r, const offload::ExpertCounters& c) {
  const auto lookup = [&](const char* who, int64_t count) {
    r.counter("expert_lookups_total",
              "Distinct experts of a layer and step of the main model, by who had them: the "
              "device, where "
              "they came ahead too (hit), "
              "the wire (fetched), the CPU where they lie (cpu), CPU and wire together (shared).",
              {{"placement", who}})
        .Increment(as_double(count));
  };
  lookup("hit", c.hits);
  lookup("fetched", c.fetched);
  lookup("cpu", c.computed_on_cpu);
  lookup("shared", c.shared);
  r.counter("expert_prefetched_total", "Experts sent over the wire ahead of being wanted.")
      .Increment(as_double(c.prefetched));
  r.counter("expert_prefetched_unused_total", "Of these, overwritten before any step wanted them.")
      .Increment(as_double(c.prefetched_unused));
}

void add_times(Registrar& r, const offload::ExpertCounters& c) {
  const auto moved = [&](const char* by, int64_t bytes, double seconds) {
    r.counter("expert_bytes_total", "Bytes of experts over the wire or read by the CPU.",
              {{"by", by}})
        .Increment(as_double(bytes));
    r.counter("expert_busy_seconds_total", "Seconds in which the wire or the CPU was busy so.",
              {{"by", by}})
        .Increment(seconds);
  };
  moved("wire", c.wire_bytes, c.wire_seconds);
  moved("cpu", c.cpu_bytes, c.cpu_seconds);
  const auto host = [&](const char* what, double seconds) {
    r.counter("expert_host_seconds_total",
              "Seconds of the host: waiting for layers' routes, deciding and bookkeeping, handing "
              "copies to the wire.",
              {{"part", what}})
        .Increment(seconds);
  };
  host("routes", c.handshake_seconds);
  host("policy", c.policy_seconds);
  host("queueing", c.queueing_seconds);
  r.counter("expert_handshakes_total", "Layers whose routes the host waited for.")
      .Increment(as_double(c.handshakes));
}

void add_rates(Registrar& r, const offload::StoreReport& report) {
  const auto rate = [&](const char* by, const char* kind, double value) {
    r.gauge("expert_bytes_per_second",
            "Of one expert over the wire or on the CPU, both busy: as decisions take it (now), and "
            "as measured before the first step (ceiling).",
            {{"by", by}, {"kind", kind}})
        .Set(value);
  };
  rate("wire", "now", report.wire_bytes_per_second);
  rate("wire", "ceiling", report.wire_ceiling);
  rate("cpu", "now", report.cpu_bytes_per_second);
  rate("cpu", "ceiling", report.cpu_ceiling);
}

void add_residency(Registrar& r, const offload::StoreReport& report, int64_t per_layer,
                   int64_t first_layer) {
  r.gauge("expert_slots",
          "Experts that the device's slots may hold; 0 where all or none are there.")
      .Set(as_double(report.slots_used_at_most));
  for (size_t first = 0; first < report.resident.size(); first += static_cast<size_t>(per_layer)) {
    const auto begin = report.resident.begin() + static_cast<std::ptrdiff_t>(first);
    const auto count = std::count(begin, begin + per_layer, 1);
    const int64_t layer = first_layer + static_cast<int64_t>(first) / per_layer;
    r.gauge("expert_resident", "Experts of a layer that are in the device's memory.",
            {{"layer", std::to_string(layer)}})
        .Set(as_double(count));
  }
}

}  // namespace

std::string expert_metrics(const std::string& model_name, const offload::StoreReport& report,
                           int64_t per_layer, int64_t first_layer) {
  Registrar r(model_name);
  add_lookups(r, report.counters);
  add_times(r, report.counters);
  add_rates(r, report);
  add_residency(r, report, per_layer, first_layer);
  return r.render();
}

}  // namespace longshore::server
