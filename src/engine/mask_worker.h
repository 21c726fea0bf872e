// A thread that prepares masks while the forward pass runs: which ids a constraint allows next is
// known before the logits are.
//
// Threading: one thread calls; the work runs on the worker's own, which starts with the first work.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace longshore::engine {

class MaskWorker {
 public:
  MaskWorker() = default;
  ~MaskWorker();
  MaskWorker(const MaskWorker&) = delete;
  MaskWorker& operator=(const MaskWorker&) = delete;

  // Runs `work` beside the caller. The one before must have been waited for.
  void start(std::function<void()> work);
  // Until the work is done; at once where there is none.
  void wait();

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> work_;  // empty: none
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace longshore::engine
