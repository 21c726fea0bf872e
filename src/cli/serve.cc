#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include <fmt/format.h>
#include <sys/resource.h>

#include "bench/ceilings.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "server/log.h"
#include "server/server.h"

namespace longshore::cli {
namespace {

struct Flags {
  ModelFlags model;
  server::ServerOptions server;
  std::string served_model_name;
  int port = 8080;
  double max_body_mib = 32;
  int64_t max_running = 32;
  int64_t max_queued = -1;
  int64_t max_total_tokens = 0;
  double beside_share = engine::EngineOptions().beside_share;
  bool disable_prefix_cache = false;
  std::string log_level = "info";
  bool measure_dram = false;
  bool accepted = false;  // flags of SGLang that name what is always on
};

void add_http_flags(CLI::App& command, Flags& flags) {
  server::ServerOptions& server = flags.server;
  command.add_option("--host", server.host, "address to listen on; 0.0.0.0: all")
      ->capture_default_str();
  command.add_option("--port", flags.port, "0: any that is free")->capture_default_str();
  command.add_option("--served-model-name", flags.served_model_name,
                     "the model's name in answers; default: MODEL's last part");
  command.add_flag("--refuse-other-models", server.app.api.refuse_other_models,
                   "a request for a model of another name gets 404; otherwise the name is ignored");
  command
      .add_option("--api-key", server.app.api_key,
                  "what clients must send as Bearer token or x-api-key")
      ->envname("LONGSHORE_API_KEY");
  command.add_option("--cors-origin", server.app.cors_origin,
                     "web origin that may call, or *; default: none");
  command.add_option("--http-threads", server.io_threads, "threads of the connections")
      ->capture_default_str();
  command.add_option("--max-body-mib", flags.max_body_mib, "longest request body")
      ->capture_default_str();
  command
      .add_option("--request-timeout", server.request_timeout,
                  "seconds a request may take; 0: no limit")
      ->capture_default_str();
  command
      .add_option("--sse-keep-alive-seconds", server.keep_alive,
                  "silence in a stream before a comment is sent")
      ->capture_default_str();
  command
      .add_option("--drain-seconds", server.drain,
                  "after SIGTERM or Ctrl-C: time for what runs; a second signal ends at once")
      ->capture_default_str();
  command.add_option("--log-level", flags.log_level, "debug, info, warning, error or off")
      ->capture_default_str();
  command.add_flag("--log-requests", server.log_requests,
                   "a line on standard error for every request");
}

void add_engine_flags(CLI::App& command, Flags& flags) {
  command.add_option("--max-running-requests", flags.max_running, "requests of one step")
      ->capture_default_str();
  command
      .add_option("--max-queued-requests", flags.max_queued,
                  "requests that may wait, more: 429; -1: no limit")
      ->capture_default_str();
  command
      .add_option("--max-total-tokens", flags.max_total_tokens, "tokens of the cache; 0: by memory")
      ->capture_default_str();
  command
      .add_option("--prefill-pause-share", flags.beside_share,
                  "how much longer a prompt whose experts stream may take, of its time, for steps "
                  "of those who decode in its pauses; -1: they get one token a chunk")
      ->capture_default_str();
  command.add_flag("--disable-radix-cache", flags.disable_prefix_cache,
                   "compute every prompt from its beginning");
  command.add_flag("--measure-dram", flags.measure_dram,
                   "measure plain memory reads first (seconds), as the dashboard's ceiling");
  command.add_flag("--enable-cache-report", flags.accepted,
                   "always on; accepted for SGLang's scripts");
  command.add_flag("--enable-metrics", flags.accepted, "always on; accepted for SGLang's scripts");
}

Result<server::LogLevel> log_level(const std::string& name) {
  using server::LogLevel;
  if (name == "debug") return LogLevel::kDebug;
  if (name == "info") return LogLevel::kInfo;
  if (name == "warning") return LogLevel::kWarning;
  if (name == "error") return LogLevel::kError;
  if (name == "off") return LogLevel::kOff;
  return fail(ErrorKind::kUsage, "--log-level {}: use debug, info, warning, error or off", name);
}

Result<void> in_range(const char* flag, double value, double low, double high) {
  if (value >= low && value <= high) return {};  // false for NaN too
  return fail(ErrorKind::kUsage, "{} {}: use {} to {}", flag, value, low, high);
}

Result<session::LoadOptions> load_options(const Flags& flags) {
  LS_TRY(session::LoadOptions options, flags.model.load_options());
  if (!options.synthetic.empty())
    return fail(ErrorKind::kUsage, "serve needs a tokenizer, which --synthetic weights lack");
  LS_TRY_VOID(in_range("--max-running-requests", static_cast<double>(flags.max_running), 1, 4096));
  LS_TRY_VOID(in_range("--max-queued-requests", static_cast<double>(flags.max_queued), -1, 1e9));
  LS_TRY_VOID(in_range("--max-total-tokens", static_cast<double>(flags.max_total_tokens), 0, 1e12));
  options.max_running = flags.max_running;
  options.max_queued = flags.max_queued;
  options.max_total_tokens = flags.max_total_tokens;
  options.prefix_cache = !flags.disable_prefix_cache;
  if (flags.beside_share != -1 && !(flags.beside_share >= 0 && flags.beside_share <= 1e6))
    return fail(ErrorKind::kUsage, "--prefill-pause-share {}: use -1, or 0 to 1e6",
                flags.beside_share);
  options.beside_share = flags.beside_share;
  return options;
}

// The last part of the directory's real name: "models/glm-nano/" is glm-nano, "." is where we are.
std::string name_of(const std::string& model) {
  std::error_code ignored;
  const std::filesystem::path path = std::filesystem::weakly_canonical(model, ignored);
  return path.filename().empty() ? model : path.filename().string();
}

Result<server::ServerOptions> server_options(const Flags& flags) {
  server::ServerOptions options = flags.server;
  LS_TRY_VOID(in_range("--port", flags.port, 0, 65535));
  LS_TRY_VOID(in_range("--http-threads", options.io_threads, 1, 256));
  LS_TRY_VOID(in_range("--max-body-mib", flags.max_body_mib, 0.001, 4096));
  LS_TRY_VOID(in_range("--request-timeout", options.request_timeout, 0, 1e6));
  LS_TRY_VOID(in_range("--sse-keep-alive-seconds", options.keep_alive, 0.01, 1e6));
  LS_TRY_VOID(in_range("--drain-seconds", options.drain, 0, 1e6));
  options.port = static_cast<uint16_t>(flags.port);
  options.max_body_bytes = static_cast<uint64_t>(flags.max_body_mib * 1024 * 1024);
  options.app.api.served_model =
      flags.served_model_name.empty() ? name_of(flags.model.model) : flags.served_model_name;
  return options;
}

// Every open stream is a file descriptor.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

void greet(const server::Server& server, const server::ServerOptions& options) {
  const std::string key =
      options.app.api_key.empty() ? "" : " -H \"Authorization: Bearer $LONGSHORE_API_KEY\"";
  fmt::print(
      "longshore serves {0} on {1} (Ctrl-C stops it). Try:\n"
      "curl {1}/v1/chat/completions -H 'Content-Type: application/json'{2} "
      "-d '{{\"model\": \"{0}\", \"temperature\": 0, \"messages\": [{{\"role\": \"user\", "
      "\"content\": \"Compute 34 + 6.\"}}]}}'\n",
      options.app.api.served_model, server.address(), key);
  std::fflush(stdout);
}

Result<void> run(const Flags& flags) {
  LS_TRY(const session::LoadOptions load_with, load_options(flags));
  LS_TRY(server::ServerOptions options, server_options(flags));
  LS_TRY(const server::LogLevel level, log_level(flags.log_level));
  server::set_log_level(level);
  raise_descriptor_limit();
  LS_TRY(const std::unique_ptr<session::LoadedModel> loaded, load(load_with));
  if (flags.measure_dram) {
    LS_TRY(const double gbs, bench::dram_read_gbs(*loaded->pool, interrupt_token()));
    options.app.api.dram_bytes_per_second = gbs * 1e9;
  }
  LS_TRY(const std::unique_ptr<server::Server> server, server::Server::start(*loaded, options));
  greet(*server, options);
  using server::log;
  using server::LogLevel;
  log(LogLevel::kInfo, "serving {} on {}: {}, {} threads, latents in {}",
      options.app.api.served_model, server->address(), loaded->backend->name(),
      loaded->pool->size(), dtype_name(loaded->layout.latent_dtype));
  // The handler only sets a flag; a second signal ends the process there.
  while (!interrupt_token().cancelled() && !server->counters().fault)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const engine::EngineCounters counters = server->counters();
  if (counters.fault) log(LogLevel::kError, "the device failed: {}", counters.fault->message);
  log(LogLevel::kInfo, "stopping: {} requests run, {} wait; up to {} s for them", counters.running,
      counters.queued, options.drain);
  const bool finished = server->stop();
  log(LogLevel::kInfo, "stopped after {} requests", server->counters().finished);
  if (const int64_t left = server->open_connections(); left > 0) {
    // Their workers use the server and the model, so neither may go; the process can.
    log(LogLevel::kError, "{} requests are still being read: the process ends without them", left);
    std::fflush(nullptr);
    std::_Exit(report(
        counters.fault.value_or(Error{ErrorKind::kCancelled, "stopped with requests unfinished"})));
  }
  if (counters.fault) return tl::unexpected<Error>(*counters.fault);
  if (!finished)
    return fail(ErrorKind::kCancelled, "stopped with requests unfinished: see --drain-seconds");
  return loaded->close_routing();
}

}  // namespace

Run add_serve(CLI::App& command) {
  auto flags = std::make_shared<Flags>();
  flags->model.add_to(command);
  flags->model.add_speculation_to(command);
  add_http_flags(command, *flags);
  add_engine_flags(command, *flags);
  return [flags] {
    const auto done = run(*flags);
    return done ? 0 : report(done.error());
  };
}

}  // namespace longshore::cli
