// One API call that generates text, in the form of its dialect (OpenAI chat, OpenAI completions,
// Anthropic messages).
//
// The dialect parses the body into an Exchange; the connection starts the Exchange's completions
// and writes what it gives back. An Exchange knows JSON and event streams, nothing of sockets; the
// connection knows sockets, nothing of dialects.
//
// Threading: one connection, one thread at a time.
#pragma once

#include <string>
#include <vector>

#include "server/api_error.h"
#include "session/completion.h"

namespace longshore::server {

class Exchange {
 public:
  virtual ~Exchange() = default;

  // The completions to run, one per choice. Called once, first.
  virtual std::vector<session::CompletionRequest> take_requests() = 0;
  [[nodiscard]] virtual bool streams() const = 0;

  // Streaming. Each returns whole server-sent events, ready to write; may be empty.
  // The first choice left the queue.
  virtual std::string begin(const engine::GenerationStats& stats) = 0;
  virtual std::string progress(size_t choice, const session::Progress& progress) = 0;
  // A choice ended. With the last choice comes the end of the stream ([DONE], message_stop).
  virtual std::string finished(size_t choice, const session::Completion& completion) = 0;
  // A failure after the stream began; ends the stream.
  virtual std::string failed(const ApiError& error) = 0;
  // Written while nothing else is. After begin() only, where `begun`; before it a comment.
  [[nodiscard]] virtual std::string keep_alive(bool begun) const = 0;

  // Not streaming: the body of the answer.
  [[nodiscard]] virtual std::string response(
      const std::vector<session::Completion>& completions) const = 0;
};

}  // namespace longshore::server
