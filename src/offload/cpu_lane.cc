#include "offload/cpu_lane.h"

#include <chrono>
#include <utility>

#include <sched.h>

#include "base/check.h"

namespace longshore::offload {
namespace {

// A step's layers follow each other closer than this.
constexpr auto kWatch = std::chrono::milliseconds(5);

}  // namespace

CpuLane::CpuLane() : thread_([this] { run(); }) {}

CpuLane::~CpuLane() {
  wait();
  stop_.store(true);
  posted_.fetch_add(1);
  posted_.notify_one();
  thread_.join();
}

void CpuLane::start(std::function<void()> job) {
  LS_CHECK(done());
  job_ = std::move(job);
  ++started_;
  posted_.store(started_, std::memory_order_release);
  posted_.notify_one();
}

void CpuLane::wait() {
  while (!done()) sched_yield();
}

void CpuLane::run() {
  uint64_t seen = 0;
  while (true) {
    const auto until = std::chrono::steady_clock::now() + kWatch;
    while (posted_.load(std::memory_order_acquire) == seen) {
      if (std::chrono::steady_clock::now() < until) {
        __builtin_ia32_pause();
      } else {
        posted_.wait(seen);
      }
    }
    seen = posted_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    job_();
    finished_.store(seen, std::memory_order_release);
  }
}

}  // namespace longshore::offload
