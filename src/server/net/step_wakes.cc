#include "server/net/step_wakes.h"

#include <utility>

#include <boost/asio/post.hpp>

#include "server/net/connection.h"

namespace longshore::server {

void StepWakes::attach(boost::asio::any_io_executor io) {
  const std::lock_guard lock(mutex_);
  io_ = std::move(io);
}

void StepWakes::detach() {
  const std::lock_guard lock(mutex_);
  io_ = {};
  connections_.clear();
}

void StepWakes::add(std::weak_ptr<Connection> connection) {
  const std::lock_guard lock(mutex_);
  connections_.push_back(std::move(connection));
}

void StepWakes::flush() {
  const std::lock_guard lock(mutex_);
  if (connections_.empty() || !io_) return;
  boost::asio::post(io_, [woken = std::exchange(connections_, {})] {
    for (const std::weak_ptr<Connection>& each : woken) {
      if (const auto connection = each.lock()) connection->wake();
    }
  });
}

}  // namespace longshore::server
