#include "server/http_parser.h"

#include <algorithm>
#include <utility>

#include <boost/beast/http.hpp>

namespace longshore::server {
namespace {

namespace http = boost::beast::http;
using boost::system::error_code;

constexpr size_t kMaxChunkLine = 8 * 1024;  // bytes

bool is_token(char c) {
  const bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
  return alnum || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

// Beast looks at a request line when all of it has come. What can never become one (TLS, a bare
// newline) is told at once instead of being waited for.
bool hopeless(std::string_view data) {
  const std::string_view method = data.substr(0, std::min(data.find(' '), data.size()));
  if (method.empty() || method.size() > 32 || !std::all_of(method.begin(), method.end(), is_token))
    return true;
  const size_t newline = data.find('\n');
  return newline != std::string_view::npos && data[newline - 1] != '\r';
}

bool starts_ignoring_case(std::string_view text, std::string_view with) {
  return text.size() >= with.size() && equal_ignoring_case(text.substr(0, with.size()), with);
}

// RFC 9112, 3.2.2: a server accepts the absolute form too, "http://host/path?query".
std::string path_of(std::string_view target) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!starts_ignoring_case(target, scheme)) continue;
    target.remove_prefix(scheme.size());
    target.remove_prefix(std::min(target.size(), target.find_first_of("/?")));
    if (!target.starts_with('/')) return "/";
    break;
  }
  return percent_decode(target.substr(0, target.find('?')));
}

ApiError error_of(const error_code& ec) {
  if (ec == http::error::header_limit) return {431, "the request's headers are too long", "", ""};
  if (ec == http::error::body_limit)
    return {413, "the request's body is too long: see --max-body-mib", "", ""};
  if (ec == http::error::bad_version)
    return {505, "only HTTP/1.0 and HTTP/1.1 are spoken here", "", ""};
  return {400, "the request is not valid HTTP", "", ""};
}

}  // namespace

struct RequestParser::Impl {
  http::request_parser<http::string_body> parser;
};

RequestParser::RequestParser(const ParserLimits& limits) : impl_(std::make_unique<Impl>()) {
  impl_->parser.header_limit(limits.header_bytes);
  impl_->parser.body_limit(limits.body_bytes);
  impl_->parser.eager(true);
}

RequestParser::~RequestParser() = default;

void RequestParser::fail(ApiError error) {
  state_ = State::kFailed;
  error_ = std::move(error);
}

void RequestParser::take_head() {
  const auto& message = impl_->parser.get();
  request_.method = std::string(message.method_string());
  request_.target = std::string(message.target());
  request_.path = path_of(request_.target);
  request_.version = static_cast<int>(message.version());
  if (impl_->parser.is_header_done()) request_.keep_alive = impl_->parser.keep_alive();
  for (const auto& field : message) {
    request_.headers.push_back({std::string(field.name_string()), std::string(field.value())});
  }
  expects_continue_ =
      request_.version == 11 && equal_ignoring_case(request_.header("Expect"), "100-continue");
}

void RequestParser::check_head() {
  const auto hosts =
      std::count_if(request_.headers.begin(), request_.headers.end(),
                    [](const Header& header) { return equal_ignoring_case(header.name, "Host"); });
  const bool encoded = !request_.header("Transfer-Encoding").empty();
  if (request_.version != 10 && request_.version != 11)
    return fail(error_of(http::error::bad_version));
  // RFC 9112, 3.2: exactly one Host with HTTP/1.1.
  if (hosts > 1 || (hosts == 0 && request_.version == 11)) {
    return fail({400, "the request must have one Host header", "", ""});
  }
  // RFC 9112, 6.1: both together are how requests are smuggled past proxies.
  if (encoded && !request_.header("Content-Length").empty()) {
    return fail({400, "Transfer-Encoding and Content-Length exclude each other", "", ""});
  }
  const std::string_view coding = request_.header("Content-Encoding");
  if (!coding.empty() && !equal_ignoring_case(coding, "identity")) {
    return fail({415, "the body must not be compressed: leave out Content-Encoding", "", ""});
  }
  if (encoded && !impl_->parser.chunked()) {
    return fail({501, "of the transfer encodings only chunked is supported", "", ""});
  }
}

size_t RequestParser::feed(std::string_view data) {
  size_t taken = 0;
  // RFC 9112, 2.2: empty lines before the request line are skipped.
  while (!begun_ && data.substr(taken).starts_with("\r\n")) taken += 2;
  const std::string_view line = data.substr(taken);
  if (!begun_ && (line.empty() || line == "\r")) return taken;
  if (!begun_ && hopeless(line)) {
    fail({400, "this is not an HTTP request", "", ""});
    return taken;
  }
  while (taken < data.size() && (state_ == State::kHead || state_ == State::kBody)) {
    error_code ec;
    const std::string_view rest = data.substr(taken);
    const size_t used = impl_->parser.put(boost::asio::buffer(rest.data(), rest.size()), ec);
    taken += used;
    begun_ = begun_ || used > 0;
    const bool failed = ec && ec != http::error::need_more;
    if (state_ == State::kHead && (failed || impl_->parser.is_header_done())) {
      state_ = State::kBody;
      take_head();  // of a failure too: the error takes the form that the path's clients expect
      if (!failed) check_head();
    }
    if (failed) fail(error_of(ec));
    if (state_ == State::kFailed) break;
    if (impl_->parser.is_done()) {
      request_.body = std::move(impl_->parser.get().body());
      state_ = State::kDone;
    } else if (ec == http::error::need_more || used == 0) {
      break;
    }
  }
  // Beast waits for the end of a chunk's line or trailer, however long it gets.
  if (state_ == State::kBody && impl_->parser.chunked() && data.size() - taken > kMaxChunkLine)
    fail({400, "a chunk's extension or trailer is too long", "", ""});
  return taken;
}

}  // namespace longshore::server
