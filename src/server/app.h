// The routes: a request in, an answer or an Exchange to run out. Nothing of sockets, nothing of the
// engine's thread, so that tests and the fuzzer call it directly.
//
// Ownership: the loaded model and the metrics outlive the app. Threading: any thread; immutable but
// for `draining`.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/engine.h"
#include "server/api_error.h"
#include "server/api_options.h"
#include "server/exchange.h"
#include "server/http.h"
#include "server/metrics.h"
#include "session/loaded_model.h"

namespace longshore::server {

struct AppOptions {
  ApiOptions api;
  std::string api_key;      // empty: everybody may
  std::string cors_origin;  // empty: no CORS headers
};

// What the app asks of the engine's side; any thread calls.
struct AppSources {
  std::function<engine::EngineCounters()> engine;
  std::function<offload::StoreReport()> experts;
  // Limits the experts' device memory, bytes; the number of slots. kUsage.
  std::function<Result<int64_t>(int64_t)> limit_slots;
};

class App {
 public:
  using Answer = std::variant<HttpResponse, std::unique_ptr<Exchange>>;

  App(const session::LoadedModel& loaded, Metrics& metrics, AppOptions options, AppSources sources);

  // The refusal that the head alone decides, before the body is read: 401, 404, 405; the answer to
  // OPTIONS too.
  [[nodiscard]] std::optional<HttpResponse> refuse(const HttpRequest& head) const;
  // The whole request. Renders and tokenises: milliseconds for a long prompt.
  [[nodiscard]] Answer handle(const HttpRequest& request) const;
  // The error as the client of this path expects it.
  [[nodiscard]] HttpResponse error_response(const HttpRequest& head, const ApiError& error) const;

  // From now on /health says 503, as it does after a device's fault.
  void set_draining() { draining_.store(true); }
  [[nodiscard]] const AppOptions& options() const { return options_; }

 private:
  struct Route;
  static const std::vector<Route>& routes();
  static const Route* find_route(std::string_view path);
  [[nodiscard]] bool authorized(const HttpRequest& head) const;
  [[nodiscard]] HttpResponse preflight(const Route& route) const;
  [[nodiscard]] Answer post(const HttpRequest& request) const;
  [[nodiscard]] HttpResponse get(const HttpRequest& request) const;
  [[nodiscard]] HttpResponse health() const;

  const session::LoadedModel& loaded_;
  Metrics& metrics_;
  const AppOptions options_;
  const AppSources sources_;
  const int64_t created_;  // Unix seconds
  std::atomic<bool> draining_{false};
};

// Takes as long for a wrong key as for the right one.
[[nodiscard]] bool equal_in_constant_time(std::string_view given, std::string_view expected);

}  // namespace longshore::server
