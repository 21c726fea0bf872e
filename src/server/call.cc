#include "server/call.h"

#include <utility>

#include "server/api/failure.h"

namespace longshore::server {
namespace {

size_t bytes_of(const session::Progress& progress) {
  size_t bytes = progress.text.size();
  for (const text::OutputDelta& delta : progress.deltas) bytes += sizeof(delta) + delta.text.size();
  if (progress.token)
    bytes += progress.token->top_logprobs.size() * sizeof(progress.token->top_logprobs[0]);
  return bytes;
}

}  // namespace

Call::Call(session::Service& service, std::unique_ptr<Exchange> exchange,
           const CallOptions& options, Notify notify)
    : service_(service),
      exchange_(std::move(exchange)),
      options_(options),
      streams_(exchange_->streams()),
      notify_(std::move(notify)) {}

ApiResult<std::shared_ptr<Call>> Call::start(session::Service& service, Metrics& metrics,
                                             std::unique_ptr<Exchange> exchange,
                                             const CallOptions& options, Notify notify) {
  const std::shared_ptr<Call> call(
      new Call(service, std::move(exchange), options, std::move(notify)));
  if (auto started = call->start_all(metrics); !started) {
    call->abandon();
    return tl::unexpected(std::move(started).error());
  }
  return call;
}

ApiResult<void> Call::start_all(Metrics& metrics) {
  std::vector<session::CompletionRequest> requests = exchange_->take_requests();
  choices_.reserve(requests.size());  // sinks hold references
  for (size_t i = 0; i < requests.size(); ++i) {
    choices_.push_back({ChoiceTimer(metrics, streams_, options_.arrival), std::nullopt});
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    if (options_.timeout_seconds > 0) {
      requests[i].generation.deadline =
          options_.arrival + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                                 std::chrono::duration<double>(options_.timeout_seconds));
    }
    auto id = service_.start(std::move(requests[i]), make_sink(i));
    if (!id) {
      if (id.error().kind == ErrorKind::kBusy) metrics.count_refused();
      return tl::unexpected(api_error(id.error()));
    }
    ids_.push_back(*id);
  }
  return {};
}

session::CompletionSink Call::make_sink(size_t choice) {
  const auto self = shared_from_this();
  session::CompletionSink sink;
  sink.on_start = [self, choice](const engine::GenerationStats& stats) {
    self->choices_[choice].timer.on_start(stats);
    self->push({choice, stats});
  };
  sink.on_progress = [self, choice](const session::Completion&, session::Progress& progress) {
    if (progress.token) self->choices_[choice].timer.on_token();
    if (self->streams_ && !self->stopped_.load()) self->push({choice, std::move(progress)});
    return !self->stopped_.load();
  };
  sink.on_finish = [self, choice](session::Completion completion) {
    if (self->stopped_.load())
      completion.finish_reason = "cancelled";  // on_progress may have been faster than cancel()
    self->choices_[choice].timer.on_finish(completion);
    self->push({choice, std::make_unique<session::Completion>(std::move(completion))});
  };
  return sink;
}

// Engine's thread.
void Call::push(Event event) {
  const std::lock_guard lock(mutex_);
  if (!notify_) return;  // abandoned
  const auto* progress = std::get_if<session::Progress>(&event.what);
  const size_t bytes = sizeof(Event) + (progress != nullptr ? bytes_of(*progress) : 0);
  const News news = progress != nullptr ? News::kToken : News::kEnd;
  if (progress != nullptr && pending_ + bytes > options_.pending_bytes) {
    overflowed_.store(true);
    stopped_.store(true);
  } else {
    pending_ += bytes;
    events_.push_back(std::move(event));
  }
  // Later tokens are taken together with the first one.
  if (overflowed_.load()) {
    notify_(News::kEnd);
  } else if (events_.size() == 1 || news == News::kEnd) {
    notify_(news);
  }
}

Call::Output Call::take(bool wrote) {
  std::vector<Event> events;
  {
    const std::lock_guard lock(mutex_);
    events.swap(events_);
    pending_ = 0;
  }
  Output output;
  for (Event& event : events) {
    if (done_ || failure_) break;
    handle(event, output.bytes);
  }
  if (failure_ && !done_) {
    done_ = true;
    cancel_all();
    if (wrote) {
      output.bytes += exchange_->failed(*failure_);
    } else {
      output.bytes.clear();
      output.failure = failure_;
    }
  }
  output.done = done_;
  return output;
}

void Call::handle(Event& event, std::string& out) {
  if (const auto* stats = std::get_if<engine::GenerationStats>(&event.what)) {
    summary_.prompt_tokens += stats->prompt_tokens;
    summary_.cached_tokens += stats->cached_tokens;
    if (!begun_ && streams_) out += exchange_->begin(*stats);
    begun_ = true;
  } else if (const auto* progress = std::get_if<session::Progress>(&event.what)) {
    out += exchange_->progress(event.choice, *progress);
  } else {
    finish(event.choice, std::move(*std::get<2>(event.what)), out);
  }
}

void Call::finish(size_t choice, session::Completion completion, std::string& out) {
  summary_.output_tokens += completion.stats.output_tokens;
  summary_.finish_reason = completion.finish_reason;
  if (auto failure = failure_of(completion)) {
    failure_ = std::move(failure);
    return;
  }
  if (streams_) out += exchange_->finished(choice, completion);
  choices_[choice].completion = std::move(completion);
  if (++finished_ < choices_.size()) return;
  done_ = true;
  if (streams_) return;
  std::vector<session::Completion> completions;
  for (Choice& each : choices_) completions.push_back(std::move(*each.completion));
  out = exchange_->response(completions);
}

void Call::fail(const ApiError& error) {
  if (!failure_) failure_ = error;
  cancel_all();
}

void Call::abandon() {
  {
    const std::lock_guard lock(mutex_);
    notify_ = nullptr;
    events_.clear();
  }
  if (!done_) cancel_all();
}

void Call::cancel_all() {
  stopped_.store(true);
  for (const engine::RequestId id : ids_) service_.cancel(id);
}

}  // namespace longshore::server
