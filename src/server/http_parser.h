// Bytes to requests: HTTP/1.0 and 1.1, with limits. No sockets: the connection, the tests and the
// fuzzer feed it alike.
//
// Ownership: as written. Threading: one connection, one thread at a time. One parser per request.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "server/api_error.h"
#include "server/http.h"

namespace longshore::server {

struct ParserLimits {
  uint32_t header_bytes = 64 * 1024;         // request line and headers; more: 431
  uint64_t body_bytes = uint64_t{32} << 20;  // more: 413
};

class RequestParser {
 public:
  enum class State { kHead, kBody, kDone, kFailed };

  explicit RequestParser(const ParserLimits& limits);
  ~RequestParser();

  // Takes a prefix of data and says how long it was. What was not taken is to be given again, with
  // more behind it, unless the state is kDone (then it begins the next request) or kFailed.
  size_t feed(std::string_view data);

  [[nodiscard]] State state() const { return state_; }
  // After kFailed: 400, 413, 431, 501 or 505.
  [[nodiscard]] const ApiError& error() const { return error_; }
  // From kBody on; the body is complete with kDone.
  [[nodiscard]] const HttpRequest& request() const { return request_; }
  [[nodiscard]] HttpRequest& request() { return request_; }
  // The client waits for "100 Continue" before it sends the body.
  [[nodiscard]] bool expects_continue() const { return expects_continue_; }

 private:
  struct Impl;
  void fail(ApiError error);
  void take_head();
  void check_head();

  std::unique_ptr<Impl> impl_;
  State state_ = State::kHead;
  ApiError error_;
  HttpRequest request_;
  bool begun_ = false;  // the request line has been taken
  bool expects_continue_ = false;
};

}  // namespace longshore::server
