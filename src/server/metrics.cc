#include "server/metrics.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <sstream>

#include "server/registrar.h"

namespace longshore::server {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using Buckets = Registrar::Buckets;
using Clock = std::chrono::steady_clock;

const Buckets kFirstToken = {.1, .2, .4, .6, .8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400};
const Buckets kEndToEnd = {.1, .2, .4, .6, .8,  1,   2,   4,   6,    8,    10,
                           20, 40, 60, 80, 100, 200, 400, 600, 1200, 1800, 2400};
const Buckets kInterToken = {.002, .004, .006, .008, .01, .015, .02, .025, .03, .035, .04, .06,
                             .08,  .1,   .2,   .4,   .6,  .8,   1,   2,    4,   6,    8};

double seconds(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}
double as_double(int64_t value) {
  return static_cast<double>(value);
}

constexpr const char* kTtftHelp = "Seconds from the arrival of a request to its first token.";
constexpr const char* kE2eHelp = "Seconds from the arrival of a request to its last token.";
constexpr const char* kGeneratedHelp = "Tokens generated.";
constexpr const char* kPagesHelp =
    "Pages of the cache: of running requests, of known prefixes alone, free.";
constexpr const char* kPageBytesHelp = "Bytes of one page, all layers.";
constexpr const char* kStepTokensHelp =
    "Tokens of forward passes: one per decoding request, chunks.";
constexpr const char* kStepHelp = "Seconds of the engine's steps, by part.";

// What differs between streaming and not.
struct PerMode {
  PerMode(Registrar& r, const char* streaming)
      : first_token(r.histogram("time_to_first_token_seconds", kTtftHelp, kFirstToken,
                                {{"is_streaming", streaming}})),
        end_to_end(r.histogram("e2e_request_latency_seconds", kE2eHelp, kEndToEnd,
                               {{"is_streaming", streaming}})),
        generated(
            r.counter("generation_tokens_total", kGeneratedHelp, {{"is_streaming", streaming}})) {}
  Histogram& first_token;
  Histogram& end_to_end;
  Counter& generated;
};

// Tokens per second over the last second or more of work; 0 after two idle seconds.
class Throughput {
 public:
  void add(int64_t tokens) {
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    if (now - last_ > std::chrono::seconds(2)) {  // after a pause: a new window
      since_ = now;
      tokens_ = 0;
    }
    last_ = now;
    tokens_ += tokens;
    if (const double elapsed = seconds(now - since_); elapsed >= 1) {
      rate_ = as_double(tokens_) / elapsed;
      since_ = now;
      tokens_ = 0;
    }
  }
  [[nodiscard]] double rate() const {
    const std::lock_guard lock(mutex_);
    return Clock::now() - last_ > std::chrono::seconds(2) ? 0 : rate_;
  }

 private:
  mutable std::mutex mutex_;
  Clock::time_point since_;
  Clock::time_point last_;
  int64_t tokens_ = 0;
  double rate_ = 0;
};

}  // namespace

struct Metrics::Impl {
  explicit Impl(const std::string& model_name) : r(model_name) {}

