// One client's connection: requests in, answers and event streams out, one after another.
//
// Two coroutines on one strand. pump() always has a read pending, so that a client that goes away
// is noticed while an answer is being computed or written; serve() does everything else and sleeps
// on `signal_` until something happens.
//
// Ownership: alive while one of its coroutines is. Threading: wake() from any thread; the rest on
// the strand.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>  // Asio 1.18 uses std::exchange without it

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>

#include "server/app.h"
#include "server/call.h"
#include "server/http.h"
#include "server/http_parser.h"
#include "server/metrics.h"
#include "server/net/step_wakes.h"
#include "server/server.h"
#include "session/service.h"

namespace longshore::server {

class Connection;

// How far the server's end has come.
enum class Stage {
  kServing,
  kDraining,  // answer what has come, then close
  kCutting,   // end what runs with an error
  kAborting,  // close the sockets
};

// What all connections share.
struct Shared {
  Shared(App& app_, session::Service& service_, Metrics& metrics_, StepWakes& wakes_,
         const ServerOptions& options_)
      : app(app_), service(service_), metrics(metrics_), wakes(wakes_), options(options_) {}

  App& app;
  session::Service& service;
  Metrics& metrics;
  StepWakes& wakes;
  const ServerOptions options;
  // Render and tokenise requests, so that a long prompt does not hold up other connections'
  // streams. Large bodies have a worker of their own, so that small ones never wait for them.
  boost::asio::thread_pool workers{2};
  boost::asio::thread_pool large_workers{1};

  std::atomic<Stage> stage{Stage::kServing};
  // Idle connections are kept a moment longer, for requests that are on their way; written before
  // stage leaves kServing.
  std::chrono::steady_clock::time_point idle_until;

  std::mutex mutex;
  std::condition_variable closed;     // a connection has gone
  std::set<Connection*> connections;  // guarded by mutex

  [[nodiscard]] bool at_least(Stage wanted) const { return stage.load() >= wanted; }
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Clock = std::chrono::steady_clock;

  Connection(boost::asio::ip::tcp::socket socket, Shared& shared);
  ~Connection();

  void start();
  // Look around: something has changed.
  void wake();

 private:
  template <typename T>
  using awaitable = boost::asio::awaitable<T>;

  awaitable<void> pump();
  awaitable<void> serve();
  // The next request; nothing: the connection is to be closed.
  awaitable<std::optional<HttpRequest>> receive();
  // True: the parser has a whole request. False: there will be none; the client has been told why,
  // if it was in one.
  awaitable<bool> read_request(RequestParser& parser);
  // What came, into the parser; false: it could use none of it.
  bool take_inbound(RequestParser& parser);
  // The head is there. False: it was refused.
  awaitable<bool> welcome(const RequestParser& parser);
  [[nodiscard]] Clock::time_point receive_deadline(const RequestParser& parser,
                                                   Clock::time_point since,
                                                   Clock::time_point progress) const;
  // True: the connection may take another request.
  awaitable<bool> answer(const HttpRequest& request);
  awaitable<bool> respond(const HttpRequest& request, const HttpResponse& response,
                          bool may_keep_alive = true);
  awaitable<bool> run(const HttpRequest& request, std::unique_ptr<Exchange>& exchange);
  awaitable<bool> relay(const HttpRequest& request, Call& call);
  // Writes where an event stream or the wait for an answer has been silent for long, or where the
  // client has closed its side and may be gone: it then resets the connection. True: wrote, or
  // found nobody.
  awaitable<bool> break_silence(const HttpRequest& request, const Call& call);
  // Bytes into the socket; false: the client is gone.
  awaitable<bool> write(const std::string& bytes);
  // Until woken or until then.
  awaitable<void> sleep_until(Clock::time_point when);
  // Lets the client read the last answer before the connection goes.
  awaitable<void> linger();

  void notice();  // the strand's side of wake()
  void abort();   // closes the socket, whatever is going on
  [[nodiscard]] bool keeps_alive(const HttpRequest& request) const;
  [[nodiscard]] Framing framing(const HttpRequest& request, bool keep_alive) const;
  void begin_request(const HttpRequest& request);
  void log_request(const HttpRequest& request, int status, const CallSummary* summary) const;

  boost::asio::ip::tcp::socket socket_;
  Shared& shared_;
  boost::asio::steady_timer signal_;  // serve() sleeps on it
  boost::asio::steady_timer room_;    // pump() sleeps on it while inbound_ is full
  boost::asio::steady_timer write_guard_;
  std::array<char, 16 * 1024> piece_;
  std::string inbound_;  // read, not yet parsed
  std::string peer_;
  std::string request_id_;
  Clock::time_point arrival_;  // of the request
  Clock::time_point last_write_;
  bool stream_begun_ = false;  // the head of the event stream is written
  bool probed_ = false;        // since half_closed_
  std::shared_ptr<Call> call_;
  bool woken_ = false;
  bool half_closed_ = false;         // the client sends no more, but may read
  std::atomic<bool> broken_{false};  // the client is gone; workers read it too
  bool discarding_ = false;          // what still comes is thrown away
};

}  // namespace longshore::server
