// The device's clock at points of its queue: when it got to each, inside a captured graph as well.
//
// A backend that can tell is also a Stamps. Threading: the thread that calls the backend.
#pragma once

#include <cstdint>

namespace longshore::device {

class Stamps {
 public:
  virtual ~Stamps() = default;
  // Queued like one operation: *to, in the backend's memory, becomes the time in nanoseconds at
  // which all before it was done. What follows waits for it: some microsecond.
  virtual void stamp(uint64_t* to) = 0;
};

}  // namespace longshore::device
