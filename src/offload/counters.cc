#include "offload/counters.h"

namespace longshore::offload {

ExpertCounters operator-(const ExpertCounters& later, const ExpertCounters& earlier) {
  ExpertCounters d = later;
  d.routes -= earlier.routes;
  d.routes_on_device -= earlier.routes_on_device;
  d.routed_experts -= earlier.routed_experts;
  d.hits -= earlier.hits;
  d.fetched -= earlier.fetched;
  d.computed_on_cpu -= earlier.computed_on_cpu;
  d.shared -= earlier.shared;
  d.abandoned -= earlier.abandoned;
  d.prefetched -= earlier.prefetched;
  d.prefetched_unused -= earlier.prefetched_unused;
  d.wire_bytes -= earlier.wire_bytes;
  d.cpu_bytes -= earlier.cpu_bytes;
  d.wire_seconds -= earlier.wire_seconds;
  d.wire_idle_seconds -= earlier.wire_idle_seconds;
  d.cpu_seconds -= earlier.cpu_seconds;
  d.handshake_seconds -= earlier.handshake_seconds;
  d.policy_seconds -= earlier.policy_seconds;
  d.queueing_seconds -= earlier.queueing_seconds;
  d.overlapped_seconds -= earlier.overlapped_seconds;
  d.handshakes -= earlier.handshakes;
  return d;
}

ExpertCounters operator+(const ExpertCounters& a, const ExpertCounters& b) {
  return a - (ExpertCounters{} - b);
}

}  // namespace longshore::offload
