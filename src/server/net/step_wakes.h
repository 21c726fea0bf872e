// Gathers the connections that a step of the engine has news for, so that the engine's thread pays
// for one hand-over to the io threads per step and not for one per stream.
//
// Ownership: the server's; it outlives the engine's thread and the connections. Threading: any
// thread.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include <boost/asio/any_io_executor.hpp>

namespace longshore::server {

class Connection;

class StepWakes {
 public:
  // Where the connections are woken from.
  void attach(boost::asio::any_io_executor io);
  // Returns when no flush() is under way; later ones do nothing.
  void detach();

  void add(std::weak_ptr<Connection> connection);
  // After a step.
  void flush();

 private:
  std::mutex mutex_;
  boost::asio::any_io_executor io_;                     // guarded by mutex_; empty: detached
  std::vector<std::weak_ptr<Connection>> connections_;  // guarded by mutex_
};

}  // namespace longshore::server
