// The wire beside the computing: weights come from host memory into a device's while its operations
// run.
//
// Two queues: copies, one after the other, and the backend's operations. Marks order them against
// each other. A fault of a copy is kept like one of an operation: Backend::synchronize() reports
// it.
//
// Ownership: the backend owns its Transfers. Threading: the thread that calls the backend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/error.h"
#include "device/memory.h"

namespace longshore::device {

class Transfers {
 public:
  virtual ~Transfers() = default;

  // Locks host memory, exactly these bytes, so that copies from it run at the wire's speed beside
  // everything else. Unlocked by unpin() or with the object. kMemory: refused by the system; copies
  // from there then are slow and block.
  [[nodiscard]] virtual Result<void> pin(const std::byte* data, int64_t bytes) = 0;
  virtual void unpin(const std::byte* data) = 0;

  // Host memory that the device's operations read and write in place.
  [[nodiscard]] virtual Memory& mapped() = 0;

  // Queued: host [bytes] -> to, in the device's memory. host stays as it is until the copy has
  // passed.
  virtual void copy(std::byte* to, const std::byte* host, int64_t bytes) = 0;
  // The same for `rows` rows of `width` bytes that are `stride` bytes apart here and there.
  virtual void copy_rows(std::byte* to, const std::byte* host, int64_t rows, int64_t width,
                         int64_t stride) = 0;
  // Queued among the copies: zeros, which take nothing of the wire.
  virtual void clear_rows(std::byte* to, int64_t rows, int64_t width, int64_t stride) = 0;

  // A point in a queue: everything queued before it.
  using Mark = uint64_t;
  [[nodiscard]] virtual Mark copied() = 0;
  [[nodiscard]] virtual Mark computed() = 0;
  // What is queued from now on in the one queue waits for the mark of the other.
  virtual void compute_waits_for(Mark copied) = 0;
  virtual void copy_waits_for(Mark computed) = 0;
  // True also after a fault: nobody waits for ever.
  [[nodiscard]] virtual bool passed(Mark mark) = 0;
  // Of the queue between two marks of it that have passed, where the device measures that.
  [[nodiscard]] virtual std::optional<double> seconds_between(Mark from, Mark to) = 0;
};

}  // namespace longshore::device
