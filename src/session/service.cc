#include "session/service.h"

namespace longshore::session {

Service::Service(LoadedModel& loaded, std::function<void(const engine::StepReport&)> on_step)
    : loaded_(loaded), loop_(*loaded.engine, std::move(on_step)) {}

Result<engine::RequestId> Service::start(CompletionRequest request, CompletionSink sink) {
  LS_TRY_VOID(prepare(loaded_, request));
  engine::Listener listener = make_listener(loaded_, request, std::move(sink));
  return loop_.submit(std::move(request.generation), std::move(listener));
}

void Service::cancel(engine::RequestId id) {
  loop_.cancel(id);
}

}  // namespace longshore::session
