// A device's queued work, written down once and run again by one call: no launch costs the host
// anything any more, and the device does not wait for the next.
//
// A backend that can do so is also a Graphs (model::StepGraphs asks it). Between begin_capture()
// and end_capture() nothing may be allocated, copied by upload() or download(), sent by copy_ints()
// (its values would freeze) or waited for.
//
// Threading: the thread that calls the backend. Ownership: graphs live until drop() or the
// backend's end; what their operations point to outlives them.
#pragma once

#include <cstdint>

#include "base/error.h"

namespace longshore::device {

class Graphs {
 public:
  using Id = int64_t;
  virtual ~Graphs() = default;

  // The backend's operations are written down from now on, with their parameters' present values,
  // and do not run.
  virtual void begin_capture() = 0;
  // kDevice: the driver refused something of it.
  [[nodiscard]] virtual Result<Id> end_capture() = 0;
  // Queued like one operation. Faults are kept like an operation's.
  virtual void launch(Id id) = 0;
  // Work that was queued before may still run: it is waited for.
  virtual void drop(Id id) = 0;
};

}  // namespace longshore::device
