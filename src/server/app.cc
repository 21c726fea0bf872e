#include "server/app.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "server/anthropic/errors.h"
#include "server/anthropic/messages.h"
#include "server/endpoints.h"
#include "server/expert_metrics.h"
#include "server/json_body.h"
#include "server/openai/chat.h"
#include "server/openai/completions.h"
#include "server/openai/errors.h"
#include "server/page.h"

namespace longshore::server {
namespace {

using text::Json;

enum class Dialect { kOpenAi, kAnthropic };

Dialect dialect_of(const HttpRequest& head) {
  const bool messages = head.path == "/v1/messages" || head.path.starts_with("/v1/messages/");
  return messages || !head.header("anthropic-version").empty() ? Dialect::kAnthropic
                                                               : Dialect::kOpenAi;
}

HttpResponse json_response(std::string body) {
  HttpResponse response;
  response.body = std::move(body);
  return response;
}

HttpResponse list_of_paths(const ApiOptions& options) {
  HttpResponse response;
  response.content_type = "text/plain; charset=utf-8";
  response.headers.push_back({"Vary", "Accept"});
  response.body = path_list(options);
  return response;
}

ServingFacts facts_of(const session::LoadedModel& loaded) {
  const model::KvLayout& layout = loaded.layout;
  const auto indexers = std::count(layout.has_index.begin(), layout.has_index.end(), true);
  return {.max_running = loaded.engine->options().max_running,
          .latent_page_bytes = layout.layers() * layout.latent_page_bytes(),
          .index_page_bytes = indexers > 0 ? indexers * layout.index_page_bytes() : 0};
}

std::string_view bearer_token(std::string_view authorization) {
  constexpr std::string_view kScheme = "Bearer ";
  if (!equal_ignoring_case(authorization.substr(0, kScheme.size()), kScheme)) return {};
  authorization.remove_prefix(kScheme.size());
  const size_t begin = authorization.find_first_not_of(' ');
  return begin == std::string_view::npos ? std::string_view{} : authorization.substr(begin);
}

}  // namespace

bool equal_in_constant_time(std::string_view given, std::string_view expected) {
  // One pass over what was given, whatever it is: the time says nothing about the key.
  unsigned difference = given.size() == expected.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    const char key = expected.empty() ? '\0' : expected[i % expected.size()];
    difference |= static_cast<unsigned char>(given[i] ^ key);
  }
  return difference == 0;
}

struct App::Route {
  const char* path;  // ending in '/': and everything below
  bool get;          // else POST
  bool open;         // needs no API key
};

const std::vector<App::Route>& App::routes() {
  static const std::vector<Route> table = {
      {"/v1/chat/completions", false, false},
      {"/v1/completions", false, false},
      {"/v1/messages", false, false},
      {"/v1/messages/count_tokens", false, false},
      {"/tokenize", false, false},
      {"/detokenize", false, false},
      {"/v1/models", true, false},
      {"/v1/models/", true, false},
      {"/v1/offload", true, false},
      {"/v1/offload/budget", false, false},
      {"/metrics", true, false},
      {"/health", true, true},
      {"/page/", true, true},
      {"/", true, true},
  };
  return table;
}

const App::Route* App::find_route(std::string_view path) {
  for (const Route& route : routes()) {
    const std::string_view pattern = route.path;
    if (path == pattern) return &route;
    if (pattern.size() > 1 && pattern.ends_with('/') && path.starts_with(pattern)) return &route;
  }
  return nullptr;
}

App::App(const session::LoadedModel& loaded, Metrics& metrics, AppOptions options,
         AppSources sources)
    : loaded_(loaded),
      metrics_(metrics),
      options_(std::move(options)),
      sources_(std::move(sources)),
      created_(std::chrono::duration_cast<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count()) {}

bool App::authorized(const HttpRequest& head) const {
  if (options_.api_key.empty()) return true;
  const bool bearer =
      equal_in_constant_time(bearer_token(head.header("Authorization")), options_.api_key);
  const bool key = equal_in_constant_time(head.header("x-api-key"), options_.api_key);
  return bearer || key;
}

HttpResponse App::error_response(const HttpRequest& head, const ApiError& error) const {
  HttpResponse response;
  response.status = error.status;
  response.body =
      dialect_of(head) == Dialect::kAnthropic ? anthropic_error(error) : openai_error(error);
  if (error.status == 401) response.headers.push_back({"WWW-Authenticate", "Bearer"});
  // A request of the queue leaves it within seconds; clients double the time by themselves.
  if (error.status == 429 || error.status == 503) response.headers.push_back({"Retry-After", "1"});
  return response;
}

