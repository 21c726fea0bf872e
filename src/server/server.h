// The server as a whole: engine thread, routes, metrics, sockets.
//
// Ownership: the LoadedModel outlives the server, and while the server lives nobody else uses its
// engine. Threading: one thread starts, stops and destroys; counters() from any.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/error.h"
#include "engine/engine.h"
#include "server/app.h"
#include "session/loaded_model.h"

namespace longshore::server {

struct ServerOptions {
  AppOptions app;
  std::string host = "127.0.0.1";
  uint16_t port = 8080;  // 0: any
  int io_threads = 2;
  uint64_t max_body_bytes = uint64_t{32} << 20;
  uint32_t max_header_bytes = 64 * 1024;
  double request_timeout = 0;  // seconds from arrival to the last token; 0: none
  double idle_timeout = 75;    // seconds between requests of a connection
  double read_timeout = 30;    // seconds for a request's head, and between two pieces of its body
  double write_timeout = 120;  // seconds without a byte taken by a reader
  double keep_alive = 10;  // seconds of silence in a stream of events before a comment is written
  double drain = 30;       // seconds that stop() gives to what runs
  size_t pending_bytes = size_t{32}
                         << 20;  // of a stream that its reader has not taken; more: cancelled
  int send_buffer = 128 * 1024;  // of a connection, in the kernel, which takes twice of it
  bool log_requests = false;
};

class Server {
 public:
  // kUsage: the address cannot be resolved or is in use.
  static Result<std::unique_ptr<Server>> start(session::LoadedModel& loaded,
                                               const ServerOptions& options);
  // As stop() with nothing to wait for, and then waits for whatever is still being computed.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // "http://127.0.0.1:8080"
  [[nodiscard]] std::string address() const;
  [[nodiscard]] uint16_t port() const;
  [[nodiscard]] engine::EngineCounters counters() const;
  [[nodiscard]] int64_t open_connections() const;

  // No more connections; what was accepted is finished within the drain time, the rest ends with an
  // error, within seconds. True: all of it was finished. Where open_connections() is not 0
  // afterwards, a worker is busy with something that cannot be cut and the destructor would wait
  // for it.
  bool stop();

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshore::server
