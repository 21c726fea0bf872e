#include "base/threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>

#include "base/check.h"

namespace longshore {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);

void relax() { __builtin_ia32_pause(); }

std::vector<int> allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

void pin_to(pthread_t thread, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  // A refusal (a container's policy, say) only costs speed.
  (void)pthread_setaffinity_np(thread, sizeof(set), &set);
}

}  // namespace

int available_cpus() { return static_cast<int>(allowed_cpus().size()); }

ThreadPool::ThreadPool(int threads, bool pin) {
  LS_CHECK_MSG(threads >= 1, "a pool of {} threads", threads);
  workers_.reserve(static_cast<size_t>(threads) - 1);
  for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { work(worker); });
  if (!pin) return;
  const std::vector<int> cpus = allowed_cpus();
  for (size_t i = 0; i < workers_.size(); ++i) {
    pin_to(workers_[i].native_handle(), cpus[(i + 1) % cpus.size()]);
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  while (true) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    int spins = 0;
    while (generation_.load(std::memory_order_acquire) == seen) {
      relax();
      if (++spins % 64 != 0 || std::chrono::steady_clock::now() < deadline) continue;
      std::unique_lock lock(mutex_);
      parked_.fetch_add(1);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      parked_.fetch_sub(1);
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    (*body_)(worker);
    running_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

void ThreadPool::run(const std::function<void(int)>& body) {
  if (workers_.empty()) return body(0);
  LS_CHECK_MSG(running_.load() == 0, "ThreadPool::run called while a loop runs");
  body_ = &body;
  running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1);  // sequentially consistent with parked_: a worker that parks after this sees the new value
  if (parked_.load() > 0) {
    std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  body(0);
  while (running_.load(std::memory_order_acquire) != 0) relax();
  body_ = nullptr;
}

void ThreadPool::parallel_for(int64_t count, int64_t grain,
                              const std::function<void(int64_t, int64_t, int)>& body) {
  LS_CHECK(count >= 0 && grain >= 1);
  if (count <= grain || workers_.empty()) {
    if (count > 0) body(0, count, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  run([&](int worker) {
    while (true) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      body(begin, std::min(begin + grain, count), worker);
    }
  });
}

}  // namespace longshore
