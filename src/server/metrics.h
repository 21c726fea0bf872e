// What /metrics shows: Prometheus names with the prefix longshore:, SGLang's suffixes and buckets,
// label model_name.
//
// Filled from three sides: the engine's step reports, the choices' timestamps (ChoiceTimer), the
// connections. Gauges of the engine's state are taken when a scrape comes.
//
// Threading: any thread calls everything.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "engine/engine.h"
#include "session/completion.h"

namespace longshore::server {

// What does not change while the server runs.
struct ServingFacts {
  int64_t max_running = 0;        // sequences of one step
  int64_t latent_page_bytes = 0;  // of one page, all layers
  int64_t index_page_bytes = 0;
};

class Metrics {
 public:
  explicit Metrics(const std::string& model_name);
  ~Metrics();

  // After every step, on the engine's thread.
  void on_step(const engine::StepReport& report);
  // The text format, version 0.0.4.
  [[nodiscard]] std::string render(const engine::EngineCounters& counters,
                                   const ServingFacts& facts);
  static constexpr const char* kContentType = "text/plain; version=0.0.4; charset=utf-8";

  void count_response(int status);
  void connection_opened();
  void connection_closed();
  // A request refused because the queue was full.
  void count_refused();

 private:
  friend class ChoiceTimer;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The times of one completion: queue, first token, between tokens, end to end.
class ChoiceTimer {
 public:
  using Clock = std::chrono::steady_clock;
  // arrival: when the request had been read.
  ChoiceTimer(Metrics& metrics, bool streams, Clock::time_point arrival);

  void on_start(const engine::GenerationStats& stats);
  void on_token();
  void on_finish(const session::Completion& completion);

 private:
  Metrics::Impl* impl_;
  bool streams_;
  Clock::time_point arrival_;
  Clock::time_point last_token_;
  bool has_token_ = false;
};

}  // namespace longshore::server
