// The listening socket, the io threads, and the connections that live on them.
//
// Ownership: app, service, metrics and wakes outlive the listener. Threading: one thread creates,
// stops and destroys.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/error.h"
#include "server/app.h"
#include "server/metrics.h"
#include "server/net/step_wakes.h"
#include "server/server.h"
#include "session/service.h"

namespace longshore::server {

class Listener {
 public:
  // kUsage: the address cannot be resolved or is in use.
  // The caller flushes wakes after every step of the engine.
  static Result<std::unique_ptr<Listener>> open(App& app, session::Service& service,
                                                Metrics& metrics, StepWakes& wakes,
                                                const ServerOptions& options);
  // Cuts every connection and waits, however long it takes, for the workers that still use them:
  // who cannot wait leaves the process by std::_Exit while connections() is not 0.
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  [[nodiscard]] uint16_t port() const;
  [[nodiscard]] int64_t connections() const;
  // Takes what waits at the door, closes it, waits up to `seconds` for the connections to finish,
  // then cuts them; returns within seconds of that. True: none had to be cut. What a worker is busy
  // with cannot be cut: then connections() is not 0 afterwards.
  bool drain(double seconds);

 private:
  struct Impl;
  explicit Listener(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshore::server
