// The listening socket, the io threads, and the connections that live on them.
//
// Ownership: app, service and metrics outlive the listener. Threading: one thread creates, stops
// and destroys.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/error.h"
#include "server/app.h"
#include "server/metrics.h"
#include "server/server.h"
#include "session/service.h"

namespace longshore::server {

class Listener {
 public:
  // kUsage: the address cannot be resolved or is in use.
  static Result<std::unique_ptr<Listener>> open(App& app, session::Service& service,
                                                Metrics& metrics, const ServerOptions& options);
  // Cuts every connection.
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  [[nodiscard]] uint16_t port() const;
  [[nodiscard]] int64_t connections() const;
  // Takes what waits at the door, closes it, waits up to `seconds` for the connections to finish,
  // then cuts them. True: none had to be cut.
  bool drain(double seconds);

 private:
  struct Impl;
  explicit Listener(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshore::server