HttpResponse App::preflight(const Route& route) const {
  HttpResponse response;
  response.status = 204;
  const char* methods = route.get ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
  response.headers.push_back({"Allow", methods});
  if (options_.cors_origin.empty()) return response;
  response.headers.push_back({"Access-Control-Allow-Methods", methods});
  response.headers.push_back({"Access-Control-Allow-Headers", "*, Authorization"});
  response.headers.push_back({"Access-Control-Max-Age", "600"});
  return response;
}

std::optional<HttpResponse> App::refuse(const HttpRequest& head) const {
  const Route* route = find_route(head.path);
  if (route == nullptr) {
    return error_response(
        head, ApiError{404, "there is no such path: see / for the list", "", "unknown_path"});
  }
  if (head.method == "OPTIONS") return preflight(*route);
  const bool fits =
      route->get ? head.method == "GET" || head.method == "HEAD" : head.method == "POST";
  if (!fits) {
    const char* allowed = route->get ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
    HttpResponse response = error_response(
        head, ApiError{405, fmt::format("this path takes {}", allowed), "", "method_not_allowed"});
    response.headers.push_back({"Allow", allowed});
    return response;
  }
  if (!route->open && !authorized(head)) {
    return error_response(
        head,
        ApiError{401, "the API key is missing or wrong: send it as a Bearer token or x-api-key", "",
                 "invalid_api_key"});
  }
  return std::nullopt;
}

App::Answer App::handle(const HttpRequest& request) const {
  if (auto refusal = refuse(request)) return std::move(*refusal);
  if (request.method == "POST") return post(request);
  return get(request);
}

App::Answer App::post(const HttpRequest& request) const {
  const auto refused = [&](const ApiError& error) { return error_response(request, error); };
  const auto exchange = [&](ApiResult<std::unique_ptr<Exchange>> made) -> Answer {
    if (!made) return refused(made.error());
    return std::move(*made);
  };
  const auto body_of = [&](ApiResult<std::string> made) {
    return made ? json_response(std::move(*made)) : refused(made.error());
  };
  const ApiResult<Json> body = parse_json_body(request.body);
  if (!body) return refused(body.error());
  if (request.path == "/v1/chat/completions")
    return exchange(openai_chat(loaded_, *body, options_.api));
  if (request.path == "/v1/completions")
    return exchange(openai_completions(loaded_, *body, options_.api));
  if (request.path == "/v1/messages")
    return exchange(anthropic_messages(loaded_, *body, options_.api));
  if (request.path == "/v1/messages/count_tokens") {
    return body_of(anthropic_count_tokens(loaded_, *body, options_.api));
  }
  if (request.path == "/v1/offload/budget")
    return body_of(change_budget(*body, sources_.limit_slots));
  if (request.path == "/tokenize") return body_of(tokenize(loaded_, *body));
  return body_of(detokenize(loaded_, *body));
}

HttpResponse App::health() const {
  const char* status = sources_.engine().fault ? "failed" : draining_.load() ? "draining" : "ok";
  HttpResponse response = json_response(Json{{"status", status}}.dump());
  response.status = std::string_view(status) == "ok" ? 200 : 503;
  return response;
}

HttpResponse App::get(const HttpRequest& request) const {
  constexpr std::string_view kModels = "/v1/models";
  if (request.path == "/health") return health();
  if (request.path == "/metrics") {
    HttpResponse response;
    response.content_type = Metrics::kContentType;
    response.body = metrics_.render(sources_.engine(), facts_of(loaded_)) +
                    expert_metrics(options_.api.served_model, sources_.experts(),
                                   loaded_.model->experts().experts().per_layer(),
                                   loaded_.checkpoint->config().first_k_dense);
    return response;
  }
  if (request.path == "/v1/offload")
    return json_response(offload_report(loaded_, options_.api, sources_.experts()));
  if (request.path == "/" && !wants_page(request)) return list_of_paths(options_.api);
  if (request.path == "/" || request.path.starts_with("/page/")) {
    if (auto file = page_response(request)) return std::move(*file);
    return error_response(
        request, ApiError{404, "the page has no such file: load / again", "", "unknown_path"});
  }
  const Json model = model_entry(loaded_, options_.api, created_);
  if (request.path == kModels) return json_response(model_list(model));
  if (request.path.substr(kModels.size() + 1) == options_.api.served_model)
    return json_response(model.dump());
  return error_response(
      request, ApiError{404, fmt::format("the model served here is {}", options_.api.served_model),
                        "model", "model_not_found"});
}

}  // namespace longshore::server
