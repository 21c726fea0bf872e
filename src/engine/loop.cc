#include "engine/loop.h"

#include <algorithm>
#include <utility>

namespace longshore::engine {

EngineLoop::EngineLoop(Engine& engine, std::function<void(const StepReport&)> on_step)
    : engine_(engine),
      on_step_(std::move(on_step)),
      counters_(engine.counters()),
      thread_([this] { run(); }) {}

EngineLoop::~EngineLoop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

Result<RequestId> EngineLoop::submit(GenerationRequest request, Listener listener) {
  LS_TRY_VOID(engine_.validate(request));
  RequestId id = 0;
  {
    const std::lock_guard lock(mutex_);
    const int64_t queued = counters_.queued + static_cast<int64_t>(submissions_.size());
    const int64_t most = engine_.options().max_queued;
    // An idle place to run is no queue. How many run is known as of the last step only, how many
    // are here exactly.
    const int64_t places = engine_.options().max_running;
    const int64_t idle = std::max<int64_t>(0, places - counters_.running);
    if (most >= 0 && (queued >= most + idle || outstanding_ >= most + places)) {
      return fail(ErrorKind::kBusy, "the queue is full, {} requests may wait: try again later",
                  most);
    }
    ++outstanding_;
    id = next_id_++;
    submissions_.push_back({id, std::move(request), std::move(listener)});
  }
  wake_.notify_one();
  return id;
}

void EngineLoop::cancel(RequestId id) {
  {
    const std::lock_guard lock(mutex_);
    cancellations_.push_back(id);
  }
  wake_.notify_one();
}

EngineCounters EngineLoop::counters() const {
  const std::lock_guard lock(mutex_);
  EngineCounters counters = counters_;
  counters.queued += static_cast<int64_t>(submissions_.size());
  return counters;
}

bool EngineLoop::take_in() {
  std::vector<Submission> submissions;
  std::vector<RequestId> cancellations;
  bool stop = false;
  {
    std::unique_lock lock(mutex_);
    counters_ = engine_.counters();
    wake_.wait(lock, [&] {
      return stop_ || !submissions_.empty() || !cancellations_.empty() || !engine_.idle();
    });
    submissions.swap(submissions_);
    cancellations.swap(cancellations_);
    counters_.queued += static_cast<int64_t>(submissions.size());
    stop = stop_;
  }
  for (Submission& submission : submissions) {
    const RequestId door = submission.id;
    submission.listener.on_finish = [this, door, heard = std::move(submission.listener.on_finish)](
                                        const GenerationResult& result) {
      engine_ids_.erase(door);
      {
        const std::lock_guard lock(mutex_);
        --outstanding_;
      }
      if (heard) heard(result);
    };
    // Validated at the door, and the queue's limit was kept there.
    const auto accepted = engine_.submit(std::move(submission.request),
                                         std::move(submission.listener), QueueLimit::kIgnored);
    LS_CHECK_MSG(accepted.has_value(), "{}", accepted.error().message);
    engine_ids_[door] = *accepted;
  }
  for (RequestId id : cancellations) {
    const auto found = engine_ids_.find(id);
    if (found != engine_ids_.end()) engine_.cancel(found->second);
  }
  if (!stop) return true;
  for (const auto& [door, id] : engine_ids_) engine_.cancel(id);
  return false;
}

void EngineLoop::run() {
  while (take_in()) {
    if (engine_.step() && on_step_) on_step_(engine_.last_step());
  }
  while (!engine_.idle()) engine_.step();
}

}  // namespace longshore::engine
