#include "server/http.h"

#include <algorithm>
#include <chrono>
#include <ctime>

#include <fmt/chrono.h>
#include <fmt/format.h>

namespace longshore::server {
namespace {

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = lower(c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void append_common(std::string& out, int status, const Framing& framing) {
  fmt::format_to(std::back_inserter(out), "HTTP/{}.{} {} {}\r\n", framing.version / 10,
                 framing.version % 10, status, reason_phrase(status));
  fmt::format_to(std::back_inserter(out),
                 "Date: {:%a, %d %b %Y %H:%M:%S GMT}\r\nServer: longshore\r\n",
                 fmt::gmtime(std::time(nullptr)));
  if (!framing.request_id.empty()) {
    // Anthropic's clients look for the second name.
    fmt::format_to(std::back_inserter(out), "x-request-id: {0}\r\nrequest-id: {0}\r\n",
                   framing.request_id);
  }
  if (!framing.cors_origin.empty()) {
    fmt::format_to(std::back_inserter(out),
                   "Access-Control-Allow-Origin: {}\r\nAccess-Control-Expose-Headers: "
                   "x-request-id\r\nVary: Origin\r\n",
                   framing.cors_origin);
  }
  // HTTP/1.0 closes unless told otherwise, HTTP/1.1 the other way around.
  if (!framing.keep_alive) out += "Connection: close\r\n";
  if (framing.keep_alive && framing.version == 10) out += "Connection: keep-alive\r\n";
}

}  // namespace

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

std::string_view HttpRequest::header(std::string_view name) const {
  for (const Header& header : headers) {
    if (equal_ignoring_case(header.name, name)) return header.value;
  }
  return {};
}

std::string serialize(const HttpResponse& response, const Framing& framing) {
  std::string out;
  out.reserve(512 + response.body.size());
  append_common(out, response.status, framing);
  for (const Header& header : response.headers) {
    fmt::format_to(std::back_inserter(out), "{}: {}\r\n", header.name, header.value);
  }
  const bool bodiless = response.status == 204 || response.status == 304;
  if (!bodiless) {
    if (!response.body.empty())
      fmt::format_to(std::back_inserter(out), "Content-Type: {}\r\n", response.content_type);
    fmt::format_to(std::back_inserter(out), "Content-Length: {}\r\n", response.body.size());
  }
  out += "\r\n";
  if (!framing.head_only && !bodiless) out += response.body;
  return out;
}

std::string serialize_event_stream_head(const Framing& framing) {
  std::string out;
  append_common(out, 200, framing);
  // X-Accel-Buffering: a reverse proxy passes every event on at once.
  out +=
      "Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: "
      "no-cache\r\nX-Accel-Buffering: no\r\n";
  if (framing.version == 11) out += "Transfer-Encoding: chunked\r\n";
  out += "\r\n";
  return out;
}

std::string chunk(std::string_view data) {
  return fmt::format("{:x}\r\n{}\r\n", data.size(), data);
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    case 529:
      return "Overloaded";
    default:
      return "Unknown";
  }
}

std::string percent_decode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const int high = text[i] == '%' && i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
    if (low < 0) {
      out += text[i];
      continue;
    }
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

}  // namespace longshore::server
