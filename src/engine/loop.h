// The engine's own thread, and a door to it for any other thread.
//
// Ownership: the engine outlives the loop; while the loop lives nobody else calls the engine.
// Threading: any thread calls submit(), cancel() and counters(). Listeners are called on the
// engine's thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/engine.h"

namespace longshore::engine {

class EngineLoop {
 public:
  // on_step is called on the engine's thread after every step; may be empty.
  explicit EngineLoop(Engine& engine, std::function<void(const StepReport&)> on_step = {});
  // Cancels what runs, delivers every on_finish, joins.
  ~EngineLoop();
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  // As Engine::submit, at once: errors come back here, on the caller's thread.
  Result<RequestId> submit(GenerationRequest request, Listener listener);
  void cancel(RequestId id);
  // As of the end of the last step, with what waits at the door counted as queued.
  [[nodiscard]] EngineCounters counters() const;

 private:
  struct Submission {
    RequestId id;
    GenerationRequest request;
    Listener listener;
  };
  void run();
  bool take_in();  // false: stop

  Engine& engine_;
  std::function<void(const StepReport&)> on_step_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  RequestId next_id_ = 1;
  int64_t outstanding_ = 0;  // accepted and not finished
  std::vector<Submission> submissions_;
  std::vector<RequestId> cancellations_;
  EngineCounters counters_;
  std::unordered_map<RequestId, RequestId>
      engine_ids_;  // engine's thread only: door id -> engine id
  std::thread thread_;
};

}  // namespace longshore::engine
