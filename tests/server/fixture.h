// A server on any free port of the loopback interface, with the bundled model.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "server/log.h"
#include "server/server.h"
#include "tests/paths.h"
#include "tests/server/client.h"

namespace longshore::server {

class ServerTest : public ::testing::Test {
 protected:
  void start() {
    set_log_level(LogLevel::kError);
    load_options.model = longshore::source_dir() + "/models/glm-nano";
    auto loading = session::LoadedModel::load(load_options, {}, cancel_);
    ASSERT_TRUE(loading) << loading.error().message;
    loaded = std::move(*loading);
    options.port = 0;
    options.app.api.served_model = "glm-nano";
    auto starting = Server::start(*loaded, options);
    ASSERT_TRUE(starting) << starting.error().message;
    server = std::move(*starting);
  }

  [[nodiscard]] uint16_t port() const { return server->port(); }

  // One request on a connection of its own.
  [[nodiscard]] Reply ask(const std::string& request) const {
    Client client(port());
    client.send(request);
    return client.reply();
  }

  static bool eventually(const std::function<bool()>& condition, double seconds = 10) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > until) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return true;
  }

  // Nothing runs, nothing waits, every page is free or cached.
  [[nodiscard]] bool idle() const {
    const engine::EngineCounters counters = server->counters();
    return counters.running == 0 && counters.queued == 0 &&
           counters.free_pages + counters.cached_pages == counters.pages;
  }

  // A chat that goes on for `tokens` whatever the model says.
  static std::string chat(int tokens, bool stream, const std::string& more = "") {
    return R"({"model": "glm-nano", "messages": [{"role": "user", "content": "What is 7 plus 9?"}], "temperature": 0,)"
           R"("ignore_eos": true, "max_tokens": )" +
           std::to_string(tokens) + ", \"stream\": " + (stream ? "true" : "false") + more + "}";
  }
  static std::string chat_request(int tokens, bool stream, const std::string& more = "") {
    return post("/v1/chat/completions", chat(tokens, stream, more));
  }

  session::LoadOptions load_options;
  ServerOptions options;
  std::unique_ptr<session::LoadedModel> loaded;
  std::unique_ptr<Server> server;  // goes before the model

 private:
  CancelToken cancel_;
};

constexpr const char* kChat = "/v1/chat/completions";

}  // namespace longshore::server
