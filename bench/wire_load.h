// What the wire loses to whatever else is at work while a step runs beside a stream: the CPU's
// experts, which read the same memory, and a device that polls for their sum.
#pragma once

#include "base/cancel.h"
#include "base/error.h"
#include "bench/report.h"
#include "session/loaded_model.h"

namespace longshore::bench {

// Rows into the report: the wire with each load and with both, and the CPU's experts alone and
// beside the wire. loaded: on a device with graphs, experts in host memory and a CPU beside it,
// idle. wire_alone: bytes/s, the bound. kMemory, kDevice, kCancelled.
Result<void> measure_wire_loads(session::LoadedModel& loaded, double wire_alone,
                                const CancelToken& cancel, Report& report);

}  // namespace longshore::bench
