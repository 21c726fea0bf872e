#include "server/net/listener.h"

#include <future>
#include <thread>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <pthread.h>

#include "server/log.h"
#include "server/net/connection.h"

namespace longshore::server {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using tcp = asio::ip::tcp;
using Clock = std::chrono::steady_clock;

// How long idle connections stay open once the server drains, for requests that are on their way.
constexpr auto kIdleGrace = std::chrono::seconds(1);
// For the errors of what is cut to reach their readers.
constexpr auto kCutGrace = std::chrono::seconds(3);
// For steps of the engine and of the workers that are under way when their sockets are closed.
constexpr auto kAbortGrace = std::chrono::seconds(3);
constexpr auto kNoDescriptorsPause = std::chrono::milliseconds(100);

}  // namespace

struct Listener::Impl {
  Impl(App& app, session::Service& service, Metrics& metrics, StepWakes& wakes,
       const ServerOptions& options)
      : shared(app, service, metrics, wakes, options) {
    wakes.attach(io.get_executor());
  }
  ~Impl() { shared.wakes.detach(); }

  asio::awaitable<void> accept();
  void adopt(tcp::socket socket);
  // Runs on the acceptor's strand.
  void close_door();
  void enter(Stage stage);
  bool wait_until_empty(Clock::time_point until);

  Shared shared;
  asio::io_context io;
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  asio::any_io_executor door{asio::make_strand(io)};
  tcp::acceptor acceptor{door};
  uint16_t port = 0;
  std::vector<std::thread> threads;
};

asio::awaitable<void> Listener::Impl::accept() {
  while (acceptor.is_open()) {
    error_code ec;
    tcp::socket socket(asio::make_strand(io));
    co_await acceptor.async_accept(socket, asio::redirect_error(asio::use_awaitable, ec));
    if (!ec) {
      adopt(std::move(socket));
      continue;
    }
    if (ec == asio::error::operation_aborted || !acceptor.is_open()) co_return;
    // Mostly: no file descriptors left. Those who wait at the door can wait a little longer.
    log(LogLevel::kWarning, "accept: {}", ec.message());
    asio::steady_timer pause(door, kNoDescriptorsPause);
    co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ec));
  }
}

void Listener::Impl::adopt(tcp::socket socket) {
  std::make_shared<Connection>(std::move(socket), shared)->start();
}

void Listener::Impl::close_door() {
  error_code ec;
  acceptor.non_blocking(true, ec);
  while (!ec) {
    tcp::socket socket(asio::make_strand(io));
    acceptor.accept(socket, ec);
    if (!ec) adopt(std::move(socket));
  }
  acceptor.close(ec);
}

void Listener::Impl::enter(Stage stage) {
  shared.stage.store(stage);
  const std::lock_guard lock(shared.mutex);
  for (Connection* connection : shared.connections) connection->wake();
}

bool Listener::Impl::wait_until_empty(Clock::time_point until) {
  std::unique_lock lock(shared.mutex);
  return shared.closed.wait_until(lock, until, [&] { return shared.connections.empty(); });
}

Listener::Listener(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Listener>> Listener::open(App& app, session::Service& service,
                                                 Metrics& metrics, StepWakes& wakes,
                                                 const ServerOptions& options) {
  auto impl = std::make_unique<Impl>(app, service, metrics, wakes, options);
  error_code ec;
  tcp::resolver resolver(impl->io);
  const auto found =
      resolver.resolve(options.host, std::to_string(options.port), tcp::resolver::passive, ec);
  if (ec || found.empty())
    return fail(ErrorKind::kUsage, "--host {}: not an address of this machine: {}", options.host,
                ec.message());
  const tcp::endpoint endpoint = found.begin()->endpoint();
  impl->acceptor.open(endpoint.protocol(), ec);
  if (!ec) impl->acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) impl->acceptor.bind(endpoint, ec);
  if (!ec) impl->acceptor.listen(4096, ec);
  if (ec) {
    return fail(ErrorKind::kUsage, "--host {} --port {}: cannot listen there: {}: choose another",
                options.host, options.port, ec.message());
  }
  impl->port = impl->acceptor.local_endpoint().port();
  asio::co_spawn(
      impl->door, [raw = impl.get()] { return raw->accept(); }, asio::detached);
  for (int i = 0; i < std::max(1, options.io_threads); ++i) {
    impl->threads.emplace_back([raw = impl.get()] {
      pthread_setname_np(pthread_self(), "http");
      raw->io.run();
    });
  }
  return std::unique_ptr<Listener>(new Listener(std::move(impl)));
}

Listener::~Listener() {
  (void)drain(0);
  impl_->shared.workers.join();
  impl_->shared.large_workers.join();
  (void)impl_->wait_until_empty(Clock::now() + std::chrono::hours(24 * 365));
  impl_->work.reset();
  impl_->io.stop();
  for (std::thread& thread : impl_->threads) thread.join();
}

uint16_t Listener::port() const {
  return impl_->port;
}

int64_t Listener::connections() const {
  const std::lock_guard lock(impl_->shared.mutex);
  return static_cast<int64_t>(impl_->shared.connections.size());
}

bool Listener::drain(double seconds) {
  Impl& impl = *impl_;
  const auto now = Clock::now();
  const auto until =
      now + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  if (!impl.shared.at_least(Stage::kDraining))
    impl.shared.idle_until = std::min(now + kIdleGrace, until);
  std::promise<void> closed;
  asio::post(impl.door, [&] {
    impl.close_door();
    closed.set_value();
  });
  closed.get_future().wait();
  impl.enter(Stage::kDraining);
  if (impl.wait_until_empty(until)) return true;
  impl.enter(Stage::kCutting);
  if (!impl.wait_until_empty(Clock::now() + kCutGrace)) {
    impl.enter(Stage::kAborting);
    (void)impl.wait_until_empty(Clock::now() + kAbortGrace);
  }
  return false;
}

}  // namespace longshore::server
