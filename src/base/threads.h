// The one thread pool: a fixed team that runs one parallel loop at a time.
//
// Ownership: made once at start and passed by reference to whoever computes. Threading: run() may be called from one
// thread at a time (the engine's); calls do not nest. The caller is worker 0 and works too. Workers spin for a short
// while after a loop, since the next one usually follows within microseconds, then park.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace longshore {

class ThreadPool {
 public:
  // threads >= 1 counts the caller. pin: bind worker i to the i-th CPU that this process may use.
  explicit ThreadPool(int threads, bool pin = false);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(worker) once on every worker, worker in [0, size()); returns when all have returned.
  void run(const std::function<void(int worker)>& body);

  // Calls body(begin, end, worker) on disjoint pieces of [0, count), each at most `grain` long, handed out as workers
  // come free. Which worker gets which piece varies between runs: results must not depend on it.
  void parallel_for(int64_t count, int64_t grain,
                    const std::function<void(int64_t begin, int64_t end, int worker)>& body);

 private:
  void work(int worker);

  std::vector<std::thread> workers_;
  const std::function<void(int)>* body_ = nullptr;
  std::atomic<uint64_t> generation_{0};  // bumped for every run()
  std::atomic<int> running_{0};          // workers still inside the current run()
  std::atomic<bool> stop_{false};
  std::atomic<int> parked_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// CPUs this process may use (its affinity mask), at least 1.
[[nodiscard]] int available_cpus();

}  // namespace longshore
