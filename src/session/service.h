// A loaded model with an engine thread: completions from any thread, many at once. What a server
// sees.
//
// Ownership: the LoadedModel outlives the service, and while the service lives nobody else uses
// loaded.engine. Threading: any thread calls; sinks are called on the engine's thread and must not
// block.
#pragma once

#include <functional>
#include <string>

#include "engine/loop.h"
#include "session/completion.h"

namespace longshore::session {

class Service {
 public:
  explicit Service(LoadedModel& loaded,
                   std::function<void(const engine::StepReport&)> on_step = {});

  // kUsage: the request cannot be run (the message names the field). kBusy: the queue is full. On
  // error the sink is never called.
  Result<engine::RequestId> start(CompletionRequest request, CompletionSink sink);
  // The completion ends as "cancelled" within one step. Unknown ids are ignored.
  void cancel(engine::RequestId id);

  [[nodiscard]] engine::EngineCounters counters() const { return loop_.counters(); }
  [[nodiscard]] const LoadedModel& model() const { return loaded_; }

 private:
  LoadedModel& loaded_;
  engine::EngineLoop loop_;
};

}  // namespace longshore::session
