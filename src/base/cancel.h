// Cooperative cancellation: one flag that a signal handler or another thread sets and long work
// polls.
#pragma once

#include <atomic>

namespace longshore {

// Threading: any thread or signal handler may cancel(); any thread may ask.
class CancelToken {
 public:
  void cancel() { flag_.store(true, std::memory_order_relaxed); }
  void reset() { flag_.store(false, std::memory_order_relaxed); }
  [[nodiscard]] bool cancelled() const { return flag_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> flag_{false};
  static_assert(std::atomic<bool>::is_always_lock_free);
};

}  // namespace longshore
