// One running API call: the seam between the engine's thread, which produces tokens, and a
// connection, which writes them.
//
// The engine's thread only appends to a queue and knocks (`notify`); the dialect formats events on
// the connection's thread, when the connection has time for them. A reader too slow for its stream
// therefore costs memory, up to a limit, and never the engine's time.
//
// Ownership: shared by the connection and the engine's sinks; the latter let go at on_finish.
// Threading: as said at each function; "connection" is one thread at a time.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "server/api_error.h"
#include "server/exchange.h"
#include "server/metrics.h"
#include "session/service.h"

namespace longshore::server {

struct CallOptions {
  std::chrono::steady_clock::time_point arrival;
  double timeout_seconds = 0;  // 0: none
  size_t pending_bytes =
      size_t{32} << 20;  // of events that the connection has not taken; more: the call is given up
};

// For the request log.
struct CallSummary {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
  std::string finish_reason;  // of the choice that ended last
};

class Call : public std::enable_shared_from_this<Call> {
 public:
  struct Output {
    std::string bytes;  // streaming: events; not streaming: the body, with done
    bool done = false;  // nothing more will come
    std::optional<ApiError>
        failure;  // instead of bytes: the call failed before anything was written; implies done
  };

  // kToken: within a step of the engine, which may have more for others; to be passed on after it.
  // kEnd: anything else; to be passed on at once.
  enum class News { kToken, kEnd };
  using Notify = std::function<void(News)>;

  // Starts the exchange's completions. notify: called whenever take() may have something new, with
  // a lock held and maybe from the engine's thread: it must only post. On error nothing runs and
  // notify is never called again. Connection.
  static ApiResult<std::shared_ptr<Call>> start(session::Service& service, Metrics& metrics,
                                                std::unique_ptr<Exchange> exchange,
                                                const CallOptions& options, Notify notify);

  // What is new. wrote: bytes of this answer have been written already, so that a failure is an
  // event, not a status. Connection.
  [[nodiscard]] Output take(bool wrote);
  // Ends the call with this error: the completions are cancelled, and the next take() tells it.
  // Connection.
  void fail(const ApiError& error);
  // Nobody listens any more: cancels, and notify is not called again. Connection.
  void abandon();

  [[nodiscard]] bool streams() const { return streams_; }
  [[nodiscard]] std::string keep_alive() const { return exchange_->keep_alive(begun_); }
  // The pending limit was passed. Any thread.
  [[nodiscard]] bool overflowed() const { return overflowed_.load(); }
  // Connection, after the end.
  [[nodiscard]] const CallSummary& summary() const { return summary_; }

 private:
  struct Event {
    size_t choice = 0;
    // Of a start, a token, an end.
    std::variant<engine::GenerationStats, session::Progress, std::unique_ptr<session::Completion>>
        what;
  };
  struct Choice {
    ChoiceTimer timer;
    std::optional<session::Completion> completion;
  };

  Call(session::Service& service, std::unique_ptr<Exchange> exchange, const CallOptions& options,
       Notify notify);

  ApiResult<void> start_all(Metrics& metrics);
  session::CompletionSink make_sink(size_t choice);
  void push(Event event);
  void cancel_all();
  void handle(Event& event, std::string& out);
  void finish(size_t choice, session::Completion completion, std::string& out);

  session::Service& service_;
  std::unique_ptr<Exchange> exchange_;  // connection
  const CallOptions options_;
  const bool streams_;

  std::vector<Choice> choices_;  // timer: engine's thread; completion: connection
  std::vector<engine::RequestId> ids_;
  size_t finished_ = 0;
  bool begun_ = false;
  bool done_ = false;
  std::optional<ApiError> failure_;
  CallSummary summary_;

  std::mutex mutex_;
  Notify notify_;                     // guarded by mutex_
  std::vector<Event> events_;         // guarded by mutex_
  size_t pending_ = 0;                // guarded by mutex_: bytes of events_
  std::atomic<bool> stopped_{false};  // tokens are dropped from now on
  std::atomic<bool> overflowed_{false};
};

}  // namespace longshore::server
