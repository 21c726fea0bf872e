// HTTP messages as values: what the parser gives, what the routes answer. Nothing of sockets.
//
// Threading: plain values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace longshore::server {

struct Header {
  std::string name;
  std::string value;
};

struct HttpRequest {
  std::string method;  // "GET"
  std::string target;  // as sent
  std::string path;    // percent-decoded, without the query
  int version = 11;    // 10 or 11
  bool keep_alive = true;
  std::vector<Header> headers;
  std::string body;

  // The first header of this name (any case), or empty.
  [[nodiscard]] std::string_view header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<Header> headers;
};

// What the connection adds to a response.
struct Framing {
  int version = 11;
  bool keep_alive = true;
  bool head_only = false;   // the answer to HEAD: everything but the body
  std::string request_id;   // x-request-id
  std::string cors_origin;  // Access-Control-Allow-Origin; empty: none
};

// The whole answer, ready to write.
[[nodiscard]] std::string serialize(const HttpResponse& response, const Framing& framing);
// The head of a stream of server-sent events: chunked on HTTP/1.1, until the connection closes on
// HTTP/1.0.
[[nodiscard]] std::string serialize_event_stream_head(const Framing& framing);
// One chunk of a chunked body; data is not empty.
[[nodiscard]] std::string chunk(std::string_view data);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";
inline constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

[[nodiscard]] std::string_view reason_phrase(int status);
[[nodiscard]] bool equal_ignoring_case(std::string_view a, std::string_view b);
// %XX of a path into bytes; what is no valid escape stays as it is.
[[nodiscard]] std::string percent_decode(std::string_view text);

}  // namespace longshore::server