  Registrar r;
  Gauge& running = r.gauge("num_running_reqs", "Requests that are being computed.");
  Gauge& queued = r.gauge("num_queue_reqs", "Requests that wait.");
  Gauge& token_usage = r.gauge("token_usage", "Part of the cache that requests use, 0 to 1.");
  Gauge& used_tokens = r.gauge("kv_used_tokens", "Cache slots, in tokens, that requests use.");
  Gauge& hit_rate =
      r.gauge("cache_hit_rate", "Part of the prompt found in the prefix cache, latest prefill.");
  Gauge& throughput = r.gauge("gen_throughput", "Tokens generated per second.");
  Gauge& max_running = r.gauge("max_running_requests", "Requests that one step may compute.");
  Gauge& used_pages = r.gauge("kv_pages", kPagesHelp, {{"state", "used"}});
  Gauge& cached_pages = r.gauge("kv_pages", kPagesHelp, {{"state", "cached"}});
  Gauge& free_pages = r.gauge("kv_pages", kPagesHelp, {{"state", "free"}});
  Gauge& latent_bytes = r.gauge("kv_page_bytes", kPageBytesHelp, {{"part", "latent"}});
  Gauge& index_bytes = r.gauge("kv_page_bytes", kPageBytesHelp, {{"part", "index"}});
  Gauge& connections = r.gauge("num_open_connections", "Connections of clients.");
  Counter& prompt_tokens =
      r.counter("prompt_tokens_total", "Prompt tokens computed or found in the cache.");
  Counter& cached_tokens = r.counter("cached_tokens_total", "Prompt tokens found in the cache.",
                                     {{"cache_source", "device"}});
  Counter& prefix_queries =
      r.counter("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.");
  Counter& prefix_hits =
      r.counter("prefix_cache_hits_total", "Prompt tokens found in the prefix cache.");
  Counter& retracted =
      r.counter("num_retracted_requests_total", "Times a request gave its pages to an older one.");
  Counter& requests = r.counter("num_requests_total", "Requests that ended.");
  Counter& aborted =
      r.counter("num_aborted_requests_total", "Of these, cancelled, late or failed.");
  Counter& refused =
      r.counter("num_refused_requests_total", "Requests answered 429: the queue was full.");
  Counter& steps = r.counter("num_steps_total", "Forward passes.");
  Counter& decoded = r.counter("step_tokens_total", kStepTokensHelp, {{"kind", "decode"}});
  Counter& prefilled = r.counter("step_tokens_total", kStepTokensHelp, {{"kind", "prefill"}});
  Counter& plan = r.counter("step_seconds_total", kStepHelp, {{"part", "plan"}});
  Counter& forward = r.counter("step_seconds_total", kStepHelp, {{"part", "forward"}});
  Counter& pass = r.counter("prefill_pass_seconds_total",
                            "Seconds of prompts' passes that pause for those who decode, without "
                            "theirs; also in step_seconds_total, part forward.");
  Counter& pass_layers = r.counter("prefill_pass_layers_total", "Layers of these passes.");
  Counter& beside =
      r.counter("prefill_pass_decode_steps_total", "Steps of those who decode in their pauses.");
  Counter& beside_seconds =
      r.counter("prefill_pass_decode_seconds_total",
                "Seconds until these steps' tokens, from the ones before or the pass's begin.");
  Counter& sample = r.counter("step_seconds_total", kStepHelp, {{"part", "sample"}});
  Counter& deliver = r.counter("step_seconds_total", kStepHelp, {{"part", "deliver"}});
  Gauge& accept_length = r.gauge("spec_accept_length",
                                 "Tokens of a speculating request's step, its own one included.");
  Gauge& accept_rate = r.gauge("spec_accept_rate", "Part of the drafted tokens that were right.");
  Gauge& draft_steps = r.gauge("spec_num_steps", "Depth of the drafts in the last step, 0: none.");
  Counter& drafts =
      r.counter("spec_decode_num_drafts_total", "Times that a request's next tokens were drafted.");
  Counter& draft_tokens =
      r.counter("spec_decode_num_draft_tokens_total", "Drafted tokens that were verified.");
  Counter& accepted_tokens =
      r.counter("spec_decode_num_accepted_tokens_total", "Of these, right ones.");
  Counter& draft_seconds = r.counter("step_seconds_total", kStepHelp, {{"part", "draft"}});
  Histogram& inter_token = r.histogram("inter_token_latency_seconds",
                                       "Seconds between tokens of a request.", kInterToken);
  Histogram& queue_time =
      r.histogram("request_queue_time_seconds", "Seconds that a request waited.", kFirstToken);
  PerMode whole{r, "False"};
  PerMode streaming{r, "True"};
  Throughput rate;

  PerMode& mode(bool streams) { return streams ? streaming : whole; }
};

Metrics::Metrics(const std::string& model_name) : impl_(std::make_unique<Impl>(model_name)) {}
Metrics::~Metrics() = default;

