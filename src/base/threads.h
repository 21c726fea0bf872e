// The one thread pool: a fixed team that runs one parallel loop at a time.
//
// Ownership: made once at start and passed by reference to whoever computes. Threading: run() and
// parallel_for() may be called from one thread at a time (the engine's); calls do not nest. The
// caller is worker 0 and works too. No lock is taken while work is left: workers watch a word for a
// while after a loop, since the next one usually follows within microseconds, then let others have
// the CPU, then park.
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
  // threads in [1, 4096] counts the caller. pin: bind worker i to the i-th CPU that this process
  // may use.
  explicit ThreadPool(int threads, bool pin = false);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(worker) once on every worker, worker in [0, size()); returns when all have returned.
  void run(const std::function<void(int worker)>& body);

  // Calls body(begin, end, worker) on disjoint pieces of [0, count), each at most `grain` long.
  // Workers that come free take the next few pieces, in ascending order and fewer towards the end,
  // so that all finish together and what lies behind a piece is probably this worker's next. Which
  // worker gets which piece varies between runs: results must not depend on it. A loop of one piece
  // runs on the caller alone.
  void parallel_for(int64_t count, int64_t grain,
                    const std::function<void(int64_t begin, int64_t end, int worker)>& body);

 private:
  void work(int worker);
  // Calls body on workers [0, team); body has no use for the others, and nobody waits for them.
  void run_team(int team, const std::function<void(int)>& body);

  std::vector<std::thread> workers_;
  const std::function<void(int)>* body_ = nullptr;
  // How many loops have started, and in the lower bits the team of the last. One word, so that a
  // worker that is not of the team never acts on a mixture of two loops.
  alignas(64) std::atomic<uint64_t> signal_{0};
  alignas(64) std::atomic<int> running_{0};   // workers still inside the current loop
  alignas(64) std::atomic<int64_t> next_{0};  // piece of the current parallel_for
  std::atomic<bool> stop_{false};
  std::atomic<int> parked_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// CPUs this process may use (its affinity mask), at least 1.
[[nodiscard]] int available_cpus();

}  // namespace longshore
