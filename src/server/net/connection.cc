#include "server/net/connection.h"

#include <algorithm>
#include <exception>
#include <random>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <poll.h>

#include "server/log.h"

// GCC 12 destroys some temporaries of an expression with co_await twice: whatever is passed to an
// awaited function has a name here.
namespace longshore::server {
namespace {

namespace asio = boost::asio;
using asio::redirect_error;
using asio::use_awaitable;
using boost::system::error_code;
using tcp = asio::ip::tcp;
using Clock = Connection::Clock;

// Beyond this, what a client sends ahead waits in the socket.
constexpr size_t kReadAhead = 64 * 1024;
constexpr size_t kWriteSlice = 64 * 1024;
// Bytes; a body beyond it may take its worker longer than others should wait.
constexpr size_t kLargeBody = 256 * 1024;
constexpr double kLingerSeconds = 2;
constexpr double kLingerDrainingSeconds = 0.3;

const ApiError kCutShort{400, "the connection was closed in the midst of a request", "", ""};
const ApiError kTooSlow{408, "the request took too long to arrive", "", ""};

Clock::duration duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

double seconds_since(Clock::time_point then) {
  return std::chrono::duration<double>(Clock::now() - then).count();
}

bool is_printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

std::string new_request_id() {
  thread_local std::mt19937_64 random(std::random_device{}());
  return fmt::format("req_{:016x}{:08x}", random(), static_cast<uint32_t>(random()));
}

// Handling a request on a worker thread. No exception leaves: a library's would end the connection
// without an answer.
App::Answer handle(const App& app, const HttpRequest& request) {
  try {
    return app.handle(request);
  } catch (const std::bad_alloc&) {
    return app.error_response(request, ApiError{503, "not enough memory for this request", "", ""});
  } catch (const std::exception& error) {
    log(LogLevel::kError, "{} {}: {}", request.method, request.path, error.what());
    return app.error_response(request, ApiError{500, "the request could not be handled", "", ""});
  }
}

// Nobody is left to answer where `broken` has come before the worker: nothing is computed.
asio::awaitable<App::Answer> handle_on_worker(const App& app, const HttpRequest& request,
                                              const std::atomic<bool>& broken) {
  App::Answer answer;
  if (!broken.load()) answer = handle(app, request);
  co_return answer;
}

// The connection is over in both directions, by reset or by close.
bool is_dead(tcp::socket& socket) {
  pollfd state{socket.native_handle(), 0, 0};
  return ::poll(&state, 1, 0) > 0 && (state.revents & (POLLERR | POLLHUP | POLLNVAL)) != 0;
}

}  // namespace

Connection::Connection(tcp::socket socket, Shared& shared)
    : socket_(std::move(socket)),
      shared_(shared),
      signal_(socket_.get_executor()),
      room_(socket_.get_executor()),
      write_guard_(socket_.get_executor()) {
  error_code ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  socket_.set_option(asio::socket_base::keep_alive(true), ignored);
  // What a stalled reader can hold in the kernel, which otherwise grows to megabytes; no stream of
  // tokens needs more.
  socket_.set_option(asio::socket_base::send_buffer_size(shared_.options.send_buffer), ignored);
  const auto peer = socket_.remote_endpoint(ignored);
  peer_ = ignored ? "?" : fmt::format("{}:{}", peer.address().to_string(), peer.port());
  shared_.metrics.connection_opened();
  const std::lock_guard lock(shared_.mutex);
  shared_.connections.insert(this);
}

Connection::~Connection() {
  if (call_) call_->abandon();
  shared_.metrics.connection_closed();
  const std::lock_guard lock(shared_.mutex);
  shared_.connections.erase(this);
  shared_.closed.notify_all();
}

void Connection::start() {
  const auto self = shared_from_this();
  const auto ended = [self](const std::exception_ptr& failure) {
    if (!failure) return;
    try {
      std::rethrow_exception(failure);
    } catch (const std::exception& error) {
      log(LogLevel::kError, "{}: connection given up: {}", self->peer_, error.what());
    }
    self->abort();
  };
  asio::co_spawn(
      socket_.get_executor(), [self] { return self->pump(); }, ended);
  asio::co_spawn(
      socket_.get_executor(), [self] { return self->serve(); }, ended);
}

void Connection::wake() {
  asio::post(socket_.get_executor(), [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->notice();
  });
}

void Connection::notice() {
  woken_ = true;
  signal_.cancel();
  const bool overflowed = call_ && call_->overflowed();
  if (overflowed && !broken_)
    log(LogLevel::kWarning, "{} {}: the reader is too slow, cut", peer_, request_id_);
  if (overflowed || shared_.at_least(Stage::kAborting)) abort();
}

void Connection::abort() {
  broken_ = true;
  woken_ = true;
  error_code ignored;
  socket_.close(ignored);
  signal_.cancel();
  room_.cancel();
}

Connection::awaitable<void> Connection::sleep_until(Clock::time_point when) {
  if (!woken_) {
    error_code ignored;
    signal_.expires_at(when);
    co_await signal_.async_wait(redirect_error(use_awaitable, ignored));
  }
  woken_ = false;
}

Connection::awaitable<void> Connection::pump() {
  const size_t limit = kReadAhead + shared_.options.max_header_bytes;
  error_code ec;
  while (true) {
    if (inbound_.size() >= limit) {
      room_.expires_at(Clock::time_point::max());
      error_code ignored;
      co_await room_.async_wait(redirect_error(use_awaitable, ignored));
      if (broken_) co_return;
      continue;
    }
    const size_t got =
        co_await socket_.async_read_some(asio::buffer(piece_), redirect_error(use_awaitable, ec));
    if (ec) break;
    if (!discarding_) inbound_.append(piece_.data(), got);
    notice();
  }
  if (ec == asio::error::eof) {
    half_closed_ = true;
    notice();
    // Whether the client has only stopped sending or has gone shows when it answers a write with a
    // reset.
    co_await socket_.async_wait(tcp::socket::wait_error, redirect_error(use_awaitable, ec));
    if (!ec && !is_dead(socket_)) co_return;
  }
  broken_ = true;
  notice();
}

Connection::awaitable<void> Connection::serve() {
  while (true) {
    const std::optional<HttpRequest> request = co_await receive();
    if (!request) break;
    const bool more = co_await answer(*request);
    if (!more) break;
  }
  co_await linger();
  abort();
}

Clock::time_point Connection::receive_deadline(const RequestParser& parser, Clock::time_point since,
                                               Clock::time_point progress) const {
  const ServerOptions& options = shared_.options;
  const bool started = parser.state() != RequestParser::State::kHead || !inbound_.empty();
  if (parser.state() == RequestParser::State::kBody)
    return progress + duration(options.read_timeout);
  if (started) return since + duration(options.read_timeout);
  const Clock::time_point idle = since + duration(options.idle_timeout);
  return shared_.at_least(Stage::kDraining) ? std::min(idle, shared_.idle_until) : idle;
}

Connection::awaitable<std::optional<HttpRequest>> Connection::receive() {
  RequestParser parser({shared_.options.max_header_bytes, shared_.options.max_body_bytes});
  const bool whole = co_await read_request(parser);
  if (!whole) co_return std::nullopt;
  arrival_ = Clock::now();
  co_return std::move(parser.request());
}

Connection::awaitable<bool> Connection::read_request(RequestParser& parser) {
  using State = RequestParser::State;
  Clock::time_point since = Clock::now();  // of the wait, then of the request's first byte
  Clock::time_point progress = since;
  bool started = false;
  bool head_seen = false;
  while (true) {
    if (!started && !inbound_.empty()) since = Clock::now();
    if (take_inbound(parser)) progress = Clock::now();
    started = parser.state() != State::kHead || !inbound_.empty();
    if (parser.state() != State::kHead && !head_seen) {
      head_seen = true;
      begin_request(parser.request());
      const bool wanted = co_await welcome(parser);
      if (!wanted) co_return false;
    }
    if (parser.state() == State::kDone) co_return true;
    if (broken_ || (half_closed_ && !started)) co_return false;
    const Clock::time_point deadline = receive_deadline(parser, since, progress);
    const bool failed = parser.state() == State::kFailed;
    error_code ignored;
    if (!failed && !half_closed_ &&
        (Clock::now() < deadline || (!started && socket_.available(ignored) > 0))) {
      co_await sleep_until(deadline);
      continue;
    }
    if (!started) co_return false;
    const ApiError error = failed ? parser.error() : half_closed_ ? kCutShort : kTooSlow;
    const HttpResponse response = shared_.app.error_response(parser.request(), error);
    co_await respond(parser.request(), response, false);
    co_return false;
  }
}

bool Connection::take_inbound(RequestParser& parser) {
  const size_t taken = parser.feed(inbound_);
  inbound_.erase(0, taken);
  if (taken > 0) room_.cancel();
  return taken > 0;
}

Connection::awaitable<bool> Connection::welcome(const RequestParser& parser) {
  // A body that nobody wants is not waited for. With a whole request App::handle says the same.
  if (parser.state() != RequestParser::State::kBody) co_return true;
  if (const auto refusal = shared_.app.refuse(parser.request())) {
    co_await respond(parser.request(), *refusal, false);
    co_return false;
  }
  const std::string go_on(kContinue);
  if (parser.expects_continue()) co_await write(go_on);
  co_return true;
}

void Connection::begin_request(const HttpRequest& request) {
  const std::string_view given = request.header("x-request-id");
  const bool usable = !given.empty() && given.size() <= 128 && is_printable(given);
  request_id_ = usable ? std::string(given) : new_request_id();
  arrival_ = Clock::now();
  stream_begun_ = false;
  probed_ = false;
}

bool Connection::keeps_alive(const HttpRequest& request) const {
  return request.keep_alive && !broken_ && !shared_.at_least(Stage::kDraining);
}

Framing Connection::framing(const HttpRequest& request, bool keep_alive) const {
  Framing framing;
  framing.version = request.version == 10 ? 10 : 11;
  framing.keep_alive = keep_alive;
  framing.head_only = request.method == "HEAD";
  framing.request_id = request_id_;
  framing.cors_origin = shared_.options.app.cors_origin;
  return framing;
}

Connection::awaitable<bool> Connection::answer(const HttpRequest& request) {
  App::Answer answer;
  if (request.method == "POST") {
    asio::thread_pool& workers =
        request.body.size() > kLargeBody ? shared_.large_workers : shared_.workers;
    answer = co_await asio::co_spawn(workers, handle_on_worker(shared_.app, request, broken_),
                                     use_awaitable);
    if (broken_) {
      log_request(request, 499, nullptr);  // as nginx notes a client that went away
      co_return false;
    }
  } else {
    answer = handle(shared_.app, request);
  }
  bool more = false;
  if (auto* response = std::get_if<HttpResponse>(&answer)) {
    more = co_await respond(request, *response);
  } else {
    more = co_await run(request, std::get<std::unique_ptr<Exchange>>(answer));
  }
  co_return more;
}

Connection::awaitable<bool> Connection::respond(const HttpRequest& request,
                                                const HttpResponse& response, bool may_keep_alive) {
  if (request_id_.empty()) begin_request(request);  // the head was not even readable
  const bool keep = may_keep_alive && keeps_alive(request);
  shared_.metrics.count_response(response.status);
  const std::string bytes = serialize(response, framing(request, keep));
  const bool written = co_await write(bytes);
  log_request(request, response.status, call_ ? &call_->summary() : nullptr);
  request_id_.clear();
  co_return written&& keep;
}

Connection::awaitable<bool> Connection::run(const HttpRequest& request,
                                            std::unique_ptr<Exchange>& exchange) {
  CallOptions options;
  options.arrival = arrival_;
  options.timeout_seconds = shared_.options.request_timeout;
  options.pending_bytes = shared_.options.pending_bytes;
  auto call = Call::start(shared_.service, shared_.metrics, std::move(exchange), options,
                          [this](Call::News news) {
                            if (news == Call::News::kEnd) return wake();
                            shared_.wakes.add(weak_from_this());
                          });
  bool more = false;
  if (call) {
    call_ = std::move(*call);
    last_write_ = Clock::now();
    more = co_await relay(request, *call_);
    call_->abandon();
    if (broken_) log_request(request, 499, &call_->summary());
    call_.reset();
  } else {
    const HttpResponse refusal = shared_.app.error_response(request, call.error());
    more = co_await respond(request, refusal);
  }
  co_return more;
}

Connection::awaitable<bool> Connection::relay(const HttpRequest& request, Call& call) {
  const bool chunked = request.version == 11;
  // HTTP/1.0 has no other end of a stream than the connection's.
  const bool keep = keeps_alive(request) && chunked;
  while (true) {
    const Call::Output output = call.take(stream_begun_);
    if (output.failure) {
      const HttpResponse failure = shared_.app.error_response(request, *output.failure);
      const bool more = co_await respond(request, failure);
      co_return more;
    }
    if (output.done && !call.streams()) {
      HttpResponse response;
      response.body = output.bytes;
      const bool more = co_await respond(request, response);
      co_return more;
    }
    if (!output.bytes.empty() || output.done) {
      std::string bytes;
      if (!stream_begun_) {
        bytes = serialize_event_stream_head(framing(request, keep));
        shared_.metrics.count_response(200);
      }
      stream_begun_ = true;
      if (!output.bytes.empty()) bytes += chunked ? chunk(output.bytes) : output.bytes;
      if (output.done && chunked) bytes += kLastChunk;
      const bool written = co_await write(bytes);
      if (written && output.done) log_request(request, 200, &call.summary());
      if (!written || output.done) co_return written&& keep;
      continue;
    }
    if (broken_) co_return false;
    if (shared_.at_least(Stage::kCutting)) {
      call.fail(ApiError{503, "the server is shutting down", "", "shutting_down"});
      continue;
    }
    const bool wrote = co_await break_silence(request, call);
    if (wrote) continue;
    co_await sleep_until(last_write_ + duration(shared_.options.keep_alive));
  }
}

Connection::awaitable<bool> Connection::break_silence(const HttpRequest& request,
                                                      const Call& call) {
  const bool long_silent = Clock::now() >= last_write_ + duration(shared_.options.keep_alive);
  const bool doubtful = half_closed_ && !probed_;
  if (!long_silent && !doubtful) co_return false;
  probed_ = probed_ || half_closed_;
  std::string bytes;
  if (stream_begun_ || (call.streams() && long_silent)) {
    if (!stream_begun_) {
      bytes = serialize_event_stream_head(
          framing(request, keeps_alive(request) && request.version == 11));
      shared_.metrics.count_response(200);
    }
    stream_begun_ = true;
    bytes += request.version == 11 ? chunk(call.keep_alive()) : call.keep_alive();
  } else if (half_closed_ && request.version == 11) {
    // Every client of HTTP/1.1 skips interim answers.
    bytes = kContinue;
  } else {
    last_write_ = Clock::now();  // there is nothing that may be written; look again later
    co_return false;
  }
  co_await write(bytes);
  co_return true;
}

Connection::awaitable<bool> Connection::write(const std::string& bytes) {
  error_code ec;
  for (size_t at = 0; at < bytes.size() && !ec && !broken_;) {
    write_guard_.expires_after(duration(shared_.options.write_timeout));
    write_guard_.async_wait([weak = weak_from_this()](const error_code& cancelled) {
      const auto self = cancelled ? nullptr : weak.lock();
      if (self) self->abort();
    });
    const size_t size = std::min(kWriteSlice, bytes.size() - at);
    const size_t sent = co_await asio::async_write(socket_, asio::buffer(bytes.data() + at, size),
                                                   redirect_error(use_awaitable, ec));
    at += sent;
    write_guard_.cancel();
  }
  last_write_ = Clock::now();
  if (ec) broken_ = true;
  co_return !broken_;
}

Connection::awaitable<void> Connection::linger() {
  if (broken_) co_return;
  discarding_ = true;
  inbound_.clear();
  room_.cancel();
  error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  const bool hurry = shared_.at_least(Stage::kDraining);
  const Clock::time_point until =
      Clock::now() + duration(hurry ? kLingerDrainingSeconds : kLingerSeconds);
  while (!half_closed_ && !broken_ && Clock::now() < until) co_await sleep_until(until);
}

void Connection::log_request(const HttpRequest& request, int status,
                             const CallSummary* summary) const {
  if (!shared_.options.log_requests) return;
  std::string line =
      fmt::format("{} {} {} {} {:.1f} ms {}", peer_, request.method, request.target.substr(0, 200),
                  status, seconds_since(arrival_) * 1e3, request_id_);
  if (summary != nullptr && summary->prompt_tokens > 0) {
    fmt::format_to(std::back_inserter(line), " prompt {} cached {} output {} {}",
                   summary->prompt_tokens, summary->cached_tokens, summary->output_tokens,
                   summary->finish_reason);
  }
  log_line(LogLevel::kInfo, line);
}

}  // namespace longshore::server
