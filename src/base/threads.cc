#include "base/threads.h"

#include <algorithm>
#include <chrono>

#include <pthread.h>
#include <sched.h>

#include "base/check.h"

namespace longshore {
namespace {

constexpr int kTeamBits = 13;
constexpr uint64_t kTeamMask = (1U << kTeamBits) - 1;
constexpr int kSpins = 2000;  // pauses: some tens of microseconds
// Of yielding before a worker parks. Longer than what a device computes between two layers'
// experts: waking a parked worker takes tens of microseconds, one after the other.
constexpr auto kPatience = std::chrono::milliseconds(3);

void relax() {
  __builtin_ia32_pause();
}

// Waits until done(): first on the CPU, then giving way to other threads, which costs nothing on a
// free CPU and on a crowded one lets the thread run that is waited for.
template <typename Done>
void wait_for(Done done) {
  for (int spins = 0; !done(); ++spins) {
    if (spins < kSpins) {
      relax();
    } else {
      sched_yield();
    }
  }
}

// Most neighbouring pieces that a worker takes at a time. Odd, and few: pieces are often as large
// as powers of two, and threads that walk in step at such distances would all want the same bank of
// the memory (measured: a fixed equal share of the rows for each of 16 threads read experts at 0.65
// of the bandwidth).
constexpr int64_t kMostPieces = 5;

void bind_to(pthread_t thread, const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(cpu, &set);
  // A refusal (a container's policy, say) only costs speed.
  (void)pthread_setaffinity_np(thread, sizeof(set), &set);
}

}  // namespace

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

int available_cpus() {
  return static_cast<int>(allowed_cpus().size());
}

// A loop that its workers take pieces of.
struct ThreadPool::NodeLoop {
  std::span<const int64_t> bounds;
  int64_t grain;
  int team;
  const std::function<void(int64_t, int64_t, int)>& body;
};

ThreadPool::ThreadPool(int threads, bool pin)
    : node_of_(static_cast<size_t>(std::max(threads, 1)), 0), next_(1) {
  start(threads);
  if (!pin) return;
  const std::vector<int> cpus = allowed_cpus();
  for (size_t i = 0; i < workers_.size(); ++i) {
    bind_to(workers_[i].native_handle(), {cpus[(i + 1) % cpus.size()]});
  }
}

ThreadPool::ThreadPool(int threads, const Topology& topology)
    : next_(static_cast<size_t>(std::min(topology.size(), threads))) {
  const std::vector<Seat> places = seats(topology, threads);
  for (const Seat& seat : places) node_of_.push_back(seat.node);
  for (int node = 0; nodes() > 1 && node < nodes(); ++node) {
    for (const int cpu : topology.nodes[static_cast<size_t>(node)]) {
      if (static_cast<size_t>(cpu) >= cpu_node_.size())
        cpu_node_.resize(static_cast<size_t>(cpu) + 1);
      cpu_node_[static_cast<size_t>(cpu)] = node;
    }
  }
  start(threads);
  for (size_t i = 0; i < workers_.size(); ++i) {
    bind_to(workers_[i].native_handle(), {places[i + 1].cpu});
  }
}

void ThreadPool::start(int threads) {
  LS_CHECK_MSG(threads >= 1 && threads <= 4096, "a pool of {} threads", threads);
  workers_.reserve(static_cast<size_t>(threads) - 1);
  for (int worker = 1; worker < threads; ++worker)
    workers_.emplace_back([this, worker] { work(worker); });
}

int ThreadPool::node_of(int worker) const {
  if (worker > 0 || cpu_node_.empty()) return node_of_[static_cast<size_t>(worker)];
  const int cpu = sched_getcpu();
  const bool known = cpu >= 0 && static_cast<size_t>(cpu) < cpu_node_.size();
  return known ? cpu_node_[static_cast<size_t>(cpu)] : 0;
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    signal_.fetch_add(kTeamMask + 1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  while (true) {
    int spins = 0;
    auto deadline = std::chrono::steady_clock::time_point::max();
    while (signal_.load(std::memory_order_acquire) == seen) {
      if (++spins < kSpins) {
        relax();
        continue;
      }
      const auto now = std::chrono::steady_clock::now();
      if (spins == kSpins) deadline = now + kPatience;
      if (now < deadline) {
        sched_yield();
        continue;
      }
      std::unique_lock lock(mutex_);
      parked_.fetch_add(1);
      wake_.wait(lock, [&] { return signal_.load() != seen; });
      parked_.fetch_sub(1);
    }
    seen = signal_.load(std::memory_order_acquire);
    if (stop_) return;
    if (static_cast<uint64_t>(worker) >= (seen & kTeamMask)) continue;
    (*body_)(worker);
    running_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

void ThreadPool::run(const std::function<void(int)>& body) {
  run_team(size(), body);
}

void ThreadPool::run_team(int team, const std::function<void(int)>& body) {
  if (team == 1) return body(0);
  LS_CHECK_MSG(running_.load() == 0, "ThreadPool::run called while a loop runs");
  body_ = &body;
  running_.store(team - 1, std::memory_order_relaxed);
  const uint64_t loops = signal_.load(std::memory_order_relaxed) & ~kTeamMask;
  // Sequentially consistent with parked_: a worker that parks after this sees the new value.
  signal_.store(loops + kTeamMask + 1 + static_cast<uint64_t>(team));
  if (parked_.load() > 0) {
    std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  body(0);
  wait_for([&] { return running_.load(std::memory_order_acquire) == 0; });
  body_ = nullptr;
}

void ThreadPool::loop(int64_t count, int64_t grain,
                      const std::function<void(int64_t, int64_t, int)>& body,
                      const std::function<void()>* before) {
  LS_CHECK(count >= 0 && grain >= 1);
  if (count <= grain || workers_.empty()) {
    if (before != nullptr) (*before)();
    if (count > 0) body(0, count, 0);
    return;
  }
  const int64_t bounds[] = {0, count};
  const int64_t pieces = (count + grain - 1) / grain;
  const int team = static_cast<int>(std::min<int64_t>(size(), pieces));
  const NodeLoop loop{bounds, grain, team, body};
  next_[0].next.store(0, std::memory_order_relaxed);
  run_team(team, [&](int worker) {
    if (worker == 0 && before != nullptr) (*before)();
    take_pieces(loop, 0, worker);
  });
}

void ThreadPool::parallel_for_nodes(std::span<const int64_t> bounds, int64_t grain,
                                    const std::function<void(int64_t, int64_t, int)>& body,
                                    const std::function<void()>* before) {
  LS_CHECK(static_cast<int>(bounds.size()) == nodes() + 1 && bounds[0] == 0 && grain >= 1);
  if (nodes() == 1 || bounds.back() <= grain) return this->loop(bounds.back(), grain, body, before);
  int64_t pieces = 0;
  for (size_t n = 0; n < next_.size(); ++n) {
    LS_CHECK(bounds[n] <= bounds[n + 1]);
    pieces += (bounds[n + 1] - bounds[n] + grain - 1) / grain;
    next_[n].next.store(0, std::memory_order_relaxed);
  }
  const int team = static_cast<int>(std::min<int64_t>(size(), pieces));
  const NodeLoop loop{bounds, grain, team, body};
  run_team(team, [&](int worker) {
    if (worker == 0 && before != nullptr) (*before)();
    const int home = node_of(worker);
    for (int turn = 0; turn < nodes(); ++turn) take_pieces(loop, (home + turn) % nodes(), worker);
  });
}

void ThreadPool::take_pieces(const NodeLoop& loop, int node, int worker) {
  const int64_t start = loop.bounds[static_cast<size_t>(node)];
  const int64_t end = loop.bounds[static_cast<size_t>(node) + 1];
  const int64_t pieces = (end - start + loop.grain - 1) / loop.grain;
  std::atomic<int64_t>& next = next_[static_cast<size_t>(node)].next;
  int64_t first = next.load(std::memory_order_relaxed);
  while (first < pieces) {
    const int64_t left = pieces - first;
    const int64_t take = std::clamp<int64_t>(left / (2 * loop.team), 1, kMostPieces);
    if (!next.compare_exchange_weak(first, first + take, std::memory_order_relaxed)) continue;
    for (int64_t piece = first; piece < first + take; ++piece) {
      loop.body(start + piece * loop.grain, std::min(start + (piece + 1) * loop.grain, end),
                worker);
    }
    first = next.load(std::memory_order_relaxed);
  }
}

}  // namespace longshore