void Metrics::on_step(const engine::StepReport& report) {
  Impl& m = *impl_;
  m.steps.Increment(as_double(report.passes));
  m.decoded.Increment(as_double(report.decode_tokens));
  m.prefilled.Increment(as_double(report.prefill_tokens));
  m.prompt_tokens.Increment(as_double(report.prefill_tokens + report.prefix_hits));
  m.cached_tokens.Increment(as_double(report.prefix_hits));
  m.prefix_queries.Increment(as_double(report.prefix_queries));
  m.prefix_hits.Increment(as_double(report.prefix_hits));
  m.retracted.Increment(as_double(report.preempted));
  m.draft_seconds.Increment(report.draft_seconds);
  int64_t right = 0;
  for (const int64_t accepted : report.accepted) right += accepted;
  if (!report.drafted.empty()) m.drafts.Increment(as_double(report.drafted[0]));
  m.draft_tokens.Increment(as_double(report.draft_rows));
  m.accepted_tokens.Increment(as_double(right));
  m.plan.Increment(report.plan_seconds);
  m.forward.Increment(report.forward_seconds + report.pass_seconds);
  m.pass.Increment(report.pass_seconds);
  m.pass_layers.Increment(as_double(report.pass_layers));
  if (report.beside_seconds > 0) m.beside.Increment();
  m.beside_seconds.Increment(report.beside_seconds);
  m.sample.Increment(report.sample_seconds);
  m.deliver.Increment(report.deliver_seconds);
  if (report.prefix_queries > 0)
    m.hit_rate.Set(as_double(report.prefix_hits) / as_double(report.prefix_queries));
}

std::string Metrics::render(const engine::EngineCounters& counters, const ServingFacts& facts) {
  Impl& m = *impl_;
  const int64_t used = counters.pages - counters.free_pages - counters.cached_pages;
  m.running.Set(as_double(counters.running));
  m.queued.Set(as_double(counters.queued));
  m.token_usage.Set(counters.pages > 0 ? as_double(used) / as_double(counters.pages) : 0);
  m.used_tokens.Set(as_double(used * kernels::kPageTokens));
  m.max_running.Set(as_double(facts.max_running));
  m.used_pages.Set(as_double(used));
  m.cached_pages.Set(as_double(counters.cached_pages));
  m.free_pages.Set(as_double(counters.free_pages));
  m.latent_bytes.Set(as_double(facts.latent_page_bytes));
  m.index_bytes.Set(as_double(facts.index_page_bytes));
  m.throughput.Set(m.rate.rate());
  m.draft_steps.Set(as_double(counters.draft_steps));
  if (counters.draft_rows > 0) {
    int64_t right = 0;
    for (size_t depth = 0; depth < counters.accepted.size(); ++depth) {
      right += counters.accepted[depth];
      m.r.gauge("spec_acceptance",
                "Part of the drafts at a depth that are right where those before are.",
                {{"depth", std::to_string(depth + 1)}})
          .Set(counters.acceptance[depth]);
    }
    m.r.gauge("spec_routing_overlap",
              "Part of its experts that a token is taken to share with the one before it.")
        .Set(counters.routing_overlap);
    m.accept_rate.Set(as_double(right) / as_double(counters.draft_rows));
    if (counters.drafted[0] > 0)
      m.accept_length.Set(1 + as_double(right) / as_double(counters.drafted[0]));
  }
  return m.r.render();
}

void Metrics::count_response(int status) {
  impl_->r
      .counter("http_responses_total", "Answers, by status.", {{"status", std::to_string(status)}})
      .Increment();
}

void Metrics::connection_opened() {
  impl_->connections.Increment();
}
void Metrics::connection_closed() {
  impl_->connections.Decrement();
}
void Metrics::count_refused() {
  impl_->refused.Increment();
}

ChoiceTimer::ChoiceTimer(Metrics& metrics, bool streams, Clock::time_point arrival)
    : impl_(metrics.impl_.get()), streams_(streams), arrival_(arrival) {}

void ChoiceTimer::on_start(const engine::GenerationStats& stats) {
  impl_->queue_time.Observe(stats.queue_seconds);
}

void ChoiceTimer::on_token() {
  const auto now = Clock::now();
  PerMode& mode = impl_->mode(streams_);
  if (has_token_) {
    impl_->inter_token.Observe(seconds(now - last_token_));
  } else {
    mode.first_token.Observe(seconds(now - arrival_));
  }
  mode.generated.Increment();
  impl_->rate.add(1);
  has_token_ = true;
  last_token_ = now;
}

void ChoiceTimer::on_finish(const session::Completion& completion) {
  impl_->requests.Increment();
  impl_->mode(streams_).end_to_end.Observe(seconds(Clock::now() - arrival_));
  const std::string& reason = completion.finish_reason;
  if (reason == "cancelled" || reason == "deadline" || reason == "error")
    impl_->aborted.Increment();
}

}  // namespace longshore::server
