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
#include <span>
#include <thread>
#include <vector>

#include "base/topology.h"

namespace longshore {

class ThreadPool {
 public:
  // threads in [1, 4096] counts the caller. pin: bind worker i to the i-th CPU that this process
  // may use; the caller stays free.
  explicit ThreadPool(int threads, bool pin = false);
  // Binds the workers but for the caller to the topology's seats.
  ThreadPool(int threads, const Topology& topology);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int size() const { return static_cast<int>(workers_.size()) + 1; }
  // Nodes that have a worker.
  [[nodiscard]] int nodes() const { return static_cast<int>(next_.size()); }
  // Worker 0, the caller, is not bound: it counts to the node that it is on when this is called.
  [[nodiscard]] int node_of(int worker) const;

  // Calls body(worker) once on every worker, worker in [0, size()); returns when all have returned.
  void run(const std::function<void(int worker)>& body);

  // Calls body(begin, end, worker) on disjoint pieces of [0, count), each at most `grain` long.
  // Workers that come free take the next few pieces, in ascending order and fewer towards the end,
  // so that all finish together and what lies behind a piece is probably this worker's next. Which
  // worker gets which piece varies between runs: results must not depend on it. A loop of one piece
  // runs on the caller alone.
  void parallel_for(int64_t count, int64_t grain,
                    const std::function<void(int64_t begin, int64_t end, int worker)>& body) {
    loop(count, grain, body, nullptr);
  }

  // The same for a range of which [bounds[n], bounds[n + 1]) lies in the memory of node n, bounds
  // [nodes() + 1] ascending from 0: no piece crosses a bound, workers take what lies on their own
  // node and, when that is all taken, help the next nodes.
  // before: null, or what the caller does before it takes pieces, while others have begun.
  void parallel_for_nodes(std::span<const int64_t> bounds, int64_t grain,
                          const std::function<void(int64_t begin, int64_t end, int worker)>& body,
                          const std::function<void()>* before = nullptr);

 private:
  struct alignas(64) Counter {
    std::atomic<int64_t> next{0};
  };
  struct NodeLoop;

  void start(int threads);
  void loop(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t, int)>& body,
            const std::function<void()>* before);
  void work(int worker);
  // Calls body on workers [0, team); body has no use for the others, and nobody waits for them.
  void run_team(int team, const std::function<void(int)>& body);
  void take_pieces(const NodeLoop& loop, int node, int worker);

  std::vector<std::thread> workers_;
  std::vector<int> node_of_;   // [size()]
  std::vector<int> cpu_node_;  // [CPU]; empty: one node
  const std::function<void(int)>* body_ = nullptr;
  // How many loops have started, and in the lower bits the team of the last. One word, so that a
  // worker that is not of the team never acts on a mixture of two loops.
  alignas(64) std::atomic<uint64_t> signal_{0};
  alignas(64) std::atomic<int> running_{0};  // workers still inside the current loop
  std::vector<Counter> next_;                // [nodes()] piece of the current parallel_for
  std::atomic<bool> stop_{false};
  std::atomic<int> parked_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// CPUs this process may use (its affinity mask), at least one, ascending.
[[nodiscard]] std::vector<int> allowed_cpus();
// How many.
[[nodiscard]] int available_cpus();

}  // namespace longshore
