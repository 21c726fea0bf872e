#include "server/server.h"

#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "server/log.h"
#include "server/metrics.h"
#include "server/net/listener.h"
#include "session/service.h"

namespace longshore::server {
namespace {

// The experts as of the last step, for other threads than the engine's.
class ExpertSnapshot {
 public:
  void set(const offload::ExpertStore& store) {
    const std::lock_guard lock(mutex_);
    store.report(report_);
  }
  [[nodiscard]] offload::StoreReport get() const {
    const std::lock_guard lock(mutex_);
    return report_;
  }

 private:
  mutable std::mutex mutex_;
  offload::StoreReport report_;
};

}  // namespace

struct Server::Impl {
  Impl(session::LoadedModel& loaded, const ServerOptions& options_)
      : options(options_),
        metrics(options.app.api.served_model),
        service(loaded,
                [this, &loaded](const engine::StepReport& report) {
                  metrics.on_step(report);
                  experts.set(loaded.model->experts());
                  wakes.flush();
                }),
        app(loaded, metrics, options.app,
            {[this] { return service.counters(); }, [this] { return experts.get(); },
             [&loaded](int64_t bytes) { return loaded.model->experts().limit_slots(bytes); }}) {
    // What was measured at start shows before the first step. Nobody asks for one yet.
    experts.set(loaded.model->experts());
  }

  const ServerOptions options;
  ExpertSnapshot experts;
  Metrics metrics;
  StepWakes wakes;
  session::Service service;
  App app;
  std::unique_ptr<Listener> listener;  // goes first
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::start(session::LoadedModel& loaded,
                                              const ServerOptions& options) {
  auto impl = std::make_unique<Impl>(loaded, options);
  LS_TRY(impl->listener,
         Listener::open(impl->app, impl->service, impl->metrics, impl->wakes, impl->options));
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

std::string Server::address() const {
  const std::string& host = impl_->options.host;
  const bool v6 = host.find(':') != std::string::npos;
  return fmt::format("http://{}{}{}:{}", v6 ? "[" : "", host, v6 ? "]" : "", port());
}

uint16_t Server::port() const {
  return impl_->listener->port();
}
engine::EngineCounters Server::counters() const {
  return impl_->service.counters();
}
int64_t Server::open_connections() const {
  return impl_->listener->connections();
}

bool Server::stop() {
  impl_->app.set_draining();
  return impl_->listener->drain(impl_->options.drain);
}

}  // namespace longshore::server
