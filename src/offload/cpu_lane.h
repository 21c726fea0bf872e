// A thread that computes experts on the CPU while the engine's thread goes on queueing the device's
// work.
//
// Threading: one thread calls start() and wait(); the job runs on the lane's own thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>

namespace longshore::offload {

class CpuLane {
 public:
  CpuLane();
  ~CpuLane();
  CpuLane(const CpuLane&) = delete;
  CpuLane& operator=(const CpuLane&) = delete;

  // The last job is done. The lane watches for a while after a job, as the next one usually follows
  // within a layer, then sleeps.
  void start(std::function<void()> job);
  // Until the job is done; at once where none was started.
  void wait();
  [[nodiscard]] bool done() const { return finished_.load(std::memory_order_acquire) == started_; }

 private:
  void run();

  std::function<void()> job_;
  uint64_t started_ = 0;             // jobs, by the caller's thread
  std::atomic<uint64_t> posted_{0};  // of these, handed over
  std::atomic<uint64_t> finished_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace longshore::offload
